//! The configuration by which a process joins its job.

mod name;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::crossovers::{Crossovers, Tuned};
use super::options::Options;
use crate::error::{Error, JoinFailure, Result};
use crate::net::secret::Secret;
use crate::net::tls::Tls;
pub(super) use name::check_name;

/// Default time for all processes to join.
const JOIN_TIMEOUT: Duration = Duration::from_mins(5);
/// Default silence after which a process is lost. A process that stands still for less than two thirds of it is
/// never lost: its last heartbeat may be a third of it older.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Configuration of a process in its job: its number, the number of processes, and the address of process 0. A
/// process may have several ranks (one for each of its devices).
///
/// [`from_env`](Self::from_env) reads it from the variables of launchers. Later calls of `with_*` replace its
/// settings.
///
/// # Example
///
/// ```
/// use burn_dist::{JobConfig, Secret};
///
/// // Process 1 of 2; process 0 runs on the machine 10.0.0.1.
/// let job = JobConfig::new(1, 2, "10.0.0.1:29500")
///     .with_secret(Secret::new(b"5f1d7a84db00d2fce00b31a7fc73224f"))
///     .with_join_timeout(std::time::Duration::from_secs(60));
/// assert_eq!((job.process(), job.processes()), (1, 2));
/// ```
#[derive(Clone, Debug)]
pub struct JobConfig {
    process: usize,
    processes: usize,
    local_process: Option<usize>,
    local_processes: Option<usize>,
    master: String,
    address_file: Option<PathBuf>,
    listener: Option<Arc<Mutex<Option<TcpListener>>>>,
    error_file: Option<PathBuf>,
    interface: Option<String>,
    secret: Secret,
    tls: Option<Tls>,
    join_timeout: Duration,
    heartbeat: Duration,
    options: Options,
    crossovers: Option<Crossovers>,
    /// The job's name as its launcher gives it.
    launcher_job: Option<String>,
    /// The job's name as a person gives it.
    name: Option<String>,
    /// The host of process 0 and the launcher's number of the job, where the port follows from the name.
    named_port: Option<(String, Option<u64>)>,
    agent_listens: bool,
    gpus: VisibleGpus,
}

/// CUDA GPUs that the launcher makes visible to this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct VisibleGpus {
    /// `CUDA_VISIBLE_DEVICES`.
    pub(crate) list: Option<String>,
    /// True if Slurm has started this process.
    pub(crate) by_slurm: bool,
    /// The number of GPUs that all processes of the job's step have on this machine.
    pub(crate) on_node: Option<usize>,
}

impl JobConfig {
    /// Process `process` of `processes`, counted from 0, in the job whose process 0 listens on `master`
    /// (`host:port`, with an IPv6 address in brackets).
    pub fn new(process: usize, processes: usize, master: impl Into<String>) -> Self {
        Self {
            process,
            processes,
            local_process: None,
            local_processes: None,
            master: master.into(),
            address_file: None,
            listener: None,
            error_file: None,
            interface: None,
            secret: Secret::default(),
            tls: None,
            join_timeout: JOIN_TIMEOUT,
            heartbeat: HEARTBEAT,
            options: Options::default(),
            crossovers: None,
            launcher_job: None,
            name: None,
            named_port: None,
            agent_listens: false,
            gpus: VisibleGpus::default(),
        }
    }

    /// Declares options that must be the same in all processes of the job, as text: a learning rate, a seed,
    /// a batch size. Joining compares them and fails on all processes where they differ, naming the option,
    /// the values and the processes. Called again, it declares more.
    ///
    /// Paths, addresses and whatever else may differ from machine to machine do not belong here. Values of
    /// more than 256 bytes are compared by their hash.
    ///
    /// ```
    /// use burn_dist::JobConfig;
    ///
    /// let (rate, seed) = (0.03, 42);
    /// let job = JobConfig::new(1, 2, "10.0.0.1:29500")
    ///     .with_options([("--lr", rate.to_string()), ("--seed", seed.to_string())]);
    /// ```
    #[must_use]
    pub fn with_options<N: Into<String>, V: AsRef<str>>(
        mut self,
        options: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        for (name, value) in options {
            self.options.push(name.into(), value.as_ref());
        }
        self
    }

