//! The rank-sharded counterpart of Burn's data loader, and its configuration.
//!
//! A loader is a value without threads: the workers belong to the iterator of one epoch (see
//! `prefetch`). A loader made by `to_device` shares the position of its source: burn-train moves every loader
//! to a device, and the user's loader still tells the position of the training. Slices have a position of their
//! own. Ranks don't compare slices, because the slices of burn-train differ.

use super::agreement::PassSettings;
use super::batches::{BurnBatches, ShardedBatches, Stream};
use super::plan::{Remainder, SamplerState};
use super::position::{Place, Position};
use super::prefetch::{BatchSource, PassJob, Prefetch, Window};
use super::sampler::{DistributedSampler, DistributedSamplerConfig};
use crate::error::Result;
use crate::group::ProcessGroup;
use burn::config::Config;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use burn::data::dataset::Dataset;
use burn::tensor::Device;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Configuration of a [`ShardedLoader`].
///
/// ```
/// use burn::data::{dataloader::batcher::Batcher, dataset::InMemDataset};
/// use burn::tensor::Device;
/// use burn_dist::data::ShardedLoaderConfig;
/// use burn_dist::launch::launch;
///
/// struct Sum;
/// impl Batcher<u32, u32> for Sum {
///     fn batch(&self, items: Vec<u32>, _device: &Device) -> u32 {
///         items.iter().sum()
///     }
/// }
///
/// launch(vec![Device::flex(); 4], |worker| {
///     let loader = ShardedLoaderConfig::new()
///         .with_batch_size(Some(8))
///         .with_seed(Some(42))
///         .with_num_workers(2)
///         .init(worker.group(), worker.device(), Sum, InMemDataset::new((0..100).collect()))?;
///     for epoch in 0..3 {
///         for batch in loader.batches() {
///             let batch = batch?;
///             println!("{epoch}/{}: {} of {} samples", batch.step, batch.real, batch.total_real);
///         }
///     }
///     Ok::<_, burn_dist::Error>(())
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Config, Debug)]
pub struct ShardedLoaderConfig {
    /// Samples of a rank in a step. Exactly one [batch size](super#batch-sizes) is given.
    pub batch_size: Option<usize>,
    /// Samples of a step over all ranks, a multiple of their number.
    pub global_batch_size: Option<usize>,
    /// The seed of the shuffle, the same on every rank; each epoch has an order of its own. Without one, samples
    /// keep their order.
    pub seed: Option<u64>,
    /// Threads that load ahead for each pass; 0 loads on the thread that iterates. They never change the batches
    /// or their order.
    #[config(default = 0)]
    pub num_workers: usize,
    /// Finished batches that each worker may hold ready.
    #[config(default = 2)]
    pub prefetch: usize,
    /// The longest wait for a batch of a worker, and at the end of a pass for batches under way. Without workers
    /// there is no limit.
    #[config(default = "Duration::from_mins(5)")]
    pub timeout: Duration,
    /// The treatment of samples that don't fill a global batch.
    #[config(default = "Remainder::Uneven")]
    pub remainder: Remainder,
}

impl ShardedLoaderConfig {
    /// Makes the loader of this rank's share of `dataset`, with batches on `device`. Give every rank the same
    /// data set, the whole of it.
    ///
    /// Whenever a pass begins, the ranks of `group` compare the length of their data sets, seed, epoch, position,
    /// batch size and remainder. If these differ, the first batch is an error on every rank. Therefore every rank
    /// must begin the same passes, also one that only looks at a batch, and must not wait for another rank in
    /// between. A loader that is iterated on another thread than the rank's needs a group of its own.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if a [batch size](super#batch-sizes), or the number of workers or of
    /// prefetched batches, is wrong.
    pub fn init<I: 'static, O: Send + 'static>(
        &self,
        group: &ProcessGroup,
        device: &Device,
        batcher: impl Batcher<I, O> + 'static,
        dataset: impl Dataset<I> + 'static,
    ) -> Result<Arc<ShardedLoader<O>>> {
        let share = (group.rank(), group.world_size());
        let mut loader = self.loader(share, device, batcher, dataset)?;
        loader.group = Some(group.within("ShardedLoader::batches"));
        Ok(Arc::new(loader))
    }

