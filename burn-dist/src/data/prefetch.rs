//! Loads the batches of one epoch ahead of their consumer.
//!
//! Threads: worker `k` of `W` loads the batches `k`, `k + W`, `k + 2W`, ... in that order and puts
//! them into a queue of its own; the consumer takes batch `s` from queue `s mod W`. So batches come in
//! order whatever the number of workers and their speeds, without a buffer to reorder them. A worker
//! holds at most `depth` finished batches: `depth - 1` in its queue, one in its hands.
//!
//! Ownership: [`Workers`] owns the receiving ends and the thread handles. Dropping it closes the
//! queues, at which every worker stops after the batch it is at, and joins the threads.
//!
//! A worker runs code of the user (dataset and batcher). Its errors and its panics travel through the
//! queue, at the place of the batch. Code that never returns is the one thing that can't be stopped:
//! waits for it end at the deadline, and the thread is then left behind with a warning.

use super::plan::EpochPlan;
use super::sampler::invalid;
use crate::error::{Error, Result};
use burn::tensor::Device;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::any::Any;
use std::convert::Infallible;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// More threads or batches in waiting than this are a mistake in a unit, not a wish.
const MOST: usize = 1024;

/// A dataset together with its batcher. Hides the type of the items.
pub(crate) trait BatchSource<O>: Send + Sync {
    /// Reads the items at `indices` and makes a batch of them on `device`; an error is a message.
    fn load(&self, indices: Vec<usize>, device: &Device) -> Result<O, String>;
}

/// Choice of the samples of each batch of a pass.
pub(crate) trait Picks: Send + Sync {
    fn num_batches(&self) -> usize;

    /// The indices of the batch at `step`, below the number of batches, and how many of them count.
    fn pick(&self, step: usize) -> (Vec<usize>, usize);

    /// The epoch, for errors.
    fn epoch(&self) -> u64;
}

/// The batches of `items`, a run of the items that this rank has in an epoch.
pub(super) struct Window {
    pub(super) plan: EpochPlan,
    pub(super) batch_size: usize,
    pub(super) items: Range<usize>,
}

impl Picks for Window {
    fn num_batches(&self) -> usize {
        self.items.len().div_ceil(self.batch_size)
    }

    fn pick(&self, step: usize) -> (Vec<usize>, usize) {
        let start = self.items.start + step * self.batch_size;
        let end = start.saturating_add(self.batch_size).min(self.items.end);
        self.plan.indices(start..end)
    }

    fn epoch(&self) -> u64 {
        self.plan.epoch()
    }
}

/// The batches to load.
pub(crate) struct PassJob<O, P> {
    pub(crate) source: Arc<dyn BatchSource<O>>,
    pub(crate) device: Device,
    pub(crate) rank: usize,
    pub(crate) picks: P,
}

/// Source of the next batch of a pass.
pub(crate) enum Feed<O, P, E> {
    /// The consumer's own thread.
    Here(Arc<PassJob<O, P>>),
    Workers(Workers<O, P>),
    /// The pass could not begin.
    Failed(E),
    Ended,
}

/// A batch and its sizes.
pub(crate) struct Loaded<O> {
    pub(crate) batch: O,
    /// Items of the batch, padding included.
    pub(crate) items: usize,
    /// Items of the batch, padding aside.
    pub(crate) real: usize,
}

impl<O, P: Picks> PassJob<O, P> {
    /// Loads the batch at `step`. A panic of the dataset or the batcher is an error as well.
    pub(crate) fn load(&self, step: usize) -> Result<Loaded<O>> {
        let rank = self.rank;
        let _span = tracing::debug_span!("make batch", rank, batch = step).entered();
        let (indices, real) = self.picks.pick(step);
        let items = indices.len();
        // After a panic nothing of this call is used again, and the shared dataset and batcher were
        // written by the user to be called from several threads.
        let load = AssertUnwindSafe(|| self.source.load(indices, &self.device));
        match catch_unwind(load) {
            Ok(Ok(batch)) => Ok(Loaded { batch, items, real }),
            Ok(Err(message)) => Err(self.error(step, &message)),
            Err(panic) => {
                let message = format!("the dataset or the batcher panicked: {}", text(&*panic));
                Err(self.error(step, &message))
            }
        }
    }

    /// Waits until the device has made the batch at `step` of what this thread has asked for. A batcher may
    /// write to its tensors in place, and Burn orders what two threads ask for only by when memory was
    /// allocated, so the consumer's thread could otherwise be given a batch that is not written yet.
    fn settle(&self, step: usize) -> Result<()> {
        let synced = self.device.sync();
        synced.map_err(|error| self.error(step, &format!("the device failed: {error}")))
    }

    fn error(&self, step: usize, message: &str) -> Error {
        let (rank, epoch) = (self.rank, self.picks.epoch());
        Error::Data {
            message: format!("rank {rank}, epoch {epoch}, batch {step}: {message}"),
        }
    }
}

