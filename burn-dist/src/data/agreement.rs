//! The comparison of the ranks' loaders when a pass begins. Where settings differ, samples would come twice or
//! never.

use super::plan::{Remainder, SamplerState};
use super::sampler::{describe, invalid};
use crate::error::{Ranks, Result};
use crate::group::ProcessGroup;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Settings that choose the samples of a pass. (The number of workers does not.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PassSettings {
    pub(super) state: SamplerState,
    pub(super) batch_size: u64,
    pub(super) remainder: Remainder,
}

impl PassSettings {
    /// Compares this rank's with those of the others. Every rank of the group calls it.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data), on every rank, with the ranks and their values; the group's own.
    pub(super) fn compare(&self, group: &ProcessGroup) -> Result<()> {
        let all: Vec<Self> = group.objects().all_gather(self)?;
        match differences(&all, group.ranks()) {
            None => Ok(()),
            Some(differences) => Err(invalid(format!(
                "the ranks' loaders differ where a pass begins: {differences}; build them on every rank from \
                 the same data set with the same settings, and begin the same passes on every rank (also those \
                 that only look at a batch)"
            ))),
        }
    }

    /// Returns the compared values with their names.
    fn values(&self) -> [(&'static str, String); 6] {
        let SamplerState {
            dataset_len,
            seed,
            epoch,
            consumed,
        } = self.state;
        [
            ("data set", format!("{dataset_len} samples")),
            ("order", describe(seed)),
            ("epoch", epoch.to_string()),
            ("place in the epoch", format!("after {consumed} samples")),
            ("batch size", self.batch_size.to_string()),
            ("remainder", format!("{:?}", self.remainder)),
        ]
    }
}

/// The values that are not equal on all ranks, with the ranks that have them.
fn differences(all: &[PassSettings], ranks: &[usize]) -> Option<String> {
    let all: Vec<_> = all.iter().map(PassSettings::values).collect();
    let mut text = String::new();
    for field in 0..all.first()?.len() {
        let mut values: Vec<(&str, Vec<usize>)> = Vec::new();
        for (fields, &rank) in all.iter().zip(ranks) {
            let value = fields[field].1.as_str();
            match values.iter_mut().find(|(known, _)| *known == value) {
                Some((_, ranks)) => ranks.push(rank),
                None => values.push((value, vec![rank])),
            }
        }
        if values.len() == 1 {
            continue;
        }
        let values: Vec<String> = values
            .iter()
            .map(|(value, ranks)| format!("{value} on {}", Ranks(ranks)))
            .collect();
        let separator = if text.is_empty() { "" } else { "; " };
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "{separator}{}: {}",
            all[0][field].0,
            values.join(", ")
        );
    }
    (!text.is_empty()).then_some(text)
}
