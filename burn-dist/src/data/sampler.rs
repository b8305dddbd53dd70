//! Which samples each rank sees at each step.
//!
//! An epoch is a sequence of positions `0..len`, mapped to indices by the epoch's order. With `N`
//! ranks and batch `B` a rank, step `s` covers the positions from `s·N·B` up to `(s+1)·N·B`, and rank
//! `r` takes the `r`-th run of `B` of them: so all ranks together see at step `s` what one rank with
//! batch `N·B` would.
//!
//! Invariants, whatever the sizes:
//! - every rank has the same number of batches, and step `s` has the same size on every rank;
//! - positions are consumed from the front, so one number says what is left of an epoch, and another
//!   number of ranks or another batch size can take it from there;
//! - padding only occurs in the last batch, at its end, at most one item a rank.
//!
//! Callers: the loader; users with a loop or a data source of their own.

use super::permutation::Order;
use crate::error::{Error, Result};
use burn::config::Config;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What happens to the samples left over when the dataset is not a multiple of the global batch
/// (world size × batch size).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remainder {
    /// The leftover samples make a last, smaller batch, shared as evenly as possible. Ranks that
    /// would have one sample fewer repeat one from the start of the epoch's order, so that all sizes
    /// agree. Repeated samples come last in their batch and are not among [`IndexBatch::real`].
    #[default]
    Pad,
    /// The leftover samples are not seen in this epoch: every batch is full. (This is what
    /// `drop_last` of PyTorch's `DataLoader` does; that of its `DistributedSampler` only drops what
    /// the ranks can't share equally, and leaves a smaller last batch.) A dataset smaller than the
    /// global batch yields nothing.
    DropLast,
}

/// Configuration of a [`DistributedSampler`].
#[derive(Config, Debug)]
pub struct DistributedSamplerConfig {
    /// The number of samples in the dataset.
    pub dataset_len: usize,
    /// This rank, below the world size.
    pub rank: usize,
    /// The number of ranks that share the dataset.
    pub world_size: usize,
    /// The number of samples of a batch on each rank.
    pub batch_size: usize,
    /// The seed of the shuffle, the same on every rank. Without one, samples keep their order.
    pub seed: Option<u64>,
    /// What happens to samples that don't fill a global batch.
    #[config(default = "Remainder::Pad")]
    pub remainder: Remainder,
}

impl DistributedSamplerConfig {
    /// Checks the configuration and makes the sampler.
    ///
    /// An empty dataset is allowed: it has no batches.
    ///
    /// # Errors
    /// [`Error::Data`] if the world or the batch is empty, the rank is not below the world size, or
    /// the global batch exceeds `usize`.
    pub fn init(&self) -> Result<DistributedSampler> {
        let &Self {
            dataset_len,
            rank,
            world_size,
            batch_size,
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
        if batch_size == 0 {
            return Err(invalid(
                "the batch size is 0; give the number of samples that each rank takes in one step",
            ));
        }
        let global_batch = world_size.checked_mul(batch_size).ok_or_else(|| {
            invalid(format!(
                "{world_size} ranks with batch size {batch_size} exceed a usize"
            ))
        })?;
        Ok(DistributedSampler {
            dataset_len,
            rank,
            world_size,
            batch_size,
            global_batch,
            seed,
            remainder,
        })
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::Data {
        message: message.into(),
    }
}

/// Tells each rank which samples to take at each step. A plain value: it holds no permutation, no
/// thread and no position; [`epoch`](Self::epoch) gives the plan of an epoch.
///
/// The idea is that of PyTorch's `DistributedSampler`. Different are the layout (a step of all ranks
/// is what one rank with the global batch would see), the padding (marked) and the state.
///
/// ```
/// use burn_dist::data::DistributedSamplerConfig;
///
/// # fn main() -> burn_dist::Result<()> {
/// let sampler = DistributedSamplerConfig::new(10, 1, 2, 4).init()?; // rank 1 of 2, batch 4
/// let batches: Vec<_> = sampler.epoch(0)?.iter().map(|batch| batch.indices).collect();
/// assert_eq!(batches, [vec![4, 5, 6, 7], vec![9]]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DistributedSampler {
    dataset_len: usize,
    rank: usize,
    world_size: usize,
    batch_size: usize,
    /// `world_size · batch_size`, at least 1.
    global_batch: usize,
    seed: Option<u64>,
    remainder: Remainder,
}

impl DistributedSampler {
    /// The plan of `epoch`, from its first sample. Every rank must name the same epoch.
    ///
    /// # Errors
    /// [`Error::Data`] if there is no memory for the permutation (one `usize` a sample).
    pub fn epoch(&self, epoch: u64) -> Result<EpochPlan> {
        self.plan(epoch, 0)
    }

