//! The sampler: checks one rank's place in the world and plans its epochs.
//!
//! A sampler is a plain value. `plan` keeps its promises about batches, and explains them.

use super::batch_size::BatchSize;
use super::plan::{DatasetShare, EpochPlan, Remainder, SamplerState};
use crate::error::{Error, Result};
use burn::config::Config;

/// Configuration of a [`DistributedSampler`].
#[derive(Config, Debug)]
pub struct DistributedSamplerConfig {
    /// The number of samples in the dataset.
    pub dataset_len: usize,
    /// This rank, below the world size.
    pub rank: usize,
    /// The number of ranks that share the dataset.
    pub world_size: usize,
    /// Samples of a rank in a step. Exactly one [batch size](super#batch-sizes) is given.
    pub batch_size: Option<usize>,
    /// Samples of a step over all ranks, a multiple of their number.
    pub global_batch_size: Option<usize>,
    /// The seed of the shuffle, the same on every rank. Without one, samples keep their order.
    pub seed: Option<u64>,
    /// The treatment of samples that don't fill a global batch.
    #[config(default = "Remainder::Uneven")]
    pub remainder: Remainder,
}

impl DistributedSamplerConfig {
    /// Checks the configuration and makes the sampler.
    ///
    /// An empty dataset is allowed: it has no batches.
    ///
    /// # Errors
    /// [`Error::Data`] if the world is empty, the rank is not below the world size, or the
    /// [batch sizes](super#batch-sizes) are wrong.
    pub fn init(&self) -> Result<DistributedSampler> {
        let &Self {
            dataset_len,
            rank,
            world_size,
            batch_size,
            global_batch_size,
            seed,
            remainder,
        } = self;
        if world_size == 0 {
            return Err(invalid(
                "the world size is 0; it counts the ranks, so it is at least 1",
            ));
        }
        if rank >= world_size {
            return Err(invalid(format!(
                "rank {rank} is not below the world size {world_size}; ranks count from 0"
            )));
        }
        let size = BatchSize::of(batch_size, global_batch_size)?;
        let batch_size = size.of_rank(world_size)?;
        let global_batch = size.of_step(world_size)?;
        let share = DatasetShare {
            dataset_len,
            rank,
            world_size,
            batch_size,
            global_batch,
            seed,
            remainder,
        };
        Ok(DistributedSampler { share })
    }
}

/// Returns the error of a request that this module can't serve.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::Data {
        message: message.into(),
    }
}

/// Tells each rank which samples to take at each step. A plain value: it holds no permutation, no
/// thread and no position; [`epoch`](Self::epoch) gives the plan of an epoch. It knows no other rank:
/// giving all the same length, seed, epoch, batch size and remainder is up to the caller (a
/// [`ShardedLoader`](super::ShardedLoader) with a group compares them).
///
/// The idea is that of PyTorch's `DistributedSampler`. Different are the layout (a step of all ranks
/// is what one rank with the global batch would see), the padding (marked) and the state.
///
/// ```
/// use burn_dist::data::DistributedSamplerConfig;
///
/// # fn main() -> burn_dist::Result<()> {
/// // Rank 1 of 2, 4 samples each.
/// let sampler = DistributedSamplerConfig::new(10, 1, 2)
///     .with_batch_size(Some(4))
///     .init()?;
/// let batches: Vec<_> = sampler.epoch(0)?.iter().map(|batch| batch.indices).collect();
/// assert_eq!(batches, [vec![4, 5, 6, 7], vec![9]]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DistributedSampler {
    share: DatasetShare,
}

impl DistributedSampler {
    /// The plan of `epoch`, from its first sample. Every rank must name the same epoch.
    ///
    /// # Errors
    /// [`Error::Data`] if there is no memory for the permutation: one `usize` a sample, up to 2^24 samples.
    /// Above, indices are computed.
    pub fn epoch(&self, epoch: u64) -> Result<EpochPlan> {
        self.share.plan(epoch, 0)
    }

    /// The plan of what is left of an epoch: exactly the samples that were not consumed when the
    /// state was taken, each once, padding aside. World size, batch size and remainder policy may
    /// differ from those of the sampler that the state came from.
    ///
    /// # Errors
    /// [`Error::Data`] if the state belongs to another dataset length or another seed, or says that
    /// more was consumed than there is; as for [`epoch`](Self::epoch) otherwise.
    pub fn resume(&self, state: &SamplerState) -> Result<EpochPlan> {
        self.share.plan(state.epoch, self.check(state)?)
    }

    /// The batches that each rank has in a whole epoch.
    pub fn num_batches(&self) -> usize {
        self.share.shape(0).num_batches()
    }

