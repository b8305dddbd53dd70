//! Any loader as one rank sees it: batches, and how many samples of each count.
//!
//! A loader of this module takes the rank's part of every batch itself. Of any other, each rank gets a slice
//! of the data set: an equal part, to one sample. Slices are made for all ranks at once and in order, because
//! Burn's loaders draw from their generator for each. A single rank gets all of it, moved once, as on one device
//! without ranks: another draw would be another order.

use super::place::{self, Place};
use crate::error::{Error, Result};
use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use std::sync::{Arc, OnceLock};

type SharedLoader<I> = Arc<dyn DataLoader<I>>;

/// A loader, to be shared among the ranks.
pub(super) struct Shares<I> {
    loader: SharedLoader<I>,
    slices: OnceLock<Option<Vec<SharedLoader<I>>>>,
}

impl<I> Shares<I> {
    pub(super) fn new(loader: SharedLoader<I>) -> Self {
        let slices = OnceLock::new();
        Self { loader, slices }
    }

    /// Returns the share of a rank, on its device, from the pass on that `place` says.
    pub(super) fn of(&self, place: Place, device: &Device) -> LoaderShare<I> {
        let total = self.loader.num_items();
        // All of it, or the rank's part of every batch if the loader takes that itself.
        let moved = || place::at(place, || self.loader.to_device(device));
        let slices = match place.world_size {
            1 => &None,
            ranks => self.slices.get_or_init(|| {
                let (_, taken) = moved();
                taken.is_none().then(|| self.slice(ranks))
            }),
        };
        let (loader, settings, slice) = match slices {
            None => {
                let (loader, settings) = moved();
                (loader, settings, None)
            }
            Some(slices) => {
                let slice = Arc::clone(&slices[place.rank]);
                (slice.to_device(device), None, Some(slice))
            }
        };
        if settings.is_none() {
            // Burn's loaders shuffle anew whenever a pass begins.
            (0..place.passed).for_each(|_| drop(loader.iter()));
        }
        LoaderShare {
            parts: settings.is_some() && place.world_size > 1,
            settings: settings.unwrap_or_default(),
            loader,
            slice: slice.map(|slice| (slice, device.clone())),
            total,
            rank: place.rank,
        }
    }

    /// The slices of all ranks.
    fn slice(&self, world_size: usize) -> Vec<SharedLoader<I>> {
        let bound = |rank: usize| self.loader.num_items() * rank / world_size;
        let slice = |rank: usize| self.loader.slice(bound(rank), bound(rank + 1));
        (0..world_size).map(slice).collect()
    }
}

/// One rank's share of a loader.
pub(super) struct LoaderShare<I> {
    loader: SharedLoader<I>,
    /// True if it has its part of every batch, which may be empty.
    parts: bool,
    /// Slice that the loader was moved from, and its new device, if it is one.
    slice: Option<(SharedLoader<I>, Device)>,
    /// The settings of a loader that has its part of every batch; empty for another.
    settings: String,
    /// The samples of all ranks.
    pub(super) total: usize,
    rank: usize,
}

impl<I> LoaderShare<I> {
    /// Describes what must be the same on all ranks, or they would see samples twice or never.
    pub(super) fn settings(&self) -> String {
        let comma = if self.settings.is_empty() { "" } else { ", " };
        format!("{} samples{comma}{}", self.total, self.settings)
    }

    /// Checks before a training that every rank will have a sample to run passes on. The error is the same on all ranks.
    pub(super) fn check(&self, split: &str, world_size: usize) -> Result<()> {
        if self.slice.is_none() || self.total == 0 || self.total >= world_size {
            return Ok(());
        }
        Err(Error::Data {
            message: format!(
                "rank {}: {split} has {} samples for {world_size} ranks; train on fewer ranks, on more data, or \
                 with burn-dist's `DataLoaderBuilder`, which shares batches and not the data set",
                self.rank, self.total
            ),
        })
    }

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
    share: &'a LoaderShare<I>,
    batches: Box<dyn DataLoaderIterator<I> + 'a>,
    /// Samples so far.
    seen: usize,
}

/// A batch.
pub(super) struct Drawn<I> {
    pub(super) batch: I,
    /// The samples that count; none if it only keeps the rank in step.
    pub(super) samples: usize,
    /// Number that the batch's loss is a mean over.
    pub(super) count: f64,
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
        Ok(Some(Drawn {
            batch,
            samples,
            count: samples as f64,
        }))
    }

    /// A batch that does not count, for a rank that has seen all of its own while others go on.
    pub(super) fn spare(&self) -> Result<Drawn<I>> {
        let nothing = |message: String| Error::Data {
            message: format!("rank {}: {message}", self.share.rank),
        };
        // Of a copy of the loader: a pass begun on its own would be an order further, for this rank alone.
        let copy = match &self.share.slice {
            Some((slice, device)) => slice.to_device(device),
            None => Arc::clone(&self.share.loader),
        };
        match copy.iter().next() {
            Some(Ok(batch)) => Ok(Drawn {
                batch,
                samples: 0,
                count: 0.0,
            }),
            Some(Err(error)) => Err(nothing(error.to_string())),
            None => Err(nothing(
                "there is no sample for it; train on fewer ranks, or on more data".to_owned(),
            )),
        }
    }
}
