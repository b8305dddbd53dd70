//! A loader for burn-train that knows its rank: every rank gets its part of each batch.
//!
//! The order of samples is that of Burn's own `DataLoaderBuilder` without workers, and comes from it: a Burn
//! loader over the indices of the data set makes the batches, of which this rank loads its part. Ranks agree
//! because each starts from the same seed. Workers load ahead; they never change the order.
//!
//! Invariants: at every step the parts of all ranks are the batch; every rank has the same number of
//! batches. A rank whose part is empty gets one sample of the batch, which its progress does not count.

use super::place::{self, Place};
use crate::data::{BatchSize, Feed, Items, Loaded, PassJob, Picks, Prefetch, Workers};
use crate::error::Result;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::transform::PartialDataset;
use burn::data::dataset::{Dataset, DatasetError, InMemDataset};
use burn::tensor::Device;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Builder of a data loader for burn-train, in the place of Burn's
/// [`DataLoaderBuilder`](burn::data::dataloader::DataLoaderBuilder): with its methods and its order of samples.
/// Under [`Distributed`](super::Distributed) each rank loads its part of every batch; without, one rank loads all.
///
/// Exactly one [batch size](crate::data#batch-sizes) is given. With
/// [`global_batch_size`](Self::global_batch_size), a training has the steps of one device, whatever the number of
/// ranks.
///
/// With workers, Burn's own loader gives batches in the order in which they are ready; this one keeps them in order.
pub struct DataLoaderBuilder<I, O> {
    batcher: Arc<dyn Batcher<I, O>>,
    shape: LoaderSettings,
    device: Option<Device>,
}

impl<I, O> DataLoaderBuilder<I, O>
where
    I: Clone + Send + Sync + 'static,
    O: Send + 'static,
{
    /// Makes a builder without shuffle and worker threads.
    pub fn new<B: Batcher<I, O> + 'static>(batcher: B) -> Self {
        Self {
            batcher: Arc::new(batcher),
            shape: LoaderSettings::default(),
            device: None,
        }
    }

    /// Sets the samples of a rank in a step.
    #[must_use]
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.shape.batch_size = Some(batch_size);
        self
    }

    /// Sets the samples of a step over all ranks, which share them as evenly as they can.
    #[must_use]
    pub fn global_batch_size(mut self, global_batch_size: usize) -> Self {
        self.shape.global_batch_size = Some(global_batch_size);
        self
    }

    /// Shuffles each epoch anew.
    #[must_use]
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.shape.seed = Some(seed);
        self
    }

    /// Loads on so many threads of each rank, at most 1024; 0 loads on the thread that trains (default).
    #[must_use]
    pub fn num_workers(mut self, num_workers: usize) -> Self {
        self.shape.prefetch.workers = num_workers;
        self
    }

    /// Sets the number of finished batches that each worker may hold ready, from 1 to 1024 (default: 2).
    #[must_use]
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.shape.prefetch.depth = batches;
        self
    }

    /// Sets the longest wait for a batch of a worker, and at the end of a pass for batches under way (default: 5
    /// minutes). Without workers there is no limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.shape.prefetch.timeout = timeout;
        self
    }

    /// Sets the device of batches where no strategy chooses one (default: Burn's default device).
    #[must_use]
    pub fn set_device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Builds the loader. Give every process the same data set, the whole of it.
    ///
    /// As Burn's builder, this one reports no error. If a batch size, or the number of workers or of batches ready,
    /// is wrong, the first batch of a pass is an error that says so.
    pub fn build<D: Dataset<I> + 'static>(self, dataset: D) -> Arc<dyn DataLoader<O>> {
        let place = Place {
            rank: 0,
            world_size: 1,
            passed: 0,
        };
        Arc::new(Loader {
            batches: self.shape.batches(dataset.len(), place),
            dataset: Arc::new(dataset),
            batcher: self.batcher,
            shape: self.shape,
            device: self.device.unwrap_or_default(),
            place,
        })
    }
}

/// The settings of a loader.
#[derive(Clone, Copy, Default)]
struct LoaderSettings {
    batch_size: Option<usize>,
    global_batch_size: Option<usize>,
    seed: Option<u64>,
    prefetch: Prefetch,
}

/// The settings that all ranks must have alike.
impl fmt::Display for LoaderSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, size) in [
            ("batch_size", self.batch_size),
            ("global_batch_size", self.global_batch_size),
        ] {
            if let Some(size) = size {
                write!(f, "{name} {size}, ")?;
            }
        }
        match self.seed {
            Some(seed) => write!(f, "shuffle {seed}"),
            None => f.write_str("no shuffle"),
        }
    }
}

impl LoaderSettings {
    /// Returns the samples of a step over all ranks.
    fn step(self, place: Place) -> Result<usize> {
        BatchSize::of(self.batch_size, self.global_batch_size)?.of_step(place.world_size)
    }

    /// Returns Burn's loader of the indices of so many samples, from the start of its order. An error of the batch
    /// size is reported by [`Loader::parts`].
    fn batches(self, samples: usize, place: Place) -> Arc<dyn DataLoader<Vec<usize>>> {
        let builder = burn::data::dataloader::DataLoaderBuilder::new(Indices);
        let builder = builder.batch_size(self.step(place).unwrap_or(1));
        let builder = match self.seed {
            Some(seed) => builder.shuffle(seed),
            None => builder,
        };
        builder.build(InMemDataset::new((0..samples).collect()))
    }
}

struct Indices;

impl Batcher<usize, Vec<usize>> for Indices {
    fn batch(&self, items: Vec<usize>, _device: &Device) -> Vec<usize> {
        items
    }
}