    /// The plan of what is left of an epoch: exactly the samples that were not consumed when the
    /// state was taken, each once, padding aside. World size, batch size and remainder policy may
    /// differ from those of the sampler that the state came from.
    ///
    /// # Errors
    /// [`Error::Data`] if the state belongs to another dataset length or another seed, or says that
    /// more was consumed than there is; as for [`epoch`](Self::epoch) otherwise.
    pub fn resume(&self, state: &SamplerState) -> Result<EpochPlan> {
        self.plan(state.epoch, self.check(state)?)
    }

    /// The batches that each rank has in a whole epoch.
    pub fn num_batches(&self) -> usize {
        self.shape(0).num_batches()
    }

    /// The samples that each rank has in a whole epoch, padding included: the same on every rank.
    pub fn num_items(&self) -> usize {
        self.shape(0).num_items(self.batch_size)
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks that share the dataset.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// The number of samples of a batch on each rank.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The state of an epoch of which `consumed` positions were consumed.
    pub(super) fn state(&self, epoch: u64, consumed: usize) -> SamplerState {
        SamplerState {
            dataset_len: self.dataset_len as u64,
            seed: self.seed,
            epoch,
            consumed: consumed as u64,
        }
    }

    /// Checks that `state` belongs to this sampler's data; returns the positions consumed.
    pub(super) fn check(&self, state: &SamplerState) -> Result<usize> {
        let &SamplerState {
            dataset_len,
            seed,
            consumed,
            ..
        } = state;
        if dataset_len != self.dataset_len as u64 {
            return Err(invalid(format!(
                "the saved state belongs to a dataset of {dataset_len} samples, this one has {}; \
                 resume with the same data, or begin an epoch from its start",
                self.dataset_len
            )));
        }
        if seed != self.seed {
            return Err(invalid(format!(
                "the saved state belongs to an order with {}, this one has {}; resume with the same \
                 seed, or the rest of the epoch would repeat samples and miss others",
                describe(seed),
                describe(self.seed)
            )));
        }
        if consumed > dataset_len {
            return Err(invalid(format!(
                "the saved state says that {consumed} of {dataset_len} samples were consumed; it is \
                 damaged"
            )));
        }
        // No larger than `self.dataset_len`, which is a usize.
        Ok(consumed as usize)
    }

    fn plan(&self, epoch: u64, start: usize) -> Result<EpochPlan> {
        Ok(EpochPlan {
            order: Order::new(self.dataset_len, self.seed, epoch)?,
            shape: self.shape(start),
            sampler: self.clone(),
            epoch,
            start,
        })
    }

    /// How what is left after `start` positions falls into batches.
    fn shape(&self, start: usize) -> Shape {
        let left = self.dataset_len - start;
        let rest = match self.remainder {
            Remainder::Pad => left % self.global_batch,
            Remainder::DropLast => 0,
        };
        Shape {
            full: left / self.global_batch,
            rest,
            last: rest.div_ceil(self.world_size),
        }
    }
}

fn describe(seed: Option<u64>) -> String {
    seed.map_or_else(|| "no seed".to_owned(), |seed| format!("seed {seed}"))
}

/// Where a run stands in its data: the same on every rank, so one rank's copy serves all.
///
/// Save it with the model (it is [`Serialize`]), and give it to [`DistributedSampler::resume`] or
/// [`ShardedLoader::resume`](super::ShardedLoader::resume), on any number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerState {
    /// The number of samples of the dataset, to recognise another one.
    pub dataset_len: u64,
    /// The seed of the order.
    pub seed: Option<u64>,
    /// The epoch that the next batch belongs to.
    pub epoch: u64,
    /// How many samples of that epoch all ranks together have consumed, padding aside.
    pub consumed: u64,
}

/// The sizes of a plan, equal on all ranks.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Steps in which every rank has a full batch.
    full: usize,
    /// Samples left for one more step over all ranks; 0 if there is none.
    rest: usize,
    /// Items of each rank in that step, padding included.
    last: usize,
}

