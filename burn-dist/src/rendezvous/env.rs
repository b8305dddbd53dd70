//! What launchers tell a process in its environment. A "rank" of the environment is a process here, which may
//! bring several ranks.
//!
//! | file | idea |
//! |---|---|
//! | `launchers` | which variables each launcher sets, and which launcher counts |
//! | `slurm`, `nodes` | what Slurm says: the step, its nodes and tasks |
//! | `pods` | what starts one process on each machine or Pod: Kubeflow, `SkyPilot`, `LeaderWorkerSet` |
//!
//! Everything is a function of a lookup, so that tests need no environment.

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod launchers;
mod nodes;
mod pods;
mod slurm;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::str::FromStr;
use std::time::Duration;

use super::config::{self, JobConfig, VisibleGpus};
use crate::error::{Error, JoinFailure, Result};
use crate::net::secret::Secret;
use crate::net::tls::Tls;

/// Names the file by which process 0 tells the others its address.
const ADDRESS_FILE: &str = "BURN_DIST_ADDRESS_FILE";
/// File for the reason of a failure; `burn-dist run` sets it.
const ERROR_FILE: &str = "BURN_DIST_ERROR_FILE";
/// Names the network interface that the others reach this process by.
const INTERFACE: &str = "BURN_DIST_INTERFACE";
/// Names the job.
const JOB: &str = "BURN_DIST_JOB";
/// The time to wait for the other processes, in seconds.
const JOIN_TIMEOUT: &str = "BURN_DIST_JOIN_TIMEOUT";
/// The silence after which a process is given up, in seconds.
const HEARTBEAT: &str = "BURN_DIST_HEARTBEAT";
/// The time that an operation waits for other ranks, in seconds.
const TIMEOUT: &str = "BURN_DIST_TIMEOUT";
/// The CUDA GPUs that a process sees.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

