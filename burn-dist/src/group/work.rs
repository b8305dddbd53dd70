//! Asynchronous operations: the communication thread, and the handle of a result.
//!
//! Threads: each member has one communication thread, `burn-dist-comm-<rank>`, started by its first
//! asynchronous call; its last handle closes the queue, and joins it, or leaves that to the launcher. It runs that member's jobs in the order of
//! the calls. A job owns its buffers and hands them back through a channel of one place, so neither
//! side waits for the other to pick up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use super::member::Lineage;
use super::p2p::Waiting;
use crate::error::{Error, Result};
use crate::transport::thread::Thread;

/// One asynchronous operation.
pub(super) type QueuedJob = Box<dyn FnOnce() + Send>;

/// The sending side of the communication thread, and the thread.
#[derive(Default)]
pub(super) struct Communicator(Option<(Sender<QueuedJob>, Thread)>);

impl Communicator {
    /// Queues a job, and starts the thread if there is none.
    pub(super) fn submit(&mut self, rank: usize, job: QueuedJob) -> Result<()> {
        let gone = |message: String| Error::System {
            rank,
            what: THREAD,
            message,
        };
        let sender = if let Some((sender, _)) = &self.0 {
            sender
        } else {
            let (sender, jobs) = unbounded::<QueuedJob>();
            let body = move || jobs.iter().for_each(|job| job());
            let thread = Thread::spawn(format!("burn-dist-comm-{rank}"), body)
                .map_err(|error| gone(error.to_string()))?;
            &self.0.insert((sender, thread)).0
        };
        sender
            .send(job)
            .map_err(|_| gone("it has ended".to_owned()))
    }

    /// A channel that gets a message, or is disconnected, when all jobs queued so far are done;
    /// nothing if no job ever was.
    pub(super) fn marker(&self) -> Option<Receiver<()>> {
        let (sender, _) = self.0.as_ref()?;
        let (reached, done) = bounded(1);
        // The receiver may have gone; then nobody wants to know.
        let job = Box::new(move || {
            let _ = reached.send(());
        });
        sender.send(job).ok().map(|()| done)
    }

    /// Closes the queue; the thread ends after the jobs in it.
    pub(super) fn close(&mut self) -> Option<Thread> {
        self.0.take().map(|(_, thread)| thread)
    }

    /// Closes the queue and does a last job after those in it: on the thread, or here if there is none.
    pub(super) fn close_after(&mut self, last: impl FnOnce() + Send + 'static) -> Option<Thread> {
        let Some((sender, thread)) = self.0.take() else {
            last();
            return None;
        };
        match sender.send(Box::new(last)) {
            Ok(()) => Some(thread),
            Err(refused) => {
                // The thread has ended, so its jobs are over.
                (refused.0)();
                None
            }
        }
    }
}

const THREAD: &str = "communication thread";

/// The result of an asynchronous call, once it has one.
///
/// Dropping it does not cancel the operation, which the other ranks count on. If the operation fails, the groups of
/// this rank fail too, and [`Launcher::run`](crate::launch::Launcher::run) returns the error.
#[must_use = "the operation's result, or its failure, comes from `wait`"]
pub struct Work<R> {
    rank: usize,
    result: Pending<R>,
}

/// Source of a result.
enum Pending<R> {
    /// The communication thread.
    Queued(Receiver<WorkOutcome<R>>),
    /// Messages, for which the one who wants the result waits.
    Messages(Waiting<R>),
}

/// Outcome on its way to [`Work::wait`]. An error that is dropped on the way is a fault of the rank.
struct WorkOutcome<R> {
    result: Option<Result<R>>,
    lineage: Option<Arc<Lineage>>,
}

impl<R> Drop for WorkOutcome<R> {
    fn drop(&mut self) {
        // A panic is the better reason.
        if let (Some(Err(error)), Some(lineage)) = (self.result.take(), &self.lineage)
            && !std::thread::panicking()
        {
            tracing::error!("an operation whose `Work` was dropped failed: {error}");
            lineage.fault(error);
        }
    }
}

impl<R> std::fmt::Debug for Work<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("rank", &self.rank)
            .field("done", &self.is_done())
            .finish_non_exhaustive()
    }
}

impl<R: Send + 'static> Work<R> {
    /// A job that runs `operation`, and the handle of its result. The lineage gets an error that nobody waits for.
    pub(super) fn new(
        rank: usize,
        lineage: Option<Arc<Lineage>>,
        operation: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> (QueuedJob, Self) {
        let (sender, result) = bounded(1);
        let job = move || {
            // A result is sent whatever happens, or `is_done` would never say so.
            let outcome = catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|_| {
                let message = "an operation panicked on it".to_owned();
                Err(Error::System {
                    rank,
                    what: THREAD,
                    message,
                })
            });
            let result = Some(outcome);
            // The handle may have been dropped.
            let _ = sender.send(WorkOutcome { result, lineage });
        };
        let result = Pending::Queued(result);
        (Box::new(job), Self { rank, result })
    }
}

impl<R> Work<R> {
    /// A result that is there already. The lineage gets an error that nobody waits for.
    pub(super) fn ready(rank: usize, lineage: Option<Arc<Lineage>>, outcome: Result<R>) -> Self {
        let (sender, result) = bounded(1);
        let outcome = WorkOutcome {
            result: Some(outcome),
            lineage,
        };
        // The receiver is right here and the channel has room for one.
        let _ = sender.send(outcome);
        let result = Pending::Queued(result);
        Self { rank, result }
    }

    /// A result that waits for messages.
    pub(super) fn later(rank: usize, waiting: Waiting<R>) -> Self {
        let result = Pending::Messages(waiting);
        Self { rank, result }
    }

    /// Waits for the operation and returns its result.
    ///
    /// The wait has no deadline of its own: the operation has one, and those before it too.
    ///
    /// # Errors
    /// Those of the operation; [`Error::System`] if the communication thread could not be started.
    pub fn wait(self) -> Result<R> {
        let result = match self.result {
            Pending::Queued(result) => result,
            Pending::Messages(waiting) => return (waiting.job)(),
        };
        let outcome = result.recv().ok();
        outcome
            .and_then(|mut outcome| outcome.result.take())
            .unwrap_or_else(|| {
                let message = "it ended before the operation".to_owned();
                Err(Error::System {
                    rank: self.rank,
                    what: THREAD,
                    message,
                })
            })
    }

    /// Returns true if [`Self::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        match &self.result {
            Pending::Queued(result) => !result.is_empty(),
            Pending::Messages(waiting) => waiting.posted.iter().all(|posted| posted.is_over()),
        }
    }
}
