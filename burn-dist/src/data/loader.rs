//! The rank-sharded counterpart of Burn's data loader and its builder.
//!
//! A loader is a value without threads: the workers belong to the iterator of one epoch (see
//! `prefetch`). Loaders on other devices made by `to_device` share the position of the one they came
//! from, because `burn-train` moves every loader it is given, and the user's handle must still say
//! where training stands; slices have a position of their own, and are not compared over ranks, for
//! those of `burn-train` differ.
//!
//! Callers: users, and `burn-train` through Burn's trait.

use super::agreement::Beginning;
use super::batches::{BurnBatches, ShardedBatches, Stream};
use super::plan::{Remainder, SamplerState};
use super::position::{Place, Position};
use super::prefetch::{Job, Prefetch, Source, Window};
use super::sampler::{DistributedSampler, DistributedSamplerConfig, invalid};
use crate::error::Result;
use crate::group::ProcessGroup;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use burn::data::dataset::Dataset;
use burn::tensor::Device;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Builds a [`ShardedLoader`]; mirrors Burn's
/// [`DataLoaderBuilder`](burn::data::dataloader::DataLoaderBuilder).
///
/// ```
/// use burn::data::{dataloader::batcher::Batcher, dataset::InMemDataset};
/// use burn::tensor::Device;
/// use burn_dist::data::ShardedLoaderBuilder;
///
/// struct Sum;
/// impl Batcher<u32, u32> for Sum {
///     fn batch(&self, items: Vec<u32>, _device: &Device) -> u32 {
///         items.iter().sum()
///     }
/// }
///
/// # fn main() -> burn_dist::Result<()> {
/// let loader = ShardedLoaderBuilder::new(Sum)
///     .shard(1, 4) // rank 1 of 4; in a worker, `.group(worker.group())`
///     .batch_size(8)
///     .shuffle(42)
///     .num_workers(2)
///     .build(InMemDataset::new((0..100).collect()))?;
/// for epoch in 0..3 {
///     for batch in loader.batches() {
///         let batch = batch?;
///         println!("{epoch}/{}: {} of {} samples", batch.step, batch.real, batch.total_real);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct ShardedLoaderBuilder<I, O> {
    batcher: Arc<dyn Batcher<I, O>>,
    shard: Option<(usize, usize)>,
    group: Option<ProcessGroup>,
    batch_size: BatchSize,
    seed: Option<u64>,
    remainder: Remainder,
    device: Option<Device>,
    prefetch: Prefetch,
}