    /// Sets the sizes at which collectives change their algorithm (default: those of [`Crossovers::default`]). Process
    /// 0's hold for the whole job. They change how long an operation takes, and never its result.
    #[must_use]
    pub fn with_crossovers(mut self, crossovers: Crossovers) -> Self {
        self.crossovers = Some(crossovers);
        self
    }

    /// Sets the sizes at which collectives change their algorithm, as [`with_crossovers`](Self::with_crossovers), to
    /// those of a file that `burn-dist bench tune` has written. Process 0 alone reads it.
    ///
    /// # Errors
    /// [`Error::Rendezvous`] if the file can't be read, or was measured with another number of processes.
    pub fn with_crossovers_file(self, file: impl AsRef<Path>) -> Result<Self> {
        if self.process > 0 {
            return Ok(self);
        }
        let (file, processes) = (file.as_ref(), self.processes);
        let fault = |what: String| {
            let message = format!(
                "the crossovers of {}: {what}; measure them with `burn-dist bench tune` in a job of {processes} \
                 processes",
                file.display()
            );
            self.fault(self.master.clone(), JoinFailure::Configuration(message))
        };
        let tuned = Tuned::read(file).map_err(|cause| fault(cause.to_string()))?;
        if tuned.processes != processes {
            return Err(fault(format!(
                "they were measured with {} processes",
                tuned.processes
            )));
        }
        Ok(self.with_crossovers(tuned.crossovers))
    }

