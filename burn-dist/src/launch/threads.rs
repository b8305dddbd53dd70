//! The thread launcher: one operating-system thread per device, each running the user's closure.
//!
//! Threads: `burn-dist-rank-<r>` is started for each rank, and joined before [`Launcher::run`] returns;
//! [`Launcher::run_detached`] leaves those behind that are stuck when the run has failed (`ends`).
//! A rank on the CPU backend also has a rayon pool of its own, `burn-dist-rank-<r>-pool-<i>`, owned by
//! its thread; its closure runs *on* that pool, so that all the parallel work it starts stays there.
//! All other state is the group's.
//!
//! When a rank fails, its thread notes the failure, tells the group, and ends; the others fail at their
//! next call. The failure noted first that isn't itself the echo of another is the run's.

use parking_lot::Mutex;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use burn::tensor::Device;

use super::ends::{Ends, Stuck};
use super::failures::Failures;
use super::run::{Run, thread_name};
use crate::error::{Error, Ranks, Result};
use crate::group::{ProcessGroup, Traffic};
use crate::rendezvous::JobConfig;
use crate::transport::thread::Thread;

/// Default time that ranks may take to end after the run has failed; less if the timeout is shorter.
const GRACE: Duration = Duration::from_secs(30);

/// Error of a worker's closure.
pub(super) type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// One rank of a launched run: its device and its place in the group of all ranks.
#[derive(Clone, Debug)]
pub struct Worker {
    device: Device,
    group: ProcessGroup,
    process: usize,
    address: Option<IpAddr>,
}

impl Worker {
    pub(super) fn new(
        device: &Device,
        group: &ProcessGroup,
        process: usize,
        address: Option<IpAddr>,
    ) -> Self {
        Self {
            device: device.clone(),
            group: group.clone(),
            process,
            address,
        }
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.group.rank()
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.group.world_size()
    }

    /// The device of this rank.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The group of all ranks.
    pub fn group(&self) -> &ProcessGroup {
        &self.group
    }

    /// The number of this rank's process in its job; 0 in a job of this process alone.
    pub fn process(&self) -> usize {
        self.process
    }

    /// Returns the address at which the job's other processes reach this one; none in a job of one process.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Returns what this rank's process has sent to the job's other processes since it joined. It is nothing in a job
    /// of one process.
    ///
    /// ```
    /// # use burn::tensor::Device;
    /// # use burn_dist::launch::launch;
    /// launch(vec![Device::flex(); 2], |worker| {
    ///     worker.group().barrier()?;
    ///     assert_eq!(worker.traffic().messages, 0, "threads share memory");
    ///     Ok::<_, burn_dist::Error>(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn traffic(&self) -> Traffic {
        self.group.traffic()
    }
}

/// Runs `worker` once per device, each on a thread of its own, with the default settings of
/// [`Launcher`].
///
/// # Errors
/// See [`Launcher::run`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::{ReduceOp, launch::launch};
///
/// let sums = launch(vec![Device::flex(); 2], |worker| {
///     let ones = Tensor::<1>::ones([3], worker.device());
///     let sum = worker.group().all_reduce(ones, ReduceOp::Sum)?;
///     Ok::<f32, burn_dist::Error>(sum.sum().into_scalar())
/// })?;
/// assert_eq!(sums, [6.0, 6.0]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub fn launch<R, E>(
    devices: Vec<Device>,
    worker: impl Fn(Worker) -> Result<R, E> + Sync,
) -> Result<Vec<R>>
where
    R: Send,
    E: Into<BoxedError>,
{
    Launcher::new(devices).run(worker)
}

/// Starts one thread per device. The devices may be equal: each is a replica.
#[derive(Clone, Debug)]
pub struct Launcher {
    pub(super) devices: Vec<Device>,
    pub(super) timeout: Option<Duration>,
    pub(super) threads: Option<usize>,
    seed: u64,
    pub(super) job: Option<JobConfig>,
    pub(super) records: Option<PathBuf>,
    grace: Option<Duration>,
    on_stuck: Option<OnStuck>,
}

/// Action of a program on ranks that are stuck.
#[derive(Clone)]
struct OnStuck(Arc<dyn Fn(&Error) + Send + Sync>);

impl std::fmt::Debug for OnStuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnStuck")
    }
}