impl JobConfig {
    /// Reads the configuration from the variables of this process's launcher; none if no launcher started it.
    ///
    /// | launcher | variables |
    /// |---|---|
    /// | torchrun and alike | `RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`; `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `TORCHELASTIC_RUN_ID` |
    /// | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK`, `_LOCAL_SIZE`; `MASTER_ADDR` |
    /// | MPICH, Intel MPI, Cray | `PMI_RANK`, `PMI_SIZE`; `MPI_LOCALRANKID`, `MPI_LOCALNRANKS` or `PMI_LOCAL_RANK`, `PMI_LOCAL_SIZE`; `MASTER_ADDR` |
    /// | MVAPICH, jsrun, Horovod, Flux | `MV2_COMM_WORLD_RANK`, `JSM_NAMESPACE_RANK`, `HOROVOD_RANK`, `FLUX_TASK_RANK` and those beside them; `MASTER_ADDR` |
    /// | Slurm (`srun`) | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`, `SLURM_LOCALID`, `SLURM_STEP_TASKS_PER_NODE`; process 0 is on the first of `SLURM_STEP_NODELIST` and its port follows from `SLURM_JOB_ID` and `SLURM_STEP_ID`, unless `MASTER_ADDR` and `MASTER_PORT` say otherwise |
    /// | Kubeflow, started without torchrun | `PET_NODE_RANK`, `PET_NNODES`, `PET_MASTER_ADDR`, `PET_MASTER_PORT` |
    /// | `SkyPilot` | `SKYPILOT_NODE_RANK`, `SKYPILOT_NUM_NODES`, `SKYPILOT_NODE_IPS` |
    /// | `LeaderWorkerSet` | `LWS_WORKER_INDEX`, `LWS_GROUP_SIZE`, `LWS_LEADER_ADDRESS` |
    /// | Kubernetes indexed Job | `JOB_COMPLETION_INDEX`; `WORLD_SIZE`, `MASTER_ADDR` |
    ///
    /// Where several launchers have left their variables, the one that was started last counts: the first in
    /// this table. `MASTER_ADDR` may be left out where all processes are known to run on one machine. Where
    /// `MASTER_PORT` is not set, the port follows from the job's name, and is 29500 if it has none. Where
    /// `TORCHELASTIC_USE_AGENT_STORE` says that torchrun itself listens there, process 0 takes the next port.
    /// The script of a Slurm batch job is no process of a job: the tasks that `srun` starts are. A job of one
    /// process opens no port, and needs neither address nor secret.
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `BURN_DIST_SECRET`, `BURN_DIST_SECRET_FILE` | the [`secret`](Self::with_secret), or a file that holds it |
    /// | `BURN_DIST_JOB` | the [`name`](Self::with_name) of the job |
    /// | `BURN_DIST_INTERFACE` | the [`interface`](Self::with_interface) |
    /// | `BURN_DIST_JOIN_TIMEOUT`, `BURN_DIST_HEARTBEAT` | [`join_timeout`](Self::with_join_timeout) and [`heartbeat`](Self::with_heartbeat), in seconds |
    /// | `BURN_DIST_TLS_CERT`, `_KEY`, `_CA`, `_NAME` | the files of certificates, and their name if it is not `burn-dist`: see [`Tls`] |
    ///
    /// # Errors
    ///
    /// [`Error::Rendezvous`] with [`JoinFailure::Variable`] if only a part is set, or a value can't be
    /// right; it names the variable, its value and what is expected.
    pub fn from_env() -> Result<Option<Self>> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// [`from_env`](Self::from_env) with the variables that `lookup` knows.
    pub(crate) fn from_variables(
        lookup: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>> {
        let variables = Variables(lookup);
        // What can't be right is told even to a process that is alone.
        variables.check()?;
        let Some(place) = variables.place()? else {
            return Ok(None);
        };
        let told = variables.number("MASTER_PORT", "a port from 0 to 65535")?;
        if told == Some(0) && place.processes > 1 && lookup(ADDRESS_FILE).is_none() {
            let expected = format!("a port from 1 to 65535, or {ADDRESS_FILE} beside it");
            return Err(wrong("MASTER_PORT", "0".to_owned(), expected));
        }
        let host = variables.host(&place)?;
        let mut config = Self::new(place.process, place.processes, String::new())
            .local(place.local_process, place.local_processes)
            .with_secret(Secret::from_variables(lookup)?)
            .launched(place.job)
            .with_torchrun_listens(place.agent_listens);
        config = match (told, place.port) {
            (Some(port), _) if place.agent_listens => config.at(&host, beside(port)),
            (Some(port), _) | (None, PortSource::Known(port)) => config.at(&host, port),
            // Nobody meets there.
            (None, _) if place.processes == 1 => config.at(&host, 0),
            (None, PortSource::Told) => {
                return Err(unset("MASTER_PORT", "the port on which process 0 listens"));
            }
            (None, PortSource::Follows(number)) => config.at_port_of(&host, number),
        };
        config = config.with_visible_gpus(VisibleGpus {
            list: lookup(VISIBLE).map(|list| list.to_string_lossy().into_owned()),
            by_slurm: place.by_slurm,
            on_node: place.gpus_on_node,
        });
        if let Some(tls) = Tls::from_variables(lookup)? {
            config = config.with_tls(tls);
        }
        if let Some(file) = lookup(ADDRESS_FILE) {
            config = config.with_address_file(file);
        }
        if let Some(file) = lookup(ERROR_FILE) {
            config = config.with_error_file(file);
        }
        variables.settings(config).map(Some)
    }
}

/// The time that operations wait for other ranks, as `BURN_DIST_TIMEOUT` says.
///
/// # Errors
///
/// [`Error::Rendezvous`] with [`JoinFailure::Variable`] if it is no number of seconds.
pub(crate) fn operation_timeout() -> Result<Option<Duration>> {
    Variables(&|name| std::env::var_os(name)).seconds(TIMEOUT)
}

/// The position of this process in its job, from its launcher.
#[derive(Debug)]
struct LaunchPosition {
    process: usize,
    processes: usize,
    local_process: Option<usize>,
    local_processes: Option<usize>,
    /// The machine of process 0, if that follows from what the launcher says.
    host: Option<String>,
    port: PortSource,
    /// The launcher's own name of the job.
    job: Option<String>,
    /// True if the launcher itself listens on `MASTER_PORT`.
    agent_listens: bool,
    by_slurm: bool,
    gpus_on_node: Option<usize>,
}

/// Source of process 0's port, if `MASTER_PORT` is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PortSource {
    /// It must be set.
    Told,
    /// The launcher says it.
    Known(u16),
    /// It follows from the job's name, and from the launcher's number of the job, if it has one.
    Follows(Option<u64>),
}

