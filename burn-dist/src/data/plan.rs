//! The batches of one rank in one epoch: which positions of the epoch's order, hence which samples.
//!
//! An epoch is a sequence of positions `0..len`, mapped to indices by the epoch's order. With `N`
//! ranks and batch `B` a rank, step `s` covers the positions from `s·N·B` up to `(s+1)·N·B`, and rank
//! `r` takes the `r`-th run of `B` of them: so all ranks together see at step `s` what one rank with
//! batch `N·B` would.
//!
//! Invariants, whatever the sizes:
//! - every rank has the same number of batches; all but the last have the same size on every rank, and
//!   sizes of the last differ by at most one;
//! - positions are consumed from the front, so one number says what is left of an epoch, and another
//!   number of ranks or another batch size can take it from there;
//! - padding only occurs in the last batch, at its end, at most one item a rank; no batch is empty.

use super::permutation::Order;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Treatment of the samples left over when the dataset is not a multiple of the global batch (world size ×
/// batch size).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Remainder {
    /// The leftover samples make a last, smaller batch, shared as evenly as possible: some ranks have
    /// one sample fewer than others, so each must weigh its loss (see
    /// [`Ddp::weight`](crate::ddp::Ddp::weight)). A rank that would have none repeats one sample from
    /// the start of the epoch's order, with 0 in [`IndexBatch::real`].
    #[default]
    Uneven,
    /// As `Uneven`, but ranks with one sample fewer repeat one, so that all sizes agree, for loops that
    /// exchange tensors of equal shapes. Repeated samples come last in their batch and are not among
    /// [`IndexBatch::real`]: leave them out of losses and metrics.
    Pad,
    /// The leftover samples are not seen in this epoch: every batch is full. (This is what
    /// `drop_last` of PyTorch's `DataLoader` does; that of its `DistributedSampler` only drops what
    /// the ranks can't share equally, and leaves a smaller last batch.) A dataset smaller than the
    /// global batch yields nothing.
    DropLast,
}

/// Position of a run in its data. It is the same on every rank, so one rank's copy serves all.
///
/// Save it with the model (it is [`Serialize`]), and give it to
/// [`DistributedSampler::resume`](super::DistributedSampler::resume) or
/// [`ShardedLoader::resume`](super::ShardedLoader::resume), on any number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerState {
    /// The number of samples of the dataset, to recognise another one.
    pub dataset_len: u64,
    /// The seed of the order.
    pub seed: Option<u64>,
    /// The epoch that the next batch belongs to.
    pub epoch: u64,
    /// Number of samples of that epoch that all ranks together have consumed, without padding.
    pub consumed: u64,
}

/// One rank's share of a dataset: the checked numbers that a sampler and its plans are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct DatasetShare {
    pub(super) dataset_len: usize,
    /// Below `world_size`.
    pub(super) rank: usize,
    /// At least 1, as is `batch_size`.
    pub(super) world_size: usize,
    pub(super) batch_size: usize,
    /// `world_size · batch_size`.
    pub(super) global_batch: usize,
    pub(super) seed: Option<u64>,
    pub(super) remainder: Remainder,
}

impl DatasetShare {
    /// The plan of what is left of `epoch` after `start` positions, at most the dataset's length.
    pub(super) fn plan(self, epoch: u64, start: usize) -> Result<EpochPlan> {
        Ok(EpochPlan {
            order: Order::new(self.dataset_len, self.seed, epoch)?,
            shape: self.shape(start),
            share: self,
            epoch,
            start,
        })
    }

    /// The state of an epoch of which `consumed` positions were consumed.
    pub(super) fn state(self, epoch: u64, consumed: usize) -> SamplerState {
        SamplerState {
            dataset_len: self.dataset_len as u64,
            seed: self.seed,
            epoch,
            consumed: consumed as u64,
        }
    }

    /// Divides the positions from `start` on into batches.
    pub(super) fn shape(self, start: usize) -> StepCounts {
        let left = self.dataset_len - start;
        let rest = match self.remainder {
            Remainder::Uneven | Remainder::Pad => left % self.global_batch,
            Remainder::DropLast => 0,
        };
        let last = match self.remainder {
            Remainder::Uneven => self.part(rest).max(usize::from(rest > 0)),
            Remainder::Pad | Remainder::DropLast => rest.div_ceil(self.world_size),
        };
        StepCounts {
            full: left / self.global_batch,
            rest,
            last,
        }
    }

    /// The samples of this rank among `rest` that all ranks share: the first ranks have one more where
    /// they don't come out even.
    fn part(self, rest: usize) -> usize {
        let (each, longer) = (rest / self.world_size, rest % self.world_size);
        each + usize::from(self.rank < longer)
    }
}

/// The sizes of a plan. All but `last` are equal on all ranks.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepCounts {
    /// Steps in which every rank has a full batch.
    full: usize,
    /// Samples left for one more step over all ranks; 0 if there is none.
    rest: usize,
    /// Items of this rank in that step, padding included.
    last: usize,
}