impl<I: 'static, O: Send + 'static> ShardedLoaderBuilder<I, O> {
    /// A builder with batch size 1, no shuffle, no worker threads and [`Remainder::Uneven`].
    pub fn new<B: Batcher<I, O> + 'static>(batcher: B) -> Self {
        Self {
            batcher: Arc::new(batcher),
            shard: None,
            group: None,
            batch_size: BatchSize::OfRank(1),
            seed: None,
            remainder: Remainder::default(),
            device: None,
            prefetch: Prefetch::default(),
        }
    }

    /// Takes this rank's share among the ranks of `group`: in a worker, `worker.group()`.
    ///
    /// Whenever a pass begins, the ranks compare the length of their data sets, seed, epoch, place in it,
    /// batch size and remainder. If these differ, the first batch is an error on every rank. Therefore every
    /// rank must begin the same passes, also one that only looks at a batch, and wait for no other rank's in
    /// between; a loader that is iterated on another thread than the rank's needs a
    /// [`duplicate`](ProcessGroup::duplicate) of the group.
    #[must_use]
    pub fn group(mut self, group: &ProcessGroup) -> Self {
        self.group = Some(group.within("ShardedLoader::batches"));
        self.shard = Some((group.rank(), group.world_size()));
        self
    }

    /// Takes the share of `rank` among `world_size` ranks, which nobody compares with those of the others:
    /// where ranks have another seed or begin other passes, samples come twice or never. Give a
    /// [`group`](Self::group) where there is one.
    ///
    /// Neither has a default: a loader that was not told its rank would feed the whole dataset to every
    /// replica.
    #[must_use]
    pub fn shard(mut self, rank: usize, world_size: usize) -> Self {
        self.group = None;
        self.shard = Some((rank, world_size));
        self
    }

    /// The samples of a batch on each rank; a step of all ranks takes `world_size` times as many.
    #[must_use]
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = BatchSize::OfRank(batch_size);
        self
    }

    /// The samples of a step over all ranks, a multiple of their number, in place of
    /// [`batch_size`](Self::batch_size): a run keeps its steps when the number of ranks changes.
    #[must_use]
    pub fn global_batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = BatchSize::OfStep(batch_size);
        self
    }

    /// Shuffles each epoch anew. The seed must be the same on every rank.
    #[must_use]
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Loads on `num_workers` threads of each iterator; 0 loads on the thread that iterates. The
    /// batches and their order are the same either way.
    #[must_use]
    pub fn num_workers(mut self, num_workers: usize) -> Self {
        self.prefetch.workers = num_workers;
        self
    }

    /// How many finished batches each worker may hold ready, 2 unless set.
    #[must_use]
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.prefetch.depth = batches;
        self
    }

    /// How long to wait for a batch from a worker before it is an error, 5 minutes unless set. Ending
    /// an iterator waits as long for batches under way. Without workers there is no limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.prefetch.timeout = timeout;
        self
    }

    /// What happens to samples that don't fill a global batch.
    #[must_use]
    pub fn remainder(mut self, remainder: Remainder) -> Self {
        self.remainder = remainder;
        self
    }

    /// Leaves out the samples that don't fill a global batch: [`Remainder::DropLast`].
    #[must_use]
    pub fn drop_last(self) -> Self {
        self.remainder(Remainder::DropLast)
    }

    /// The device that batches are made on; Burn's default device unless set.
    #[must_use]
    pub fn set_device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// Builds the loader. Give every rank the same dataset, the whole of it.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if no shard was given, if the rank, world size or batch size can't be (see
    /// [`DistributedSamplerConfig::init`]), or if the numbers of workers and of prefetched batches are
    /// out of range.
    pub fn build<D: Dataset<I> + 'static>(self, dataset: D) -> Result<Arc<ShardedLoader<O>>> {
        let Some((rank, world_size)) = self.shard else {
            return Err(invalid(
                "the loader was not told its share; call `group(worker.group())`, or \
                 `shard(rank, world_size)`, with `shard(0, 1)` for a single rank",
            ));
        };
        self.prefetch.check()?;
        let batch_size = self.batch_size.of_rank(world_size)?;
        let sampler = DistributedSamplerConfig::new(dataset.len(), rank, world_size, batch_size)
            .with_seed(self.seed)
            .with_remainder(self.remainder)
            .init()?;
        if sampler.num_batches() == 0 && !dataset.is_empty() {
            tracing::warn!(
                samples = dataset.len(),
                world_size,
                batch_size,
                "the dataset is smaller than one step of all ranks, and drop_last leaves nothing"
            );
        }
        Ok(Arc::new(ShardedLoader {
            source: Arc::new(Items {
                dataset: Arc::new(dataset),
                batcher: self.batcher,
            }),
            sampler,
            group: self.group,
            device: self.device.unwrap_or_default(),
            prefetch: self.prefetch,
            window: None,
            position: Arc::default(),
        }))
    }
}

/// The samples of a batch, as a builder was told.
#[derive(Clone, Copy, Debug)]
enum BatchSize {
    OfRank(usize),
    OfStep(usize),
}

impl BatchSize {
    fn of_rank(self, world_size: usize) -> Result<usize> {
        match self {
            Self::OfRank(size) => Ok(size),
            // A world of no ranks is refused by the sampler.
            Self::OfStep(size) if size % world_size.max(1) == 0 => Ok(size / world_size.max(1)),
            Self::OfStep(size) => Err(invalid(format!(
                "the global batch size {size} is not a multiple of {world_size} ranks; give a multiple, or \
                 the `batch_size` of each rank"
            ))),
        }
    }
}

/// A dataset of items and the batcher that takes them.
pub(crate) struct Items<I, O> {
    pub(crate) dataset: Arc<dyn Dataset<I>>,
    pub(crate) batcher: Arc<dyn Batcher<I, O>>,
}

impl<I, O> Source<O> for Items<I, O> {
    fn load(&self, indices: Vec<usize>, device: &Device) -> Result<O, String> {
        let asked = indices.len();
        let items = self
            .dataset
            .get_many(indices)
            .map_err(|error| format!("the dataset failed: {error}"))?;
        if items.len() != asked {
            // Batches of other sizes than those of the other ranks would break their collectives.
            let got = items.len();
            return Err(format!(
                "the dataset returned {got} items where {asked} were asked for"
            ));
        }
        Ok(self.batcher.batch(items, device))
    }
}