/// The environment.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    /// The name or address of the machine of process 0.
    fn host(&self, place: &LaunchPosition) -> Result<String> {
        let expected = "the name or address of the machine of process 0";
        let local = place.local_processes.unwrap_or(1) == place.processes;
        let host = match (self.text("MASTER_ADDR")?, &place.host) {
            (Some(host), _) => host,
            (None, Some(host)) => host.clone(),
            (None, None) if local => "127.0.0.1".to_owned(),
            (None, None) => return Err(unset("MASTER_ADDR", expected)),
        };
        if host.trim().is_empty() || host.contains(char::is_whitespace) {
            return Err(wrong("MASTER_ADDR", host, expected.to_owned()));
        }
        Ok(host)
    }

    /// Refuses settings that can't be right.
    fn check(&self) -> Result<()> {
        for name in [JOIN_TIMEOUT, HEARTBEAT, TIMEOUT] {
            self.seconds(name)?;
        }
        self.job_name().map(drop)
    }

    /// Takes the settings that a user makes, whatever the launcher.
    fn settings(&self, mut config: JobConfig) -> Result<JobConfig> {
        if let Some(name) = self.job_name()? {
            config = config.with_name(name)?;
        }
        if let Some(timeout) = self.seconds(JOIN_TIMEOUT)? {
            config = config.with_join_timeout(timeout);
        }
        if let Some(heartbeat) = self.seconds(HEARTBEAT)? {
            config = config.with_heartbeat(heartbeat);
        }
        if let Some(interface) = self.text(INTERFACE)? {
            let interface = interface.trim();
            if interface.is_empty() {
                let expected = "a network interface of this machine, by name or address";
                return Err(wrong(INTERFACE, interface.to_owned(), expected.to_owned()));
            }
            config = config.with_interface(interface);
        }
        Ok(config)
    }

    fn job_name(&self) -> Result<Option<String>> {
        let Some(name) = self.text(JOB)? else {
            return Ok(None);
        };
        match config::check_name(&name) {
            Ok(()) => Ok(Some(name)),
            Err(what) => {
                let expected = format!("a name that only this job has; this one {what}");
                Err(wrong(JOB, name, expected))
            }
        }
    }

    fn seconds(&self, name: &'static str) -> Result<Option<Duration>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let seconds = text.trim().parse().ok();
        let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let time = time.filter(|time| !time.is_zero() && *time <= config::LONGEST);
        let time = time.ok_or_else(|| {
            let longest = config::LONGEST.as_secs();
            let expected = format!("a number of seconds above 0, at most {longest} (30 days)");
            wrong(name, text, expected)
        })?;
        Ok(Some(time))
    }

    fn has(&self, name: &str) -> bool {
        (self.0)(name).is_some()
    }

    fn text(&self, name: &'static str) -> Result<Option<String>> {
        let Some(value) = (self.0)(name) else {
            return Ok(None);
        };
        let text = value.into_string().map_err(|value| {
            wrong(
                name,
                value.to_string_lossy().into_owned(),
                "text".to_owned(),
            )
        })?;
        Ok(Some(text))
    }

    fn number<T: FromStr>(&self, name: &'static str, expected: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(wrong(name, text, expected.to_owned())),
        }
    }

    fn required(&self, name: &'static str, expected: &str) -> Result<usize> {
        self.number(name, expected)?
            .ok_or_else(|| unset(name, expected))
    }
}

/// The port beside one that is taken.
fn beside(port: u16) -> u16 {
    port.checked_add(1).unwrap_or(port - 1)
}

fn below(name: &'static str, number: usize, of: &str, count: usize) -> Result<()> {
    if number < count {
        return Ok(());
    }
    let expected = format!("a number from 0 to {}, because {of} is {count}", count - 1);
    Err(wrong(name, number.to_string(), expected))
}

fn wrong(name: &'static str, value: String, expected: String) -> Error {
    variable(name, Some(value), expected)
}

fn unset(name: &'static str, expected: &str) -> Error {
    variable(name, None, expected.to_owned())
}

fn variable(name: &'static str, value: Option<String>, expected: String) -> Error {
    JoinFailure::Variable {
        name,
        value,
        expected,
    }
    .unplaced()
}
