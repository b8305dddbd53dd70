//! Checkpoints of the loop: what it saves with the model, and where it goes on.

use crate::options::Options;
use crate::progress::say;
use crate::training::Epoch;
use burn::data::dataset::{Dataset, DatasetError};
use burn::optim::ModuleOptimizer;
use burn_dist::checkpoint::{CheckpointConfig, Checkpoints, Restored};
use burn_dist::data::ShardedLoader;
use burn_dist::launch::Worker;
use datasets::{MnistBatch, MnistDataset, MnistItem};
use models::MnistCnn;
use serde::{Deserialize, Serialize};
use std::error::Error;

type Failure = Box<dyn Error + Send + Sync>;

/// What a run must have in common with the one it goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flags {
    epochs: u32,
    batch_size: u32,
    lr: f64,
    seed: u64,
    /// Equal flags may name other digits than before, and as many.
    digits_checksum: u64,
}

/// FNV-1a of all images and labels in their order. It tells data apart, and is no proof against forgers.
fn checksum(digits: &MnistDataset) -> Result<u64, DatasetError> {
    let mut hash: u64 = 0xCBF2_9CE4_8422_2325;
    for item in digits.iter() {
        let MnistItem { image, label } = item?;
        let bytes = image.into_iter().chain([label]);
        hash = bytes.fold(hash, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
    }
    Ok(hash)
}

/// The figures so far, equal on all ranks but for the time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// The epochs that are over.
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) seconds: f64,
}

/// What a rank has counted in an epoch.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// The sum over the samples.
    pub(crate) loss: f32,
    pub(crate) correct: i64,
    pub(crate) samples: usize,
    pub(crate) seconds: f64,
    pub(crate) waited: f64,
}

/// Where the loop begins.
pub(crate) struct Start {
    pub(crate) model: MnistCnn,
    pub(crate) optimizer: ModuleOptimizer,
    /// The steps that are done.
    pub(crate) step: u64,
    pub(crate) figures: Figures,
    /// Those of the epoch that is under way.
    pub(crate) counts: Counts,
}

/// The checkpoints that the flags ask for, if they do.
pub(crate) struct Keeper {
    checkpoints: Option<Checkpoints>,
    every: u64,
    flags: Flags,
}

impl Keeper {
    pub(crate) fn open(
        worker: &Worker,
        options: &Options,
        digits: &MnistDataset,
    ) -> Result<(Self, Option<Restored>), Failure> {
        let opened = options.checkpoint.as_ref().map(|folder| {
            CheckpointConfig::new(folder.clone())
                .with_keep(options.keep as usize)
                .with_resume(options.resume)
                .init(worker.group())
        });
        let (checkpoints, restored) = opened.transpose()?.unzip();
        let restored = restored.flatten();
        if worker.rank() == 0 && options.resume {
            match &restored {
                Some(restored) => say(format_args!(
                    "going on after step {}, from {}",
                    restored.step(),
                    restored.path().display()
                )),
                None => say("there is no checkpoint yet: starting from the beginning"),
            }
        }
        // Without checkpoints nothing is compared.
        let digits_checksum = if checkpoints.is_some() {
            checksum(digits)?
        } else {
            0
        };
        let keeper = Self {
            checkpoints,
            every: u64::from(options.checkpoint_every),
            flags: Flags {
                epochs: options.epochs,
                batch_size: options.batch_size,
                lr: options.lr,
                seed: options.seed,
                digits_checksum,
            },
        };
        Ok((keeper, restored))
    }

    /// Where to begin: with this model and optimizer, or as they were saved.
    pub(crate) fn start(
        &self,
        restored: Option<Restored>,
        model: MnistCnn,
        optimizer: ModuleOptimizer,
        loader: &ShardedLoader<MnistBatch>,
    ) -> Result<Start, Failure> {
        let Some(mut restored) = restored else {
            return Ok(Start {
                model,
                optimizer,
                step: 0,
                figures: Figures::default(),
                counts: Counts::default(),
            });
        };
        let flags: Flags = restored.shared("flags")?;
        if flags != self.flags {
            let ours = &self.flags;
            return Err(format!(
                "the checkpoint is of a run with other flags or digits, and would not go on as it began: \
                 {flags:?} there, {ours:?} here"
            )
            .into());
        }
        loader.resume(&restored.sampler()?)?;
        restored.random();
        Ok(Start {
            model: restored.model("model", model)?,
            optimizer: restored.optimizer("optimizer", optimizer)?,
            step: restored.step(),
            figures: restored.shared("figures")?,
            counts: restored.own("counts")?,
        })
    }

    /// Whether there is to be a checkpoint after this step; the last one of a run always is.
    pub(crate) fn is_due(&self, step: u64, last: bool) -> bool {
        self.checkpoints.is_some() && (last || step.is_multiple_of(self.every))
    }

    /// Saves. A disk that does not let us is a warning, and training goes on; [`Self::finish`] tells how the last
    /// checkpoint fared.
    pub(crate) fn save(
        &mut self,
        step: u64,
        (model, optimizer): (&MnistCnn, &ModuleOptimizer),
        loader: &ShardedLoader<MnistBatch>,
        figures: &Figures,
        counts: Counts,
    ) -> Result<(), Failure> {
        if let Some(checkpoints) = &mut self.checkpoints {
            let snapshot = checkpoints
                .snapshot(step)
                .with_model("model", model)
                .with_optimizer("optimizer", optimizer)
                .with_sampler(loader.state())
                .with_shared("flags", &self.flags)
                .with_shared("figures", figures)
                .with_own("counts", &counts);
            checkpoints.save(snapshot)?;
        }
        Ok(())
    }
    /// Returns why the run is not a whole one: it was interrupted, for this reason, or its last checkpoint is not on
    /// disk.
    pub(crate) fn finish(self, interrupted: Option<String>) -> Result<Option<String>, Failure> {
        let Some(checkpoints) = self.checkpoints else {
            return Ok(interrupted);
        };
        let lost = match checkpoints.finish() {
            Ok(()) => None,
            Err(lost @ burn_dist::Error::Checkpoint { .. }) => {
                Some(format!("the last checkpoint is not on disk: {lost}"))
            }
            Err(error) => return Err(error.into()),
        };
        Ok(match (interrupted, lost) {
            (Some(why), None) => Some(format!("{why}; --resume goes on from there")),
            (Some(why), Some(lost)) => Some(format!("{why}; {lost}")),
            (None, lost) => lost,
        })
    }
}
