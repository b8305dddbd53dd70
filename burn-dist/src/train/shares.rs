//! Any loader as one rank sees it: batches, and how many samples of each count.
//!
//! A loader of this module takes the rank's part of every batch itself. Of any other, each rank gets a slice
//! of the data set: an equal part, to one sample. Slices are made for all ranks at once and in order, because
//! Burn's loaders draw from their generator for each. A single rank gets all of it, moved once, as on one device
//! without ranks: another draw would be another order.
//!
//! Callers: `replica`.

use super::place::{self, Place};
use crate::error::{Error, Result};
use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use std::sync::{Arc, OnceLock};

/// A loader, to be shared among the ranks.
pub(super) struct Shares<I> {
    loader: Arc<dyn DataLoader<I>>,
    slices: OnceLock<Option<Vec<Arc<dyn DataLoader<I>>>>>,
}

impl<I> Shares<I> {
    pub(super) fn new(loader: Arc<dyn DataLoader<I>>) -> Self {
        let slices = OnceLock::new();
        Self { loader, slices }
    }

    /// The share of a rank, on its device.
    pub(super) fn of(&self, place: Place, device: &Device) -> Share<I> {
        let total = self.loader.num_items();
        // All of it, or the rank's part of every batch if the loader takes that itself.
        let moved = || place::at(place, || self.loader.to_device(device));
        let (loader, parts) = if place.world_size == 1 {
            moved()
        } else {
            let slices = self.slices.get_or_init(|| {
                let (_, taken) = moved();
                (!taken).then(|| self.slice(place.world_size))
            });
            match slices {
                None => moved(),
                Some(slices) => (slices[place.rank].to_device(device), false),
            }
        };
        Share {
            loader,
            parts,
            total,
            rank: place.rank,
        }
    }

    /// The slices of all ranks.
    fn slice(&self, world_size: usize) -> Vec<Arc<dyn DataLoader<I>>> {
        let bound = |rank: usize| self.loader.num_items() * rank / world_size;
        let slice = |rank: usize| self.loader.slice(bound(rank), bound(rank + 1));
        (0..world_size).map(slice).collect()
    }
}

/// One rank's share of a loader.
pub(super) struct Share<I> {
    loader: Arc<dyn DataLoader<I>>,
    /// Whether it has its part of every batch, which may be empty.
    parts: bool,
    /// The samples of all ranks.
    pub(super) total: usize,
    rank: usize,
}

impl<I> Share<I> {
    pub(super) fn pass(&self) -> Pass<'_, I> {
        Pass {
            share: self,
            batches: self.loader.iter(),
            seen: 0,
        }
    }
}

/// One pass over a share.
pub(super) struct Pass<'a, I> {
    share: &'a Share<I>,
    batches: Box<dyn DataLoaderIterator<I> + 'a>,
    /// Samples so far.
    seen: usize,
}

/// A batch.
pub(super) struct Drawn<I> {
    pub(super) batch: I,
    /// The samples that count; none if it only keeps the rank in step.
    pub(super) samples: usize,
}

impl<I> Pass<'_, I> {
    /// The next batch, if there is one.
    pub(super) fn draw(&mut self) -> Result<Option<Drawn<I>>, DatasetError> {
        let Some(batch) = self.batches.next().transpose()? else {
            return Ok(None);
        };
        let processed = self.batches.progress().items_processed;
        let samples = processed.saturating_sub(self.seen);
        self.seen = processed;
        // A loader that does not count its items gives batches that are alike.
        let samples = if self.share.parts {
            samples
        } else {
            samples.max(1)
        };
        Ok(Some(Drawn { batch, samples }))
    }

    /// A batch that does not count, for a rank that has seen all of its own while others go on.
    pub(super) fn spare(&self) -> Result<Drawn<I>> {
        let nothing = |message: String| Error::Data {
            message: format!("rank {}: {message}", self.share.rank),
        };
        match self.share.loader.iter().next() {
            Some(Ok(batch)) => Ok(Drawn { batch, samples: 0 }),
            Some(Err(error)) => Err(nothing(error.to_string())),
            None => Err(nothing(
                "there is no sample for it; train on fewer ranks, or on more data".to_owned(),
            )),
        }
    }
}