    /// Makes the loader of the share of `rank` among `world_size` ranks, without a group: nothing compares it with
    /// the loaders of other ranks, and where these differ, samples come twice or never.
    ///
    /// # Errors
    /// As [`init`](Self::init); also if the rank is not below the world size.
    pub fn init_shard<I: 'static, O: Send + 'static>(
        &self,
        (rank, world_size): (usize, usize),
        device: &Device,
        batcher: impl Batcher<I, O> + 'static,
        dataset: impl Dataset<I> + 'static,
    ) -> Result<Arc<ShardedLoader<O>>> {
        let loader = self.loader((rank, world_size), device, batcher, dataset)?;
        Ok(Arc::new(loader))
    }

    fn loader<I: 'static, O: Send + 'static>(
        &self,
        (rank, world_size): (usize, usize),
        device: &Device,
        batcher: impl Batcher<I, O> + 'static,
        dataset: impl Dataset<I> + 'static,
    ) -> Result<ShardedLoader<O>> {
        let prefetch = Prefetch {
            workers: self.num_workers,
            depth: self.prefetch,
            timeout: self.timeout,
        };
        prefetch.check()?;
        let sampler = DistributedSamplerConfig {
            dataset_len: dataset.len(),
            rank,
            world_size,
            batch_size: self.batch_size,
            global_batch_size: self.global_batch_size,
            seed: self.seed,
            remainder: self.remainder,
        }
        .init()?;
        if sampler.num_batches() == 0 && !dataset.is_empty() {
            tracing::warn!(
                samples = dataset.len(),
                world_size,
                batch_size = sampler.batch_size(),
                "the data set is smaller than one step of all ranks, and Remainder::DropLast leaves nothing"
            );
        }
        Ok(ShardedLoader {
            source: Arc::new(Items {
                dataset: Arc::new(dataset),
                batcher: Arc::new(batcher),
            }),
            sampler,
            group: None,
            device: device.clone(),
            prefetch,
            window: None,
            position: Arc::default(),
        })
    }
}

/// A dataset of items and the batcher that takes them.
pub(crate) struct Items<I, O> {
    pub(crate) dataset: Arc<dyn Dataset<I>>,
    pub(crate) batcher: Arc<dyn Batcher<I, O>>,
}

impl<I, O> BatchSource<O> for Items<I, O> {
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

/// Loader of one rank's share of a data set, made by [`ShardedLoaderConfig`]. Every rank has the same number of
/// batches.
///
/// Each call of [`batches`](Self::batches) or `iter` is a pass over the next epoch, with an order of its own.
/// Ranks stay together as long as they begin the same passes.
///
/// It implements Burn's [`DataLoader`], so that `burn-train` takes it as well. There, `num_items` and
/// progress count this rank's items, padding included; `to_device` shares this loader's position; `slice` picks
/// from this rank's items in each epoch's order.
pub struct ShardedLoader<O> {
    source: Arc<dyn BatchSource<O>>,
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
    /// A loader with a group waits for all ranks of the group, and the first batch is an error if their loaders
    /// differ.
    pub fn batches(&self) -> ShardedBatches<O> {
        ShardedBatches::new(self.stream())
    }

    /// Returns the number of batches of a whole epoch, the same on every rank.
    pub fn num_batches(&self) -> usize {
        self.window().len().div_ceil(self.sampler.batch_size())
    }

    /// Makes `epoch` the next one to be iterated; the epochs after it follow.
    pub fn set_epoch(&self, epoch: u64) {
        self.position.set(Place { epoch, consumed: 0 });
    }

    /// Returns the position of the training: the latest pass's batches that were handed out, without those loaded
    /// ahead. After the last batch of an epoch it is the start of the next one.
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

    /// Returns the sampler that chooses this rank's samples.
    pub fn sampler(&self) -> &DistributedSampler {
        &self.sampler
    }

    fn window(&self) -> Range<usize> {
        self.window.clone().unwrap_or(0..self.sampler.num_items())
    }

    /// Compares this loader with those of the other ranks, where it can.
    fn compare(&self, state: SamplerState) -> Result<()> {
        match &self.group {
            Some(group) if self.window.is_none() => PassSettings {
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
            PassJob {
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