    /// The secret that the job's processes share (default: none, which only jobs on one machine may
    /// have).
    #[must_use]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.secret = secret;
        self
    }

    /// The certificate of this process: with it, all that the job's processes send one another is
    /// encrypted (default: none, then nothing is). Every process must have one, or none.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The network interface of this machine that the other processes reach it by, by its name (`eth0`,
    /// `ib0`) or by an address of it (default: the address that this machine uses towards process 0; for
    /// process 0 the master's).
    ///
    /// Of an interface's addresses the first is taken that is of the kind (IPv4 or IPv6) by which process 0
    /// is reached, or else the first of the other kind.
    ///
    /// ```
    /// use burn_dist::JobConfig;
    ///
    /// let job = JobConfig::new(1, 2, "10.0.0.1:29500").with_interface("ib0");
    /// ```
    #[must_use]
    pub fn with_interface(mut self, interface: impl Into<String>) -> Self {
        self.interface = Some(interface.into());
        self
    }

    /// Sets the time to wait for the other processes (default: 5 minutes).
    #[must_use]
    pub fn with_join_timeout(mut self, timeout: Duration) -> Self {
        self.join_timeout = timeout;
        self
    }

    /// After how long a silence another process is given up (default: 30 seconds). Process 0's counts for
    /// the whole job. A connection that breaks is noticed at once, whatever this says.
    #[must_use]
    pub fn with_heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// A file by which process 0 tells the others its address, for a job on one machine whose port is
    /// 0 (the system chooses). It must not exist before the job starts.
    #[must_use]
    pub fn with_address_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.address_file = Some(file.into());
        self
    }

    /// A file into which this process writes why it failed, if the failure began in it and not in another
    /// process: by it a launcher of several processes finds the one that is at fault, for the others may
    /// be quicker to end (default: none).
    #[must_use]
    pub fn with_error_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.error_file = Some(file.into());
        self
    }

    /// A listener that process 0 uses instead of making one at the master's address. It serves one
    /// job: who joins a second time makes a new one.
    #[must_use]
    pub fn with_listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(Arc::new(Mutex::new(Some(listener))));
        self
    }

    pub(super) fn local(mut self, process: Option<usize>, processes: Option<usize>) -> Self {
        (self.local_process, self.local_processes) = (process, processes);
        self
    }

    /// This process's number in the job, from 0.
    pub fn process(&self) -> usize {
        self.process
    }

    /// Returns the number of processes of the job.
    pub fn processes(&self) -> usize {
        self.processes
    }

    /// This process's number among those of its machine, if the launcher told it.
    pub fn local_process(&self) -> Option<usize> {
        self.local_process
    }

    /// Returns the number of the job's processes on this machine, if the launcher set it.
    pub fn local_processes(&self) -> Option<usize> {
        self.local_processes
    }

    /// Returns the address of process 0, `host:port`.
    pub fn master(&self) -> &str {
        &self.master
    }

    pub(super) fn crossovers(&self) -> Option<&Crossovers> {
        self.crossovers.as_ref()
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Notes that the launcher's agent listens at the master's address: then its machine need not be that of
    /// process 0.
    pub(super) fn with_torchrun_listens(mut self, listens: bool) -> Self {
        self.agent_listens = listens;
        self
    }

    pub(super) fn with_visible_gpus(mut self, gpus: VisibleGpus) -> Self {
        self.gpus = gpus;
        self
    }

    pub(super) fn torchrun_listens(&self) -> bool {
        self.agent_listens
    }

    pub(crate) fn visible_gpus(&self) -> &VisibleGpus {
        &self.gpus
    }

    pub(crate) fn error_file(&self) -> Option<&Path> {
        self.error_file.as_deref()
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    pub(crate) fn interface(&self) -> Option<&str> {
        self.interface.as_deref()
    }

    pub(crate) fn join_timeout(&self) -> Duration {
        self.join_timeout
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    pub(super) fn address_file(&self) -> Option<&Path> {
        self.address_file.as_deref()
    }

    /// The caller's listener, the first time.
    pub(super) fn take_listener(&self) -> Option<TcpListener> {
        let listener = self.listener.as_ref()?;
        listener.lock().take()
    }

    /// Checks the settings that can be checked without a network, and returns the master's host and port.
    pub(crate) fn check(&self) -> Result<(&str, u16)> {
        let fault =
            |message: String| self.fault(self.master.clone(), JoinFailure::Configuration(message));
        if self.processes == 0 || self.process >= self.processes {
            return Err(fault(format!(
                "there is no process {} in a job of {} processes; they are counted from 0",
                self.process, self.processes
            )));
        }
        for (what, time) in [
            ("join timeout", self.join_timeout),
            ("heartbeat", self.heartbeat),
        ] {
            if time.is_zero() || time > LONGEST {
                return Err(fault(format!(
                    "a {what} of {time:?}; it must be more than nothing and at most 30 days"
                )));
            }
        }
        self.options.check().map_err(fault)?;
        if let Some(tls) = &self.tls {
            let checked = tls.check();
            checked.map_err(|failure| self.fault(self.master.clone(), failure))?;
        }
        let parts = self.master.rsplit_once(':');
        let parts = parts.and_then(|(host, port)| Some((bare(host)?, port.parse().ok()?)));
        let (host, port) = parts.ok_or_else(|| {
            fault(format!(
                "process 0's address is given as {:?}; expected host:port with a port up to 65535, and \
                 brackets around an IPv6 address",
                self.master
            ))
        })?;
        let told = self.address_file.is_some() || self.listener.is_some() || self.processes == 1;
        if port == 0 && !told {
            return Err(fault(
                "port 0 lets the system choose, and then the other processes can't know it; choose a \
                 port (MASTER_PORT), or give all of them a file for it (BURN_DIST_ADDRESS_FILE)"
                    .to_owned(),
            ));
        }
        Ok((host, port))
    }

    /// An error of this process.
    pub(super) fn fault(&self, address: String, failure: JoinFailure) -> Error {
        Error::Rendezvous {
            process: Some(self.process),
            address,
            failure,
        }
    }
}

/// The longest time to wait for anything: far more than anyone waits, and no clock overflows with it.
pub(super) const LONGEST: Duration = Duration::from_hours(30 * 24);

/// A host without the brackets of an IPv6 address; none if it is no host.
fn bare(host: &str) -> Option<&str> {
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty() && !host.contains(char::is_whitespace)).then_some(host)
}