struct Loader<I, O> {
    dataset: Arc<dyn Dataset<I>>,
    batcher: Arc<dyn Batcher<I, O>>,
    shape: LoaderSettings,
    /// The order of samples, and where in its sequence of orders it is.
    batches: Arc<dyn DataLoader<Vec<usize>>>,
    device: Device,
    place: Place,
}

impl<I, O> Loader<I, O>
where
    I: Clone + Send + Sync + 'static,
    O: Send + 'static,
{
    fn parts(&self) -> Result<Vec<BatchPart>, DatasetError> {
        self.shape.step(self.place).map_err(DatasetError::new)?;
        let batches = self.batches.iter();
        batches
            .map(|batch| batch.map(|batch| BatchPart::of(&batch, self.place)))
            .collect()
    }

    fn feed(&self, job: &Arc<PassJob<O, BatchParts>>) -> Result<BatchFeed<O>> {
        let prefetch = self.shape.prefetch;
        prefetch.check()?;
        if prefetch.workers == 0 {
            return Ok(Feed::Here(Arc::clone(job)));
        }
        Workers::start(Arc::clone(job), prefetch).map(Feed::Workers)
    }
}

impl<I, O> DataLoader<O> for Loader<I, O>
where
    I: Clone + Send + Sync + 'static,
    O: Send + 'static,
{
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<O> + 'a> {
        let parts = match self.parts() {
            Ok(parts) => parts,
            Err(error) => return Box::new(Batches::failed(error)),
        };
        let (steps, total) = (parts.len(), parts.iter().map(|part| part.real).sum());
        let source = Arc::new(Items {
            dataset: Arc::clone(&self.dataset),
            batcher: Arc::clone(&self.batcher),
        });
        let job = Arc::new(PassJob {
            source,
            device: self.device.clone(),
            rank: self.place.rank,
            picks: BatchParts(parts),
        });
        let feed = self
            .feed(&job)
            .unwrap_or_else(|error| Feed::Failed(DatasetError::new(error)));
        Box::new(Batches {
            feed,
            next: 0,
            steps,
            processed: 0,
            total,
        })
    }

    fn num_items(&self) -> usize {
        self.dataset.len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<O>> {
        let place = place::take(|| self.shape.to_string()).unwrap_or(self.place);
        // From the start, on every rank; and moved as well, for that advances Burn's order.
        let batches = self.shape.batches(self.dataset.len(), place);
        let batches = batches.to_device(device);
        if self.shape.seed.is_some() {
            // Each pass begun is an order further.
            (0..place.passed).for_each(|_| drop(batches.iter()));
        }
        Arc::new(Self {
            dataset: Arc::clone(&self.dataset),
            batcher: Arc::clone(&self.batcher),
            shape: self.shape,
            batches,
            device: device.clone(),
            place,
        })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<O>> {
        // Burn's subset takes any bounds, and fails or panics where they are not there.
        let end = end.min(self.dataset.len());
        let start = start.min(end);
        let dataset = PartialDataset::new(Arc::clone(&self.dataset), start, end);
        Arc::new(Self {
            batches: self.shape.batches(dataset.len(), self.place),
            dataset: Arc::new(dataset),
            batcher: Arc::clone(&self.batcher),
            shape: self.shape,
            device: self.device.clone(),
            place: self.place,
        })
    }
}

/// One rank's part of a batch.
struct BatchPart {
    indices: Vec<usize>,
    /// Number of items that count: all, or none.
    real: usize,
}

impl BatchPart {
    fn of(batch: &[usize], place: Place) -> Self {
        let Place {
            rank, world_size, ..
        } = place;
        // Runs whose lengths differ by one at most; the product is far below the largest number.
        let bound = |rank: usize| batch.len() * rank / world_size;
        let part = &batch[bound(rank)..bound(rank + 1)];
        let shown = if part.is_empty() { &batch[..1] } else { part };
        Self {
            indices: shown.to_vec(),
            real: part.len(),
        }
    }
}

/// The parts of a pass.
struct BatchParts(Vec<BatchPart>);

type BatchFeed<O> = Feed<O, BatchParts, DatasetError>;

impl Picks for BatchParts {
    fn num_batches(&self) -> usize {
        self.0.len()
    }

    fn pick(&self, step: usize) -> (Vec<usize>, usize) {
        let BatchPart { indices, real } = &self.0[step];
        (indices.clone(), *real)
    }

    fn epoch(&self) -> u64 {
        // Burn's loaders don't count them.
        0
    }
}

struct Batches<O> {
    feed: BatchFeed<O>,
    next: usize,
    steps: usize,
    /// Samples handed out that count.
    processed: usize,
    total: usize,
}

impl<O> Batches<O> {
    fn failed(error: DatasetError) -> Self {
        Self {
            feed: Feed::Failed(error),
            next: 0,
            steps: 1,
            processed: 0,
            total: 0,
        }
    }
}

impl<O: Send + 'static> Iterator for Batches<O> {
    type Item = Result<O, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.steps {
            self.feed = Feed::Ended;
        }
        let loaded = match &mut self.feed {
            Feed::Here(job) => job.load(self.next),
            Feed::Workers(workers) => workers.take(self.next),
            Feed::Failed(_) | Feed::Ended => {
                return match std::mem::replace(&mut self.feed, Feed::Ended) {
                    Feed::Failed(error) => Some(Err(error)),
                    _ => None,
                };
            }
        };
        self.next += 1;
        match loaded {
            Ok(Loaded { batch, real, .. }) => {
                self.processed += real;
                Some(Ok(batch))
            }
            Err(error) => {
                self.feed = Feed::Ended;
                Some(Err(DatasetError::new(error)))
            }
        }
    }
}

impl<O: Send + 'static> DataLoaderIterator<O> for Batches<O> {
    fn progress(&self) -> Progress {
        Progress::new(self.processed, self.total, Some("items".to_owned()))
    }
}