impl StepCounts {
    pub(super) fn num_batches(self) -> usize {
        self.full + usize::from(self.rest > 0)
    }

    pub(super) fn num_items(self, batch_size: usize) -> usize {
        // At most the length of the dataset, or one more: no overflow.
        self.full * batch_size + self.last
    }
}

/// The batches of one rank in one epoch, or in what was left of it. Cheap to clone: clones share the
/// permutation.
#[derive(Clone, Debug)]
pub struct EpochPlan {
    share: DatasetShare,
    order: Order,
    shape: StepCounts,
    epoch: u64,
    /// Positions consumed before this plan's first step.
    start: usize,
}

/// One batch of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexBatch {
    /// Indices of the dataset, at least one; padding, if any, comes last.
    pub indices: Vec<usize>,
    /// Number of positions that count: all but the padding.
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

    /// The samples of this rank, padding included.
    pub fn num_items(&self) -> usize {
        self.shape.num_items(self.share.batch_size)
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
        let start = step * self.share.batch_size;
        let end = start
            .saturating_add(self.share.batch_size)
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
            self.share.state(self.epoch.saturating_add(1), 0)
        } else {
            // Only the last batch can be incomplete, and it is not among those taken.
            let consumed = self.start + batches * self.share.global_batch;
            self.share.state(self.epoch, consumed)
        }
    }

    /// The samples of all ranks that count at `step`.
    pub(super) fn total_real(&self, step: usize) -> usize {
        if step < self.shape.full {
            self.share.global_batch
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
        let DatasetShare {
            rank,
            world_size,
            batch_size,
            global_batch,
            ..
        } = self.share;
        let (step, offset) = (item / batch_size, item % batch_size);
        let before = self.start + step * global_batch;
        if step < self.shape.full {
            return Some(before + rank * batch_size + offset);
        }
        // The rest in runs of equal length, save that the first `longer` ranks have one more.
        let (each, longer) = (self.shape.rest / world_size, self.shape.rest % world_size);
        let mine = self.share.part(self.shape.rest);
        (offset < mine).then(|| before + rank * each + rank.min(longer) + offset)
    }

    /// The position repeated as this rank's padding. The padded ranks take one each from the start of
    /// the epoch's order, and begin again where the dataset is smaller than their number.
    fn padding(&self) -> usize {
        let longer = self.shape.rest % self.share.world_size;
        // Only ranks from `longer` on are padded, and only where there is at least one sample.
        self.share.rank.saturating_sub(longer) % self.share.dataset_len.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        remainder: Remainder,
        dataset_len: usize,
        (rank, world_size): (usize, usize),
        batch_size: usize,
    ) -> EpochPlan {
        let share = DatasetShare {
            dataset_len,
            rank,
            world_size,
            batch_size,
            global_batch: world_size * batch_size,
            seed: None,
            remainder,
        };
        share.plan(0, 0).unwrap()
    }

    #[test]
    fn the_rest_is_shared_evenly_and_padding_is_marked() {
        // 13 = 8 + 5: the last step has 2 items a rank, of which ranks 1 to 3 repeat one.
        let last = |remainder, rank| plan(remainder, 13, (rank, 4), 2).batch(1).unwrap();
        let batch = |indices: &[usize], real| IndexBatch {
            indices: indices.to_vec(),
            real,
            total_real: 5,
        };
        let padded = |rank| last(Remainder::Pad, rank);
        assert_eq!(padded(0), batch(&[8, 9], 2));
        assert_eq!(padded(1), batch(&[10, 0], 1));
        assert_eq!(padded(2), batch(&[11, 1], 1));
        assert_eq!(padded(3), batch(&[12, 2], 1));
        let uneven = |rank| last(Remainder::Uneven, rank);
        assert_eq!(uneven(0), batch(&[8, 9], 2));
        assert_eq!(uneven(1), batch(&[10], 1));
        assert_eq!(uneven(3), batch(&[12], 1));
    }

    #[test]
    fn a_rank_without_samples_repeats_one_that_does_not_count() {
        // 9 = 8 + 1: the last sample is rank 0's.
        for (rank, index, real) in [(0, 8, 1), (1, 0, 0), (3, 2, 0)] {
            let batch = plan(Remainder::Uneven, 9, (rank, 4), 2).batch(1).unwrap();
            let expected = IndexBatch {
                indices: vec![index],
                real,
                total_real: 1,
            };
            assert_eq!(batch, expected);
        }
    }

    #[test]
    fn a_dataset_smaller_than_the_world_pads_more_than_once_round() {
        let batches: Vec<_> = (0..7)
            .flat_map(|rank| {
                let plan = plan(Remainder::Pad, 2, (rank, 7), 3);
                plan.iter().collect::<Vec<_>>()
            })
            .map(|batch| (batch.indices, batch.real))
            .collect();
        let expected = [(0, 1), (1, 1), (0, 0), (1, 0), (0, 0), (1, 0), (0, 0)];
        assert_eq!(batches, expected.map(|(index, real)| (vec![index], real)));
    }
}
