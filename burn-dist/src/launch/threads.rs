//! The thread launcher: one operating-system thread per device, each running the user's closure.
//!
//! Threads: `burn-dist-rank-<r>` is started for each rank, and joined before [`Launcher::run`] returns.
//! A rank on the CPU backend also has a rayon pool of its own, `burn-dist-rank-<r>-pool-<i>`, owned by
//! its thread; its closure runs *on* that pool, so that all the parallel work it starts stays there.
//! All other state is the group's.
//!
//! When a rank fails, its thread notes the failure, tells the group, and ends; the others fail at their
//! next call. The failure noted first that isn't itself the echo of another is the run's.
//!
//! Callers: users, `examples`.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::Device;

use super::devices::on_flex;
use super::failures::{Failures, failure_of, panic_message};
use crate::error::{Departure, Error, JoinFailure, Result};
use crate::group::{DEFAULT_TIMEOUT, ProcessGroup};
use crate::norm;
use crate::random;
use crate::rendezvous::{self, Host, JobConfig, Joined};
use crate::transport::tcp::connect::{Place, connect};

/// What a worker's closure may fail with.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// One rank of a launched run: its device and its place in the group of all ranks.
#[derive(Clone, Debug)]
pub struct Worker {
    device: Device,
    group: ProcessGroup,
    process: usize,
    address: Option<IpAddr>,
}

impl Worker {
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