impl Launcher {
    /// A launcher for these devices, the first of which is rank 0's.
    pub fn new(devices: Vec<Device>) -> Self {
        Self {
            devices,
            timeout: None,
            threads: None,
            seed: 0,
            job: None,
            records: None,
            grace: None,
            on_stuck: None,
        }
    }

    /// Sets the time that calls on the group wait for other ranks. The default is the number of seconds in the
    /// variable `BURN_DIST_TIMEOUT`, or 5 minutes. If processes differ, the shortest time ends a wait for all.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the time that ranks may run on after the run has failed, before they count as stuck. The default is
    /// 30 seconds, or the timeout if that is shorter.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Calls `hook` with the run's failure when ranks are stuck: in an endless loop, a sleep or a system call.
    /// [`Self::run`] can't return before they end, so a program that must not hang exits here:
    ///
    /// ```no_run
    /// # use burn::tensor::Device;
    /// # use burn_dist::launch::Launcher;
    /// # let devices = vec![Device::flex(); 2];
    /// let launcher = Launcher::new(devices).with_on_stuck(|error| {
    ///     eprintln!("{error}");
    ///     std::process::exit(1);
    /// });
    /// ```
    #[must_use]
    pub fn with_on_stuck(mut self, hook: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_stuck = Some(OnStuck(Arc::new(hook)));
        self
    }

    /// Sets the number of threads that each replica on the CPU backend computes with. By default the replicas
    /// share the machine's cores evenly, with at least one thread each.
    #[must_use]
    pub fn with_threads_per_replica(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The seed of the ranks' random streams (see [`random::seed`](crate::random::seed())), from which
    /// [`random::Dropout`](crate::random::Dropout) draws; 0 by default. Each rank has a stream of its own, the
    /// same in every run. All processes of a job give the same.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The folder for what each rank did last, in `burn-dist-rank-<rank>.json`, and for the comparison of
    /// all ranks, in `burn-dist-comparison-<process>.txt`, which one process writes. They are written
    /// when ranks have waited for one another in vain, or a process has fallen silent. By default it is a
    /// folder among the system's temporary files, with a name that no other job has; an event of the
    /// crate `tracing` tells it.
    #[must_use]
    pub fn with_records(mut self, folder: impl Into<PathBuf>) -> Self {
        self.records = Some(folder.into());
        self
    }

    /// Makes this process one of a job's: its ranks are numbered after those of the processes before it,
    /// and its groups span all processes. `None` is a job of this process alone, so that what
    /// [`JobConfig::from_env`] gives can be passed on. A job of one process opens no port.
    ///
    /// ```no_run
    /// use burn::tensor::Device;
    /// use burn_dist::{JobConfig, launch::Launcher};
    ///
    /// let devices = vec![Device::flex().autodiff(); 2];
    /// Launcher::new(devices).with_job(JobConfig::from_env()?).run(|worker| {
    ///     println!("rank {} of {}", worker.rank(), worker.world_size());
    ///     worker.group().barrier()
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    #[must_use]
    pub fn with_job(mut self, job: impl Into<Option<JobConfig>>) -> Self {
        self.job = job.into();
        self
    }

    /// The number of this process in its job.
    #[cfg(feature = "train")]
    pub(crate) fn process(&self) -> usize {
        self.job.as_ref().map_or(0, JobConfig::process)
    }

    /// Runs `worker` on every rank of this process and returns their results in rank order.
    ///
    /// A rank that returns while others still need it is an error on those, as is one that panics or
    /// returns an error: nobody waits for it.
    ///
    /// The closure may borrow, so all threads have ended when this returns. Once the run has failed, ranks that
    /// do not end are waited for, and named in the log (`error`) with the failure: the program can exit in
    /// [`Self::with_on_stuck`], or use [`Self::run_detached`].
    ///
    /// # Errors
    /// The first failure: [`Error::Worker`] for a rank that panicked or returned an error of its own, which is
    /// the source; the library's error, if that is what a rank returned, or what caused it.
    /// [`Error::InvalidArgument`] without devices or with no thread for a replica; [`Error::System`] if a thread
    /// or pool can't be started; [`Error::Rendezvous`] if the job's processes don't find one another.
    pub fn run<R, E>(self, worker: impl Fn(Worker) -> Result<R, E> + Sync) -> Result<Vec<R>>
    where
        R: Send,
        E: Into<BoxedError>,
    {
        let (run, groups) = self.begin()?;
        let (run, worker) = (&run, &worker);
        let results = thread::scope(|scope| {
            let mut ranks = Vec::with_capacity(groups.len());
            for (device, group) in self.devices.iter().zip(groups) {
                let (rank, place) = (group.rank(), group.clone());
                let started = thread::Builder::new()
                    .name(thread_name(rank))
                    .spawn_scoped(scope, move || run.rank(device, &group, worker));
                match started {
                    Ok(handle) => ranks.push(handle),
                    Err(error) => run.not_started(&place, &error),
                }
            }
            if let Some(stuck) = run.wait() {
                self.report(run, &stuck, "they are waited for");
            }
            let joined = ranks.into_iter().map(|rank| rank.join().ok().flatten());
            joined.collect::<Option<Vec<R>>>()
        });
        run.outcome(results)
    }

    /// As [`Self::run`], for a closure that owns what it uses: ranks that are stuck [a while](Self::with_grace) after
    /// the run has failed are left behind, which is in the log (`error`), and the failure is returned. Their
    /// threads end with the process.
    ///
    /// # Errors
    /// As [`Self::run`].
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use burn_dist::launch::Launcher;
    ///
    /// let names = vec!["a", "b"];
    /// let launcher = Launcher::new(vec![Device::flex(); 2]);
    /// let mine = launcher.run_detached(move |worker| Ok::<_, burn_dist::Error>(names[worker.rank()]))?;
    /// assert_eq!(mine, ["a", "b"]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn run_detached<R, E>(
        self,
        worker: impl Fn(Worker) -> Result<R, E> + Send + Sync + 'static,
    ) -> Result<Vec<R>>
    where
        R: Send + 'static,
        E: Into<BoxedError> + 'static,
    {
        let (run, groups) = self.begin()?;
        let run = Arc::new(run);
        let worker = Arc::new(worker);
        let results: Vec<_> = groups.iter().map(|_| None).collect();
        let results = Arc::new(Mutex::new(results));
        for (number, (device, group)) in self.devices.iter().zip(groups).enumerate() {
            let (device, place) = (device.clone(), group.clone());
            let (run, worker, results) = (run.clone(), worker.clone(), results.clone());
            let (name, starter) = (thread_name(group.rank()), run.clone());
            let body = move || {
                let _end = run.ends.at_end_of(group.rank());
                let result = run.body(&device, &group, &*worker);
                let mut results = results.lock();
                results[number] = result;
            };
            if let Err(error) = Thread::spawn(name, body) {
                starter.not_started(&place, &error);
            }
        }
        if let Some(stuck) = run.wait() {
            self.report(&run, &stuck, "their threads are left behind");
            return Err(run.failures.first().unwrap_or(stuck.error));
        }
        let mut results = results.lock();
        let results = results.drain(..).collect::<Option<Vec<R>>>();
        run.outcome(results)
    }