impl Shape {
    fn num_batches(self) -> usize {
        self.full + usize::from(self.rest > 0)
    }

    fn num_items(self, batch_size: usize) -> usize {
        // At most the length of the dataset, or one more: no overflow.
        self.full * batch_size + self.last
    }
}

/// The batches of one rank in one epoch, or in what was left of it. Cheap to clone: clones share the
/// permutation.
#[derive(Clone, Debug)]
pub struct EpochPlan {
    sampler: DistributedSampler,
    order: Order,
    shape: Shape,
    epoch: u64,
    /// Positions consumed before this plan's first step.
    start: usize,
}

/// One batch of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexBatch {
    /// Indices of the dataset, as many as on every other rank; padding, if any, comes last.
    pub indices: Vec<usize>,
    /// How many of them count: all but the padding.
    pub real: usize,
    /// The sum of `real` over all ranks.
    pub total_real: usize,
}

impl EpochPlan {
    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The batches of each rank.
    pub fn num_batches(&self) -> usize {
        self.shape.num_batches()
    }

    /// The samples of each rank, padding included.
    pub fn num_items(&self) -> usize {
        self.shape.num_items(self.sampler.batch_size)
    }

    /// The batch of this rank at `step`, counted from the first of this plan; `None` past the last.
    pub fn batch(&self, step: usize) -> Option<IndexBatch> {
        (step < self.num_batches()).then(|| self.batch_at(step))
    }