    /// The samples that this rank has in a whole epoch, padding included.
    pub fn num_items(&self) -> usize {
        self.share.shape(0).num_items(self.share.batch_size)
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.share.rank
    }

    /// The number of ranks that share the dataset.
    pub fn world_size(&self) -> usize {
        self.share.world_size
    }

    /// Returns the samples of a rank in a step.
    pub fn batch_size(&self) -> usize {
        self.share.batch_size
    }

    /// Returns the samples of all ranks in a step.
    pub fn global_batch_size(&self) -> usize {
        self.share.global_batch
    }

    pub(super) fn remainder(&self) -> Remainder {
        self.share.remainder
    }

    /// The state of an epoch of which `consumed` positions were consumed.
    pub(super) fn state(&self, epoch: u64, consumed: usize) -> SamplerState {
        self.share.state(epoch, consumed)
    }

    /// Checks that `state` belongs to this sampler's data; returns the positions consumed.
    pub(super) fn check(&self, state: &SamplerState) -> Result<usize> {
        let &SamplerState {
            dataset_len,
            seed,
            consumed,
            ..
        } = state;
        if dataset_len != self.share.dataset_len as u64 {
            return Err(invalid(format!(
                "the saved state belongs to a dataset of {dataset_len} samples, this one has {}; \
                 resume with the same data, or begin an epoch from its start",
                self.share.dataset_len
            )));
        }
        if seed != self.share.seed {
            return Err(invalid(format!(
                "the saved state belongs to an order with {}, this one has {}; resume with the same \
                 seed, or the rest of the epoch would repeat samples and miss others",
                describe(seed),
                describe(self.share.seed)
            )));
        }
        if consumed > dataset_len {
            return Err(invalid(format!(
                "the saved state says that {consumed} of {dataset_len} samples were consumed; it is \
                 damaged"
            )));
        }
        // No larger than the dataset's length, which is a usize.
        Ok(consumed as usize)
    }
}

/// The seed of an order in words.
pub(super) fn describe(seed: Option<u64>) -> String {
    seed.map_or_else(|| "no seed".to_owned(), |seed| format!("seed {seed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(config: &DistributedSamplerConfig) -> String {
        config.init().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        let config = |rank, world_size| {
            DistributedSamplerConfig::new(10, rank, world_size).with_batch_size(Some(2))
        };
        assert!(message(&config(0, 0)).contains("world size is 0"));
        assert!(message(&config(4, 4)).contains("rank 4 is not below the world size 4"));
        assert!(message(&config(0, usize::MAX)).contains("exceed a usize"));
        assert!(message(&DistributedSamplerConfig::new(10, 0, 1)).contains("got neither"));
        let global = |size| {
            config(0, 3)
                .with_batch_size(None)
                .with_global_batch_size(Some(size))
        };
        assert!(message(&global(10)).contains("a multiple of the 3 ranks"));
        assert_eq!(global(12).init().unwrap().batch_size(), 4);
    }

    #[test]
    fn an_empty_dataset_has_no_batches() {
        for remainder in [Remainder::Uneven, Remainder::Pad, Remainder::DropLast] {
            let config = DistributedSamplerConfig::new(0, 2, 3)
                .with_batch_size(Some(4))
                .with_remainder(remainder);
            let sampler = config.with_seed(Some(1)).init().unwrap();
            assert_eq!((sampler.num_batches(), sampler.num_items()), (0, 0));
            assert_eq!(sampler.epoch(0).unwrap().batch(0), None);
        }
    }

    #[test]
    fn a_state_of_other_data_is_refused() {
        let sampler = DistributedSamplerConfig::new(10, 0, 2)
            .with_batch_size(Some(2))
            .with_seed(Some(1))
            .init()
            .unwrap();
        let state = sampler.epoch(3).unwrap().state(1);
        assert_eq!(
            state,
            SamplerState {
                dataset_len: 10,
                seed: Some(1),
                epoch: 3,
                consumed: 4
            }
        );
        let refused = |state: SamplerState| sampler.resume(&state).unwrap_err().to_string();
        assert!(
            refused(SamplerState {
                dataset_len: 11,
                ..state
            })
            .contains("this one has 10")
        );
        assert!(
            refused(SamplerState {
                seed: None,
                ..state
            })
            .contains("no seed")
        );
        assert!(
            refused(SamplerState {
                consumed: 11,
                ..state
            })
            .contains("damaged")
        );
    }

    #[test]
    fn the_state_after_the_last_batch_is_the_next_epoch() {
        let sampler = DistributedSamplerConfig::new(10, 0, 2)
            .with_batch_size(Some(2))
            .init()
            .unwrap();
        let state = sampler.epoch(3).unwrap().state(3);
        assert_eq!((state.epoch, state.consumed), (4, 0));
    }
}
