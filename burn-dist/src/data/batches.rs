//! The iterators over one epoch of a [`ShardedLoader`](super::ShardedLoader): [`ShardedBatches`] for
//! loops that want to know which items count, [`BurnBatches`] behind Burn's trait.
//!
//! Both are faces of [`Stream`], whose invariant is that after the last batch, or after an error, it
//! is `Ended`: nothing more comes and its workers are gone.

use super::position::{Place, Position};
use super::prefetch::{Feed, Loaded, PassJob, Picks, Prefetch, Window, Workers};
use crate::error::{Error, Result};
use burn::data::dataloader::{DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use std::sync::Arc;

/// One batch of one rank, with what is needed to count each sample of the dataset once.
#[derive(Clone, Debug)]
pub struct ShardedBatch<O> {
    /// Batch that the batcher made of the items.
    pub batch: O,
    /// The items of the batch, at least one.
    pub items: usize,
    /// Number of samples that count, for [`Ddp::weight`](crate::ddp::Ddp::weight). The others come last and
    /// repeat samples that some rank has in this epoch anyway: leave them out of metrics. With
    /// [`Remainder::Uneven`](super::Remainder::Uneven) it is the number of items, or 0 for a rank that has no
    /// sample left and repeats one to stay in step.
    pub real: usize,
    /// The sum of `real` over all ranks at this step.
    pub total_real: usize,
    /// The number of the batch in this pass, from 0.
    pub step: usize,
}

/// The batches of this rank in one pass over an epoch, in order; see
/// [`ShardedLoader::batches`](super::ShardedLoader::batches).
///
/// The first error ends it. Dropping it ends and joins its workers.
pub struct ShardedBatches<O> {
    stream: Stream<O>,
}

impl<O: Send + 'static> ShardedBatches<O> {
    pub(super) fn new(stream: Stream<O>) -> Self {
        Self { stream }
    }

    /// The batches of the whole pass.
    pub fn num_batches(&self) -> usize {
        self.stream
            .job
            .as_ref()
            .map_or(0, |job| job.picks.num_batches())
    }
}

impl<O: Send + 'static> Iterator for ShardedBatches<O> {
    type Item = Result<ShardedBatch<O>>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.stream.taken;
        let loaded = self.stream.next()?;
        Some(loaded.map(|Loaded { batch, items, real }| {
            let total_real = self
                .stream
                .job
                .as_ref()
                .map_or(real, |job| job.picks.plan.total_real(step));
            ShardedBatch {
                batch,
                items,
                real,
                total_real,
                step,
            }
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error may end it at once, or be all there is.
        (0, Some((self.num_batches() - self.stream.taken).max(1)))
    }
}

impl<O: Send + 'static> std::iter::FusedIterator for ShardedBatches<O> {}

/// The same batches as Burn's trait wants them.
pub(super) struct BurnBatches<O> {
    pub(super) stream: Stream<O>,
    /// The items of a whole epoch.
    pub(super) num_items: usize,
}

impl<O: Send + 'static> Iterator for BurnBatches<O> {
    type Item = Result<O, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let loaded = self.stream.next()?;
        Some(loaded.map(|loaded| loaded.batch).map_err(DatasetError::new))
    }
}

impl<O: Send + 'static> DataLoaderIterator<O> for BurnBatches<O> {
    fn progress(&self) -> Progress {
        // What a resumed epoch leaves out counts as processed.
        let processed = self.num_items.saturating_sub(self.stream.items_left);
        Progress::new(processed, self.num_items, Some("items".to_owned()))
    }
}

/// The state of a pass over an epoch.
pub(super) struct Stream<O> {
    /// `None` if the pass failed before its batches were known.
    job: Option<Arc<PassJob<O, Window>>>,
    feed: Feed<O, Window, Error>,
    /// Batches handed out.
    taken: usize,
    /// Items not yet handed out.
    items_left: usize,
    position: Arc<Position>,
    pass: u64,
}

impl<O: Send + 'static> Stream<O> {
    /// Starts the pass numbered `pass`. A job that could not be made is an error at the first batch.
    pub(super) fn start(
        job: Result<PassJob<O, Window>>,
        prefetch: Prefetch,
        position: Arc<Position>,
        pass: u64,
    ) -> Self {
        let job = job.map(Arc::new);
        let feed = match &job {
            Err(error) => Feed::Failed(error.clone()),
            Ok(job) if job.picks.num_batches() == 0 => Feed::Ended,
            Ok(job) if prefetch.workers == 0 => Feed::Here(Arc::clone(job)),
            Ok(job) => {
                Workers::start(Arc::clone(job), prefetch).map_or_else(Feed::Failed, Feed::Workers)
            }
        };
        let job = job.ok();
        let items_left = job.as_ref().map_or(0, |job| job.picks.items.len());
        let stream = Self {
            job,
            feed,
            taken: 0,
            items_left,
            position,
            pass,
        };
        stream.report();
        stream
    }

    fn next(&mut self) -> Option<Result<Loaded<O>>> {
        let _span = self.job.as_ref().map(|job| {
            tracing::debug_span!("next batch", rank = job.rank, batch = self.taken).entered()
        });
        let loaded = match &mut self.feed {
            Feed::Here(job) => job.load(self.taken),
            Feed::Workers(workers) => workers.take(self.taken),
            Feed::Failed(error) => Err(error.clone()),
            Feed::Ended => return None,
        };
        if let Ok(loaded) = &loaded {
            self.taken += 1;
            self.items_left -= loaded.items;
            self.report();
        }
        if loaded.is_err() || self.items_left == 0 {
            self.feed = Feed::Ended;
        }
        Some(loaded)
    }

    /// Moves the loader's position to what the consumer has taken (not to what was loaded ahead).
    fn report(&self) {
        let Some(job) = &self.job else { return };
        let Window { plan, items, .. } = &job.picks;
        let whole = *items == (0..plan.num_items());
        let state = if self.taken == job.picks.num_batches() {
            plan.state(plan.num_batches())
        } else if whole {
            plan.state(self.taken)
        } else {
            // Batches of a slice are no prefix of the epoch; only its end says anything.
            return;
        };
        // It came from a usize.
        let place = Place {
            epoch: state.epoch,
            consumed: state.consumed as usize,
        };
        self.position.reach(self.pass, place);
    }
}
