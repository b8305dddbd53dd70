//! What is saved, as every rank collects it.

use super::manifest::record_file;
use super::state::{self, OfRank, Shared, Values};
use crate::data::SamplerState;
use crate::random;
use burn::lr_scheduler::LrSchedulerRecord;
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::store::RecordError;
use burn::tensor::Bytes;
use serde::Serialize;

/// The state of a run after a step. Every rank makes the same calls; what all ranks share is taken from
/// rank 0, and costs the others nothing.
///
/// The calling thread's stream of [`random`](crate::random) is part of it. Burn's own generators are not,
/// for they can't be read: a model that draws from those (with `burn::nn::Dropout`) goes on with other draws.
///
/// Take it right after a step of the optimizer. Gradients that add up for the next one, kept by
/// [`Ddp::no_sync`](crate::ddp::Ddp::no_sync) or by the program, are no part of it: saved in between, a run
/// would go on without them, though its data count them as seen.
#[derive(Debug)]
#[must_use = "a snapshot is on disk only once it is saved"]
pub struct Snapshot {
    pub(super) step: u64,
    /// True on rank 0.
    collects: bool,
    /// Names of files, and what is in them.
    pub(super) records: Vec<(String, Bytes)>,
    pub(super) shared: Shared,
    pub(super) own: OfRank,
    /// Reason why it can't be saved.
    pub(super) failed: Option<String>,
}

impl Snapshot {
    pub(super) fn new(step: u64, collects: bool) -> Self {
        Self {
            step,
            collects,
            records: Vec::new(),
            shared: Shared::default(),
            own: OfRank {
                stream: random::state(),
                values: Values::new(),
            },
            failed: None,
        }
    }

    /// Adds a model: its parameters and buffers, to the bit, under a name of letters, digits, `_` and `-`.
    ///
    /// Running statistics are rank 0's, as after [`Ddp::attach`](crate::ddp::Ddp::attach).
    pub fn with_model<M: Module>(self, name: &str, model: &M) -> Self {
        self.record(name, || model.valid().into_record().into_bytes())
    }

    /// Adds an optimizer's state.
    pub fn with_optimizer(self, name: &str, optimizer: &ModuleOptimizer) -> Self {
        self.record(name, || optimizer.into_bytes())
    }

    /// Adds a learning rate scheduler: what its `to_record` gives.
    pub fn with_scheduler(self, name: &str, scheduler: LrSchedulerRecord) -> Self {
        self.record(name, || scheduler.into_bytes())
    }

    /// Adds where the data stand: what [`ShardedLoader::state`](crate::data::ShardedLoader::state) gives.
    pub fn with_sampler(mut self, state: SamplerState) -> Self {
        self.shared.sampler = Some(state);
        self
    }

    /// Adds a value that is equal on all ranks, nested up to 61 levels deep.
    pub fn with_shared<T: Serialize>(mut self, name: &str, value: &T) -> Self {
        if self.collects {
            let put = state::put(&mut self.shared.values, name, value);
            self.note(put);
        }
        self
    }

    /// Adds a value that is each rank's own, nested up to 61 levels deep. Those of all ranks together may
    /// take 256 MiB.
    pub fn with_own<T: Serialize>(mut self, name: &str, value: &T) -> Self {
        let put = state::put(&mut self.own.values, name, value);
        self.note(put);
        self
    }

    fn record(mut self, name: &str, bytes: impl FnOnce() -> Result<Bytes, RecordError>) -> Self {
        if self.collects {
            let added = self.add(name, bytes);
            self.note(added);
        }
        self
    }

    fn add(
        &mut self,
        name: &str,
        bytes: impl FnOnce() -> Result<Bytes, RecordError>,
    ) -> Result<(), String> {
        let file = record_file(name)?;
        if self.records.iter().any(|(taken, _)| *taken == file) {
            return Err(format!("two records are called `{name}`"));
        }
        let bytes = bytes().map_err(|error| format!("the record `{name}`: {error}"))?;
        self.records.push((file, bytes));
        Ok(())
    }

    /// Keeps the first failure; `save` tells it, so that all ranks hear of it.
    fn note(&mut self, result: Result<(), String>) {
        if let Err(message) = result {
            self.failed.get_or_insert(message);
        }
    }
}