    /// Joins the job; gives what its ranks share, and their memberships.
    fn begin(&self) -> Result<(Run, Vec<ProcessGroup>)> {
        if self.devices.is_empty() {
            let message = "no devices were given; give one for each rank".to_owned();
            return Err(Error::InvalidArgument {
                rank: 0,
                call: "launch",
                message,
            });
        }
        let (threads, timeout) = self.settings().inspect_err(|error| {
            if let Some(job) = &self.job {
                // Who can't be told waits.
                let _ = job.abandon(error);
            }
        })?;
        let (groups, address) = self.join()?;
        let groups: Vec<_> = groups
            .into_iter()
            .map(|group| group.with_timeout(timeout))
            .collect();
        let run = Run {
            process: self.job.as_ref().map_or(0, JobConfig::process),
            address,
            threads,
            seed: self.seed,
            grace: self.grace.unwrap_or(GRACE.min(timeout)),
            failures: Failures::new(self.job.as_ref().and_then(JobConfig::error_file)),
            ends: Ends::new(groups.iter().map(ProcessGroup::rank).collect()),
            all: groups.first().cloned(),
        };
        Ok((run, groups))
    }

    fn report(&self, run: &Run, stuck: &Stuck, what: &str) {
        let Stuck { ranks, error } = stuck;
        let (ranks, after) = (Ranks(ranks), run.grace.as_secs_f64());
        tracing::error!("{ranks} still run {after:.1} s after the run has failed; {what}: {error}");
        if let Some(OnStuck(hook)) = &self.on_stuck {
            hook(error);
        }
    }
}
