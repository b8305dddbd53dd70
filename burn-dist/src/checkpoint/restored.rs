//! What was saved, given back to each rank.

use super::failed;
use super::manifest::{Manifest, record_file};
use super::state::{self, OfRank, Settings, Shared};
use super::{RANKS, STATE};
use crate::data::SamplerState;
use crate::error::{Error, Result};
use crate::random;
use burn::lr_scheduler::LrSchedulerRecord;
use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Bytes;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No tensor's elements need a larger alignment.
const ALIGNMENT: usize = align_of::<u128>();

/// A checkpoint that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its directory.
    pub path: PathBuf,
    /// Reason why it can't be used.
    pub reason: String,
}

/// A checkpoint that a run goes on from: equal on all ranks, but for what is each rank's own.
///
/// Records are taken out, each once. See [`CheckpointConfig`](super::CheckpointConfig) for the order in
/// which a program restores.
#[derive(Debug)]
pub struct Restored {
    path: Arc<Path>,
    manifest: Manifest,
    rejected: Vec<Rejected>,
    records: HashMap<String, Bytes>,
    shared: Shared,
    own: OfRank,
}

impl Restored {
    /// Takes the files of a checkpoint apart, as the manifest names them, for one rank.
    pub(super) fn new(
        path: Arc<Path>,
        manifest: Manifest,
        files: Vec<Vec<u8>>,
        rejected: Vec<Rejected>,
        rank: usize,
    ) -> Result<Self> {
        let names = manifest.files.iter().map(|entry| entry.name.clone());
        let mut files: HashMap<String, Vec<u8>> = names.zip(files).collect();
        let mut take = |name: &str| {
            let wrong = || failed(&path, format!("it has no {name}"));
            files.remove(name).ok_or_else(wrong)
        };
        let (shared, ranks) = (take(STATE)?, take(RANKS)?);
        let wrong = |name: &'static str, path: &Path| {
            let path = path.to_owned();
            move |error: String| failed(&path, format!("{name} can't be understood: {error}"))
        };
        let shared = state::decode(&shared).map_err(wrong(STATE, &path))?;
        let mut ranks: Vec<OfRank> = state::decode(&ranks).map_err(wrong(RANKS, &path))?;
        if rank >= ranks.len() {
            return Err(failed(&path, format!("it has nothing of rank {rank}")));
        }
        Ok(Self {
            path,
            manifest,
            rejected,
            records: files
                .into_iter()
                .map(|(name, file)| (name, aligned(&file)))
                .collect(),
            shared,
            own: ranks.swap_remove(rank),
        })
    }

    /// Refuses to go on with other settings than those of the run that saved the checkpoint.
    pub(super) fn check_settings(&self, ours: &Settings) -> Result<()> {
        let theirs = &self.shared.settings;
        let value = |of: &Settings, name: &str| {
            let found = of.iter().find(|(known, _)| known == name);
            found.map_or("not set".to_owned(), |(_, value)| format!("{value:?}"))
        };
        let dropped = theirs
            .iter()
            .filter(|(name, _)| !ours.iter().any(|(known, _)| known == name));
        let differences: Vec<String> = ours
            .iter()
            .chain(dropped)
            .map(|(name, _)| (name, value(theirs, name), value(ours, name)))
            .filter(|(_, theirs, ours)| theirs != ours)
            .map(|(name, theirs, ours)| format!("{name}: expected {theirs}, got {ours}"))
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        let message = format!(
            "it is of a run with other settings, and would not go on as it began: {}; resume with the same \
             settings, or begin in another folder",
            differences.join(", ")
        );
        Err(failed(&self.path, message))
    }

    /// The step after which it was saved.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Its directory, on the machine of rank 0.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Newer checkpoints that are damaged, and were passed over for this one.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// Gives a model the parameters and buffers that were saved under this name. Do it before
    /// [`Ddp::attach`](crate::ddp::Ddp::attach).
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if there is no such record, or it is of another model.
    pub fn model<M: Module>(&mut self, name: &str, model: M) -> Result<M> {
        let record = ModuleRecord::from_bytes(self.record(name)?);
        let loaded = record.and_then(|record| model.try_load_record(record));
        loaded.map_err(|error| self.unfit(name, &error))
    }

    /// Gives an optimizer the state that was saved under this name. It belongs to the parameters of the
    /// model that was saved with it.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if there is no such record, or it is of another kind of optimizer.
    pub fn optimizer(&mut self, name: &str, optimizer: ModuleOptimizer) -> Result<ModuleOptimizer> {
        let record = OptimizerRecord::from_bytes(self.record(name)?);
        let record = record.map_err(|error| self.unfit(name, &error))?;
        let saved = record.len();
        let optimizer = optimizer.load_record(record);
        // Burn leaves out what the optimizer can't use, and the parameters would begin anew.
        let taken = optimizer.to_record().len();
        if taken == saved {
            return Ok(optimizer);
        }
        let message = format!(
            "the optimizer `{name}` takes {taken} of the {saved} tensors that were saved; resume with \
             an optimizer of the same kind and configuration"
        );
        Err(failed(&self.path, message))
    }

    /// The record of a learning rate scheduler: give it to the scheduler's `load_record`.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if there is no such record.
    pub fn scheduler(&mut self, name: &str) -> Result<LrSchedulerRecord> {
        let record = LrSchedulerRecord::from_bytes(self.record(name)?);
        record.map_err(|error| self.unfit(name, &error))
    }

    /// Returns the position in the data, for [`ShardedLoader::resume`](crate::data::ShardedLoader::resume).
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if none was saved.
    pub fn sampler(&self) -> Result<SamplerState> {
        let wrong = || failed(&self.path, "it has no sampler's state");
        self.shared.sampler.ok_or_else(wrong)
    }

    /// Lets the calling thread's random stream go on where this rank's was.
    pub fn random(&self) {
        random::restore(&self.own.stream);
    }

    /// A value that rank 0 saved for all.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if there is none of this name and type.
    pub fn shared<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        state::get(&self.shared.values, name).map_err(|message| failed(&self.path, message))
    }

    /// A value that this rank saved for itself.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`] if there is none of this name and type.
    pub fn own<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        state::get(&self.own.values, name).map_err(|message| failed(&self.path, message))
    }

    fn record(&mut self, name: &str) -> Result<Bytes> {
        let file = record_file(name).map_err(|message| failed(&self.path, message))?;
        self.records.remove(&file).ok_or_else(|| {
            let message = format!("it has no record `{name}`, or it was taken already");
            failed(&self.path, message)
        })
    }

    fn unfit(&self, name: &str, error: &RecordError) -> Error {
        let message = format!("the record `{name}` does not fit: {error}");
        failed(&self.path, message)
    }
}

/// The bytes of a file where tensors may lie in them.
fn aligned(file: &[u8]) -> Bytes {
    let mut bytes = Bytes::from_elems(Vec::<u128>::new());
    bytes.extend_from_byte_slice_aligned(file, ALIGNMENT);
    bytes
}
