//! One rank of a run: its thread's body, and what all ranks of the process share.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use burn::tensor::Device;

use super::devices::on_flex;
use super::ends::{Ends, Stuck};
use super::failures::{Failures, failure_of, panic_message};
use super::threads::{BoxedError, Worker};
use crate::error::{Departure, Error, Result};
use crate::group::ProcessGroup;
use crate::norm;
use crate::random;

/// State shared by the ranks of a run in this process.
pub(super) struct Run {
    pub(super) process: usize,
    pub(super) address: Option<IpAddr>,
    /// Of each replica on the CPU.
    pub(super) threads: usize,
    pub(super) seed: u64,
    /// Time that ranks may run on after the run has failed.
    pub(super) grace: Duration,
    pub(super) failures: Failures,
    pub(super) ends: Ends,
    /// The first rank's membership in the group of all.
    pub(super) all: Option<ProcessGroup>,
}

impl Run {
    /// A rank's thread, until its end.
    pub(super) fn rank<R, E>(
        &self,
        device: &Device,
        group: &ProcessGroup,
        worker: &(impl Fn(Worker) -> Result<R, E> + Sync),
    ) -> Option<R>
    where
        R: Send,
        E: Into<BoxedError>,
    {
        let _end = self.ends.at_end_of(group.rank());
        self.body(device, group, worker)
    }

    pub(super) fn body<R, E>(
        &self,
        device: &Device,
        group: &ProcessGroup,
        worker: &(impl Fn(Worker) -> Result<R, E> + Sync),
    ) -> Option<R>
    where
        R: Send,
        E: Into<BoxedError>,
    {
        let pool = on_flex(device).then_some(self.threads);
        let seat = Worker::new(device, group, self.process, self.address);
        let (seed, rank) = (self.seed, group.rank());
        run_rank(group, seat, pool, &self.failures, &|seat| {
            // On the thread that the worker runs on, which is one of the pool.
            random::seed(seed, rank);
            worker(seat)
        })
    }

    pub(super) fn not_started(&self, group: &ProcessGroup, error: &std::io::Error) {
        drop(self.ends.at_end_of(group.rank()));
        let error = system(group.rank(), "thread of the rank", error);
        self.failures.note(group, &error);
    }

    /// Waits for the ranks. A failure of the group of all ranks is the run's too, though none here has ended
    /// with it: it may have begun in another process.
    pub(super) fn wait(&self) -> Option<Stuck> {
        let group = || self.all.as_ref()?.failure();
        self.ends
            .wait(|| self.failures.first().or_else(group), self.grace)
    }

    /// Ends a run whose ranks have all ended.
    pub(super) fn outcome<R>(&self, results: Option<Vec<R>>) -> Result<Vec<R>> {
        // The program may exit next, and the other processes have to be told how these ranks ended.
        if let Some(group) = &self.all {
            group.close_job();
        }
        match (self.failures.first(), results) {
            (None, Some(results)) => Ok(results),
            (Some(failure), _) => Err(failure),
            // A rank without a result has noted why.
            (None, None) => Err(system(0, "thread of a rank", &"it ended without a result")),
        }
    }
}

/// The body of a rank's thread.
fn run_rank<R, E>(
    group: &ProcessGroup,
    seat: Worker,
    pool: Option<usize>,
    failures: &Failures,
    worker: &(impl Fn(Worker) -> Result<R, E> + Sync),
) -> Option<R>
where
    R: Send,
    E: Into<BoxedError>,
{
    let rank = group.rank();
    let body = || {
        // All that the closure logs and traces carries its rank.
        let _span = tracing::info_span!("rank", rank).entered();
        let _here = norm::enter(group);
        // Errors are converted on the thread they arise on, so their own type need not be sendable.
        worker(seat).map_err(Into::<BoxedError>::into)
    };
    // The closure is not used again after a panic, and the group is told of it.
    let outcome = catch_unwind(AssertUnwindSafe(|| match pool {
        Some(threads) => on_pool(rank, threads, body),
        None => Ok(body()),
    }));
    match outcome {
        Ok(Ok(Ok(result))) => {
            if group.kept_fault().is_none() {
                // The other ranks count on asynchronous operations that nobody waited for, which may fail yet.
                group.finish();
            }
            if let Some(fault) = group.kept_fault() {
                failures.note(group, &fault);
                return None;
            }
            group.leave(&Departure::Returned);
            return Some(result);
        }
        Ok(Err(error)) => failures.note(group, &error),
        Ok(Ok(Err(cause))) => failures.note(group, &failure_of(rank, cause)),
        Err(payload) => {
            let reason = Departure::Panicked(panic_message(&*payload).into());
            let source = None;
            failures.note(
                group,
                &Error::Worker {
                    rank,
                    reason,
                    source,
                },
            );
        }
    }
    None
}

/// Runs `body` on a pool of its own, whose threads have ended when this returns.
fn on_pool<R: Send>(rank: usize, threads: usize, body: impl FnOnce() -> R + Send) -> Result<R> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |number| format!("{}-pool-{number}", thread_name(rank)))
        .build_scoped(rayon::ThreadBuilder::run, |pool| pool.install(body))
        .map_err(|error| system(rank, "pool of compute threads", &error))
}

pub(super) fn thread_name(rank: usize) -> String {
    format!("burn-dist-rank-{rank}")
}

pub(super) fn system(rank: usize, what: &'static str, error: &dyn std::fmt::Display) -> Error {
    Error::System {
        rank,
        what,
        message: error.to_string(),
    }
}