/// One rank's loader: on every rank the same number of batches, together the dataset. Made by
/// [`ShardedLoaderBuilder`].
///
/// Each [`batches`](Self::batches) or `iter` is a pass over the next epoch, with a shuffle of its own.
/// Ranks stay together as long as they begin the same passes.
///
/// It implements Burn's [`DataLoader`], so that `burn-train` takes it as well. There, `num_items` and
/// progress count this rank's items, padding included; `to_device` continues at this loader's
/// position, and shares it; `slice` picks from this rank's items in each epoch's order.
pub struct ShardedLoader<O> {
    source: Arc<dyn Source<O>>,
    sampler: DistributedSampler,
    /// The ranks to compare with.
    group: Option<ProcessGroup>,
    device: Device,
    prefetch: Prefetch,
    /// The part of this rank's items that a slice is limited to.
    window: Option<Range<usize>>,
    position: Arc<Position>,
}

impl<O: Send + 'static> ShardedLoader<O> {
    /// Begins a pass over the next epoch, or over what is left of a resumed one. Workers start now.
    ///
    /// With a [`group`](ShardedLoaderBuilder::group), every rank calls it, and they wait for one another.
    /// What differs between them is the error of the first batch.
    pub fn batches(&self) -> ShardedBatches<O> {
        ShardedBatches::new(self.stream())
    }

    /// The batches of a whole epoch, the same on every rank.
    pub fn num_batches(&self) -> usize {
        self.window().len().div_ceil(self.sampler.batch_size())
    }

    /// Makes `epoch` the next one to be iterated; the epochs after it follow.
    pub fn set_epoch(&self, epoch: u64) {
        self.position.set(Place { epoch, consumed: 0 });
    }

    /// Where training stands, counting the batches that the latest pass has handed out (not those
    /// loaded ahead). After the last batch of an epoch it is the start of the next one.
    pub fn state(&self) -> SamplerState {
        let Place { epoch, consumed } = self.position.place();
        self.sampler.state(epoch, consumed)
    }

    /// Continues from a saved state: the next pass has what was left of the epoch then. The number of
    /// ranks, the batch size and the remainder policy may have changed since.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if the state belongs to another dataset length or seed, or is damaged.
    pub fn resume(&self, state: &SamplerState) -> Result<()> {
        let consumed = self.sampler.check(state)?;
        self.position.set(Place {
            epoch: state.epoch,
            consumed,
        });
        Ok(())
    }

    /// What decides which samples this rank gets.
    pub fn sampler(&self) -> &DistributedSampler {
        &self.sampler
    }

    fn window(&self) -> Range<usize> {
        self.window.clone().unwrap_or(0..self.sampler.num_items())
    }

    /// Compares this loader with those of the other ranks, where it can.
    fn compare(&self, state: SamplerState) -> Result<()> {
        match &self.group {
            Some(group) if self.window.is_none() => Beginning {
                state,
                batch_size: self.sampler.batch_size() as u64,
                remainder: self.sampler.remainder(),
            }
            .compare(group),
            _ => Ok(()),
        }
    }

    fn stream(&self) -> Stream<O> {
        let (pass, Place { epoch, consumed }) = self.position.begin();
        let state = self.sampler.state(epoch, consumed);
        let plan = self
            .compare(state)
            .and_then(|()| self.sampler.resume(&state));
        let job = plan.map(|plan| {
            // A resumed epoch has fewer items than a whole one, so a slice may be shorter too.
            let most = plan.num_items();
            let items = match &self.window {
                Some(window) => window.start.min(most)..window.end.min(most),
                None => 0..most,
            };
            Job {
                source: Arc::clone(&self.source),
                device: self.device.clone(),
                rank: self.sampler.rank(),
                picks: Window {
                    plan,
                    batch_size: self.sampler.batch_size(),
                    items,
                },
            }
        });
        Stream::start(job, self.prefetch, Arc::clone(&self.position), pass)
    }

    fn copy(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            sampler: self.sampler.clone(),
            group: self.group.clone(),
            device: self.device.clone(),
            prefetch: self.prefetch,
            window: self.window.clone(),
            position: Arc::clone(&self.position),
        }
    }
}

impl<O: Send + 'static> DataLoader<O> for ShardedLoader<O> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<O> + 'a> {
        Box::new(BurnBatches {
            stream: self.stream(),
            num_items: self.num_items(),
        })
    }

    fn num_items(&self) -> usize {
        self.window().len()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<O>> {
        Arc::new(Self {
            device: device.clone(),
            ..self.copy()
        })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<O>> {
        let within = self.window();
        let clip = |item: usize| within.start.saturating_add(item).min(within.end);
        let window = clip(start)..clip(end.max(start));
        let position = Arc::new(self.position.fork());
        Arc::new(Self {
            window: Some(window),
            position,
            ..self.copy()
        })
    }
}
