//! The report of a run, as JSON.

use crate::ddp::{Ddp, parameters_sha256};
use crate::error::{Error, Result};
use crate::observe::History;
use burn::module::Module;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt;

/// Report of a run, as JSON: the figures that every program has, and the program's own.
///
/// | name | value |
/// |---|---|
/// | `world_size`, `epochs` | numbers of ranks and of epochs |
/// | `train_loss`, ... | the last epoch's means, by their names |
/// | `train_seconds`, `samples_per_second`, `sync_wait_fraction` | of all epochs |
/// | `parameters_sha256` | checksum of the parameters |
/// | `crossovers` | sizes at which operations between processes change their algorithm; none in one process |
/// | `replicas_identical` | true if all ranks have the same parameters and buffers |
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Report(Map<String, Value>);

impl Report {
    /// Sums a run up. Every rank calls it.
    ///
    /// # Errors
    /// As [`Ddp::verify_replicas`], but for replicas that differ.
    pub fn new<M: Module, const N: usize>(
        ddp: &Ddp,
        model: &M,
        history: &History<N>,
    ) -> Result<Self> {
        let identical = match ddp.verify_replicas(model) {
            Err(Error::ReplicasDiffer { .. }) => false,
            outcome => outcome.map(|_| true)?,
        };
        let total = history.total();
        let mut report = Self(Map::new())
            .with_value("world_size", history.world_size())
            .with_value("epochs", history.epochs().len())
            .with_value("train_seconds", total.seconds)
            .with_value("samples_per_second", total.samples_per_second())
            .with_value("sync_wait_fraction", total.sync_wait_fraction())
            .with_value("parameters_sha256", parameters_sha256(model)?)
            .with_value("replicas_identical", identical);
        if let Some(crossovers) = ddp.crossovers() {
            let value = serde_json::to_value(crossovers).map_err(|error| Error::Observe {
                what: "writing the report of",
                place: "the crossovers".into(),
                message: error.to_string(),
            })?;
            report = report.with_value("crossovers", value);
        }
        for (name, mean) in history
            .epochs()
            .last()
            .iter()
            .flat_map(|epoch| &epoch.means)
        {
            report = report.with_value(&format!("train_{name}"), *mean);
        }
        Ok(report)
    }

    /// Adds a value, in place of one with the same name. A number that is not finite becomes `null`.
    #[must_use]
    pub fn with_value(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Refuses a run whose replicas differ, which is a defect.
    pub(super) fn check(&self) -> Result<()> {
        if *self.value("replicas_identical") != false {
            return Ok(());
        }
        Err(Error::Observe {
            what: "the run ended with",
            place: "replicas that differ".into(),
            message: "this is a defect, please report it".into(),
        })
    }

    /// Returns a value; `null` if there is none of this name.
    pub fn value(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }
}

/// Writes a line for each value.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let end = if at == 0 { "" } else { "\n" };
            write!(f, "{end}{} {value}", name.replace('_', " "))?;
        }
        Ok(())
    }
}