/// Returns the message of a panic.
fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Settings of loading ahead, as a builder of loaders takes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefetch {
    /// Threads; 0 loads on the consumer's thread.
    pub(crate) workers: usize,
    /// Finished batches that each thread may hold, at least 1.
    pub(crate) depth: usize,
    /// Time to wait for a batch, and at the end for the threads.
    pub(crate) timeout: Duration,
}

impl Default for Prefetch {
    fn default() -> Self {
        Self {
            workers: 0,
            depth: 2,
            timeout: Duration::from_mins(5),
        }
    }
}

impl Prefetch {
    /// # Errors
    /// [`Error::Data`] if the number of workers or of batches is out of range.
    pub(crate) fn check(&self) -> Result<()> {
        let &Self { workers, depth, .. } = self;
        if workers > MOST {
            return Err(invalid(format!(
                "{workers} workers are too many; at most {MOST}"
            )));
        }
        if !(1..=MOST).contains(&depth) {
            return Err(invalid(format!(
                "prefetch is {depth}; it counts the batches ready on each worker, from 1 to {MOST}"
            )));
        }
        Ok(())
    }
}

/// The threads that load the batches of one job.
pub(crate) struct Workers<O, P> {
    job: Arc<PassJob<O, P>>,
    queues: Vec<Receiver<Result<Loaded<O>>>>,
    threads: Vec<JoinHandle<()>>,
    /// Nothing is ever sent: it closes when the last worker has ended.
    running: Receiver<Infallible>,
    timeout: Duration,
}

impl<O: Send + 'static, P: Picks + 'static> Workers<O, P> {
    /// Starts the threads, no more than there are batches.
    ///
    /// # Errors
    /// [`Error::System`] if a thread can't be started; those that were have ended by then.
    pub(crate) fn start(job: Arc<PassJob<O, P>>, prefetch: Prefetch) -> Result<Self> {
        let count = prefetch.workers.min(job.picks.num_batches());
        let (alive, running) = bounded(0);
        let (queues, threads) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut workers = Self {
            job,
            queues,
            threads,
            running,
            timeout: prefetch.timeout,
        };
        for first in 0..count {
            let (sender, queue) = bounded(prefetch.depth.saturating_sub(1));
            let (job, alive) = (Arc::clone(&workers.job), alive.clone());
            let rank = job.rank;
            let thread = thread::Builder::new()
                .name(format!("data-{rank}-{first}"))
                .spawn(move || work(&job, first, count, &sender, &alive))
                .map_err(|error| Error::System {
                    rank,
                    what: "starting a data worker",
                    message: error.to_string(),
                })?;
            workers.queues.push(queue);
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// The batch at `step`. Batches must be taken in order, each once, and none after an error.
    ///
    /// # Errors
    /// [`Error::Data`] with what the dataset or the batcher did, or if neither returned in time.
    pub(crate) fn take(&mut self, step: usize) -> Result<Loaded<O>> {
        let received = match self.queues.get(step % self.queues.len().max(1)) {
            Some(queue) => queue.recv_timeout(self.timeout),
            None => Err(RecvTimeoutError::Disconnected),
        };
        received.unwrap_or_else(|reason| {
            Err(match reason {
                RecvTimeoutError::Disconnected => self.job.error(step, "its worker is gone"),
                RecvTimeoutError::Timeout => {
                    let waited = std::mem::take(&mut self.timeout).as_secs_f64();
                    let message = format!(
                        "the dataset and the batcher did not return within {waited} s; see what \
                         they wait for, or give the loader a longer timeout"
                    );
                    self.job.error(step, &message)
                }
            })
        })
    }
}

/// Makes every `stride`-th batch from `first` on, until one fails or nobody listens.
fn work<O, P: Picks>(
    job: &PassJob<O, P>,
    first: usize,
    stride: usize,
    queue: &Sender<Result<Loaded<O>>>,
    _alive: &Sender<Infallible>,
) {
    for step in (first..job.picks.num_batches()).step_by(stride) {
        let loaded = job.load(step);
        let loaded = loaded.and_then(|loaded| job.settle(step).map(|()| loaded));
        let failed = loaded.is_err();
        if queue.send(loaded).is_err() || failed {
            return;
        }
    }
}

impl<O, P> Drop for Workers<O, P> {
    fn drop(&mut self) {
        // Wakes the workers that wait for room.
        self.queues.clear();
        // The `alive` of the last worker closes this, so it ends early unless a worker is stuck.
        let stuck = self.running.recv_timeout(self.timeout) == Err(RecvTimeoutError::Timeout);
        for thread in self.threads.drain(..) {
            if stuck && !thread.is_finished() {
                tracing::warn!(
                    thread = thread.thread().name(),
                    "a data worker is left behind: the dataset or the batcher did not return"
                );
            } else if thread.join().is_err() {
                // Loading can't panic past `PassJob::load`; dropping a batch that nobody takes can.
                tracing::warn!("a data worker panicked while it dropped a batch");
            }
        }
    }
}