    /// Where the job's other processes reach this one; none in a job of this process alone.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
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
///     let sum = worker.group().all_reduce_tensor(ones, ReduceOp::Sum)?;
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
    E: Into<Cause>,
{
    Launcher::new(devices).run(worker)
}

/// Starts one thread per device. The devices may be equal: each is a replica.
#[derive(Clone, Debug)]
pub struct Launcher {
    devices: Vec<Device>,
    timeout: Option<Duration>,
    threads: Option<usize>,
    seed: u64,
    job: Option<JobConfig>,
    records: Option<PathBuf>,
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
        }
    }

    /// How long calls on the group wait for other ranks; by default as many seconds as the variable
    /// `BURN_DIST_TIMEOUT` says, or 5 minutes. Where processes have different ones, the shortest ends a wait
    /// for all.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How many threads each replica on the CPU backend computes with. By default, the machine's cores
    /// are shared evenly, with at least one for each.
    #[must_use]
    pub fn threads_per_replica(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The seed of the ranks' random streams (see [`random::seed`](crate::random::seed())), from which
    /// [`random::Dropout`](crate::random::Dropout) draws; 0 by default. Each rank has a stream of its own, the
    /// same in every run. All processes of a job give the same.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The folder for what each rank did last, in `burn-dist-rank-<rank>.json`, and for the comparison of
    /// all ranks, in `burn-dist-comparison-<process>.txt`, which one process writes. They are written
    /// when ranks have waited for one another in vain, or a process has fallen silent. By default it is a
    /// folder among the system's temporary files, with a name that no other job has; an event of the
    /// crate `tracing` tells it.
    #[must_use]
    pub fn records(mut self, folder: impl Into<PathBuf>) -> Self {
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
    /// Launcher::new(devices).job(JobConfig::from_env()?).run(|worker| {
    ///     println!("rank {} of {}", worker.rank(), worker.world_size());
    ///     worker.group().barrier()
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    #[must_use]
    pub fn job(mut self, job: impl Into<Option<JobConfig>>) -> Self {
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
    /// returns an error: nobody waits for it. All threads have ended when this returns.
    ///
    /// # Errors
    /// The first failure: [`Error::Worker`] for a rank that panicked or returned an error of its own;
    /// the group's error, if that is what a rank returned. [`Error::InvalidArgument`] without devices or
    /// with no thread for a replica; [`Error::System`] if a thread or pool can't be started;
    /// [`Error::Rendezvous`] if the job's processes don't find one another.
    pub fn run<R, E>(self, worker: impl Fn(Worker) -> Result<R, E> + Sync) -> Result<Vec<R>>
    where
        R: Send,
        E: Into<Cause>,
    {
        let call = "launch";
        if self.devices.is_empty() {
            let message = "no devices were given; give one for each rank".to_owned();
            return Err(Error::InvalidArgument {
                rank: 0,
                call,
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
        let process = self.job.as_ref().map_or(0, JobConfig::process);
        let seed = self.seed;
        let failures = Failures::new(self.job.as_ref().and_then(JobConfig::get_error_file));
        let results = thread::scope(|scope| {
            let mut ranks = Vec::with_capacity(groups.len());
            for (device, group) in self.devices.iter().zip(groups) {
                let (rank, group) = (group.rank(), group.with_timeout(timeout));
                let (worker, failures) = (&worker, &failures);
                let place = group.clone();
                let body = move || {
                    let pool = on_flex(device).then_some(threads);
                    let seat = Worker {
                        device: device.clone(),
                        group: group.clone(),
                        process,
                        address,
                    };
                    run_rank(&group, seat, pool, failures, &|seat| {
                        // On the thread that the worker runs on, which is one of the pool.
                        random::seed(seed, rank);
                        worker(seat)
                    })
                };
                let started = thread::Builder::new()
                    .name(thread_name(rank))
                    .spawn_scoped(scope, body);
                match started {
                    Ok(handle) => ranks.push(handle),
                    Err(error) => {
                        failures.note(&place, &system(rank, "thread of the rank", &error));
                    }
                }
            }
            let joined = ranks.into_iter().map(|rank| rank.join().ok().flatten());
            joined.collect::<Option<Vec<R>>>()
        });
        match (failures.first(), results) {
            (None, Some(results)) => Ok(results),
            (Some(failure), _) => Err(failure),
            // A rank without a result has noted why.
            (None, None) => Err(system(0, "thread of a rank", &"it ended without a result")),
        }
    }

    /// The memberships of this process's ranks in the group of all ranks, and where the job's other
    /// processes reach this one, if there are any.
    fn join(&self) -> Result<(Vec<ProcessGroup>, Option<IpAddr>)> {
        let several = |job: &&JobConfig| job.processes() > 1;
        if let Some(job) = &self.job {
            job.check()?;
        }
        let Some(job) = self.job.as_ref().filter(several) else {
            // The standard library's hashers are seeded at random.
            let number = RandomState::new().hash_one(std::process::id());
            let records = self.folder(number.into());
            return Ok((ProcessGroup::launched(self.devices.len(), records)?, None));
        };
        let started = Instant::now();
        let Joined {
            ranks_per_process,
            addresses,
            listener,
            job: number,
            heartbeat,
            mut store,
            host,
        } = rendezvous::join(job, self.devices.len())?;
        // Joining has checked that no clock overflows.
        let deadline = started + job.get_join_timeout();
        // There is one for each process.
        let address = addresses.get(job.process()).map(SocketAddr::ip);
        let place = Place {
            process: job.process(),
            addresses,
            listener,
            job: number,
            secret: job.get_secret().clone(),
            tls: job.get_tls().cloned(),
            heartbeat,
        };
        let records = self.folder(u128::from_be_bytes(number));
        let mut gone = || match store.gone() {
            Ok(None) => None,
            Ok(Some(process)) => Some(JoinFailure::Gone {
                process,
                reason: None,
            }),
            Err(error) => Some(error.into()),
        };
        let network = connect(place, deadline, &mut gone)?;
        // Process 0 may have closed the store by now.
        let _ = store.leave();
        // The store has done its work, too: from now on this process has no open port.
        let store = host.map(Host::close).unwrap_or_default();
        let transport = network.rejected();
        tracing::info!(
            process = job.process(),
            ranks = ?ranks_per_process,
            "all processes of the job are connected, and its ports are closed"
        );
        if store.total() + transport.total() > 0 {
            tracing::warn!(
                process = job.process(),
                %store,
                %transport,
                "connections were turned away while the job's ports were open"
            );
        }
        let groups = ProcessGroup::launched_world(network, &ranks_per_process, records)?;
        Ok((groups, address))
    }

    /// Where records are written, for the job with this number.
    fn folder(&self, job: u128) -> PathBuf {
        let by_default = || std::env::temp_dir().join(format!("burn-dist-{job:032x}"));
        self.records.clone().unwrap_or_else(by_default)
    }

    /// What can be wrong before this process joins its job: how many threads each replica on the CPU gets, and
    /// how long operations wait.
    fn settings(&self) -> Result<(usize, Duration)> {
        let timeout = match self.timeout {
            Some(timeout) => timeout,
            None => rendezvous::operation_timeout()?.unwrap_or(DEFAULT_TIMEOUT),
        };
        Ok((self.pool_size()?, timeout))
    }

    /// How many threads each replica on the CPU gets.
    fn pool_size(&self) -> Result<usize> {
        let replicas = self.devices.iter().filter(|device| on_flex(device)).count();
        match self.threads {
            Some(0) => Err(Error::InvalidArgument {
                rank: 0,
                call: "Launcher::threads_per_replica",
                message: "a replica needs at least one thread".to_owned(),
            }),
            Some(threads) => Ok(threads),
            None => {
                let cores = thread::available_parallelism().map_or(1, NonZero::get);
                // The job's other processes on this machine have as many.
                let processes = self.job.as_ref().and_then(JobConfig::local_processes);
                let replicas = replicas.max(1) * processes.unwrap_or(1).max(1);
                Ok((cores / replicas).max(1))
            }
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
    E: Into<Cause>,
{
    let rank = group.rank();
    let body = || {
        // All that the closure logs and traces carries its rank.
        let _span = tracing::info_span!("rank", rank).entered();
        let _here = norm::enter(group);
        // Errors are converted on the thread they arise on, so their own type need not be sendable.
        worker(seat).map_err(Into::<Cause>::into)
    };
    // The closure is not used again after a panic, and the group is told of it.
    let outcome = catch_unwind(AssertUnwindSafe(|| match pool {
        Some(threads) => on_pool(rank, threads, body),
        None => Ok(body()),
    }));
    match outcome {
        Ok(Ok(Ok(result))) => {
            if let Some(fault) = group.kept_fault() {
                failures.note(group, &fault);
                return None;
            }
            // Asynchronous operations that nobody waited for still belong to the others' too.
            group.finish();
            group.leave(&Departure::Returned);
            return Some(result);
        }
        Ok(Err(error)) => failures.note(group, &error),
        Ok(Ok(Err(cause))) => failures.note(group, &failure_of(rank, &*cause)),
        Err(payload) => {
            let reason = Departure::Panicked(panic_message(&*payload).into());
            failures.note(group, &Error::Worker { rank, reason });
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

fn thread_name(rank: usize) -> String {
    format!("burn-dist-rank-{rank}")
}

fn system(rank: usize, what: &'static str, error: &dyn std::fmt::Display) -> Error {
    Error::System {
        rank,
        what,
        message: error.to_string(),
    }
}