    /// All batches of this rank in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = IndexBatch> + '_ {
        (0..self.num_batches()).map(|step| self.batch_at(step))
    }

    fn batch_at(&self, step: usize) -> IndexBatch {
        let start = step * self.sampler.batch_size;
        let end = start
            .saturating_add(self.sampler.batch_size)
            .min(self.num_items());
        let (indices, real) = self.indices(start..end);
        IndexBatch {
            indices,
            real,
            total_real: self.total_real(step),
        }
    }

    /// The state once `batches` batches of this plan have been taken (on every rank). After the last
    /// one it is the start of the next epoch.
    pub fn state(&self, batches: usize) -> SamplerState {
        if batches >= self.num_batches() {
            self.sampler.state(self.epoch.saturating_add(1), 0)
        } else {
            // Only the last batch can be incomplete, and it is not among those taken.
            let consumed = self.start + batches * self.sampler.global_batch;
            self.sampler.state(self.epoch, consumed)
        }
    }

    /// The samples of all ranks that count at `step`.
    pub(super) fn total_real(&self, step: usize) -> usize {
        if step < self.shape.full {
            self.sampler.global_batch
        } else {
            self.shape.rest
        }
    }

    /// The indices of some of this rank's items, counted over all its batches, and how many are real.
    /// `items` must end within [`num_items`](Self::num_items).
    pub(super) fn indices(&self, items: Range<usize>) -> (Vec<usize>, usize) {
        let real = items
            .clone()
            .filter(|&item| self.position(item).is_some())
            .count();
        let indices = items
            .map(|item| {
                self.order
                    .index(self.position(item).unwrap_or_else(|| self.padding()))
            })
            .collect();
        (indices, real)
    }

    /// The position in the epoch's order of this rank's `item`; `None` for padding.
    fn position(&self, item: usize) -> Option<usize> {
        let &DistributedSampler {
            rank,
            world_size,
            batch_size,
            global_batch,
            ..
        } = &self.sampler;
        let (step, offset) = (item / batch_size, item % batch_size);
        let before = self.start + step * global_batch;
        if step < self.shape.full {
            return Some(before + rank * batch_size + offset);
        }
        // The rest in runs of equal length, save that the first `longer` ranks have one more.
        let (each, longer) = (self.shape.rest / world_size, self.shape.rest % world_size);
        let mine = each + usize::from(rank < longer);
        (offset < mine).then(|| before + rank * each + rank.min(longer) + offset)
    }

    /// The position repeated as this rank's padding. The padded ranks take one each from the start of
    /// the epoch's order, and begin again where the dataset is smaller than their number.
    fn padding(&self) -> usize {
        let longer = self.shape.rest % self.sampler.world_size;
        // Only ranks from `longer` on are padded, and only where there is at least one sample.
        self.sampler.rank.saturating_sub(longer) % self.sampler.dataset_len.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(config: &DistributedSamplerConfig) -> String {
        config.init().unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        let config = DistributedSamplerConfig::new;
        assert!(message(&config(10, 0, 0, 1)).contains("world size is 0"));
        assert!(message(&config(10, 4, 4, 1)).contains("rank 4 is not below the world size 4"));
        assert!(message(&config(10, 0, 1, 0)).contains("batch size is 0"));
        assert!(message(&config(10, 0, usize::MAX, 2)).contains("exceed a usize"));
    }

    #[test]
    fn the_rest_is_shared_evenly_and_padding_is_marked() {
        // 13 = 8 + 5: the last step has 2 items a rank, of which ranks 1 to 3 repeat one.
        let last = |rank| {
            let sampler = DistributedSamplerConfig::new(13, rank, 4, 2)
                .init()
                .unwrap();
            sampler.epoch(0).unwrap().batch(1).unwrap()
        };
        let batch = |indices: [usize; 2], real| IndexBatch {
            indices: indices.to_vec(),
            real,
            total_real: 5,
        };
        assert_eq!(last(0), batch([8, 9], 2));
        assert_eq!(last(1), batch([10, 0], 1));
        assert_eq!(last(2), batch([11, 1], 1));
        assert_eq!(last(3), batch([12, 2], 1));
    }

    #[test]
    fn a_dataset_smaller_than_the_world_pads_more_than_once_round() {
        let batches: Vec<_> = (0..7)
            .flat_map(|rank| {
                let sampler = DistributedSamplerConfig::new(2, rank, 7, 3).init().unwrap();
                sampler.epoch(0).unwrap().iter().collect::<Vec<_>>()
            })
            .map(|batch| (batch.indices, batch.real))
            .collect();
        let expected = [(0, 1), (1, 1), (0, 0), (1, 0), (0, 0), (1, 0), (0, 0)];
        assert_eq!(batches, expected.map(|(index, real)| (vec![index], real)));
    }

    #[test]
    fn an_empty_dataset_has_no_batches() {
        for remainder in [Remainder::Pad, Remainder::DropLast] {
            let config = DistributedSamplerConfig::new(0, 2, 3, 4).with_remainder(remainder);
            let sampler = config.with_seed(Some(1)).init().unwrap();
            assert_eq!((sampler.num_batches(), sampler.num_items()), (0, 0));
            assert_eq!(sampler.epoch(0).unwrap().batch(0), None);
        }
    }

    #[test]
    fn a_state_of_other_data_is_refused() {
        let sampler = DistributedSamplerConfig::new(10, 0, 2, 2)
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
        let sampler = DistributedSamplerConfig::new(10, 0, 2, 2).init().unwrap();
        let state = sampler.epoch(3).unwrap().state(3);
        assert_eq!((state.epoch, state.consumed), (4, 0));
    }
}
