//! What launchers tell a process in its environment: torchrun, Open MPI, Slurm, and indexed Jobs of
//! Kubernetes. A "rank" of the environment is a process here, which may bring several ranks.
//!
//! Where variables of several launchers are set, the one that was started last counts: torchrun's
//! before Open MPI's before Slurm's before Kubernetes', because inside an allocation of the latter one
//! starts the former.
//!
//! Everything is a function of a lookup, so that tests need no environment.
//!
//! Callers: training programs, by [`JobConfig::from_env`].

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod nodes;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::str::FromStr;

use super::config::JobConfig;
use super::secret::Secret;
use super::tls::Tls;
use crate::error::{Error, JoinFailure, Result};

/// The port where a launcher tells none; the one that users of `PyTorch` know.
const PORT: u16 = 29_500;
/// Says whether torchrun's own agent listens at `MASTER_ADDR` and `MASTER_PORT`: its usual way.
const AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";
/// Set for the tasks of a step, which `srun` starts, and not for the script of a batch job.
const SLURM_STEP: &str = "SLURM_STEP_NODELIST";
/// Names the file by which process 0 tells the others its address.
const ADDRESS_FILE: &str = "BURN_DIST_ADDRESS_FILE";
/// The file for the reason of a failure, which `cargo xtask launch` names.
const ERROR_FILE: &str = "BURN_DIST_ERROR_FILE";
/// Names the network interface that the others reach this process by.
const INTERFACE: &str = "BURN_DIST_INTERFACE";

impl JobConfig {
    /// What the launcher of this process says; none if it was not started by one.
    ///
    /// | launcher | variables |
    /// |---|---|
    /// | torchrun and alike | `RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`; `LOCAL_RANK`, `LOCAL_WORLD_SIZE` |
    /// | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK`, `_LOCAL_SIZE`; `MASTER_ADDR` |
    /// | Slurm (`srun`) | `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID`; process 0 is on the first of `SLURM_STEP_NODELIST` and its port follows from `SLURM_JOB_ID`, unless `MASTER_ADDR` and `MASTER_PORT` say otherwise |
    /// | Kubernetes indexed Job | `JOB_COMPLETION_INDEX`; `WORLD_SIZE`, `MASTER_ADDR` |
    ///
    /// `MASTER_PORT` is 29500 where it is not set and does not follow. Where `TORCHELASTIC_USE_AGENT_STORE`
    /// says that torchrun itself listens there, process 0 takes the next port. The script of a Slurm batch
    /// job is no process of a job: the tasks that `srun` starts are. The secret comes from
    /// `BURN_DIST_SECRET` or the file that `BURN_DIST_SECRET_FILE` names, the [`interface`](Self::interface)
    /// from `BURN_DIST_INTERFACE`. Where `BURN_DIST_TLS_CERT`,
    /// `BURN_DIST_TLS_KEY` and `BURN_DIST_TLS_CA` name the files of certificates (and, if it is not
    /// `burn-dist`, `BURN_DIST_TLS_NAME` their name), the job is encrypted: see [`Tls`].
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
        let Some(place) = variables.place()? else {
            return Ok(None);
        };
        let host = match variables.text("MASTER_ADDR")? {
            Some(host) => host,
            None => place.host.ok_or_else(|| {
                unset(
                    "MASTER_ADDR",
                    "the name or address of the machine of process 0",
                )
            })?,
        };
        let port = match variables.number("MASTER_PORT", "a port from 0 to 65535")? {
            Some(port) if place.agent_listens => beside(port),
            Some(port) => port,
            None => place
                .port
                .ok_or_else(|| unset("MASTER_PORT", "the port on which process 0 listens"))?,
        };
        if host.trim().is_empty() || host.contains(char::is_whitespace) {
            let expected = "the name or address of the machine of process 0";
            return Err(wrong("MASTER_ADDR", host, expected.to_owned()));
        }
        let master = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}") // an IPv6 address
        } else {
            format!("{host}:{port}")
        };
        let mut config = Self::new(place.process, place.processes, master)
            .local(place.local_process, place.local_processes)
            .secret(Secret::from_variables(lookup)?);
        if let Some(tls) = Tls::from_variables(lookup)? {
            config = config.tls(tls);
        }
        if let Some(file) = lookup(ADDRESS_FILE) {
            config = config.address_file(file);
        }
        if let Some(file) = lookup(ERROR_FILE) {
            config = config.error_file(file);
        }
        if let Some(interface) = variables.text(INTERFACE)? {
            let interface = interface.trim();
            if interface.is_empty() {
                let expected = "a network interface of this machine, by name or address";
                return Err(wrong(INTERFACE, interface.to_owned(), expected.to_owned()));
            }
            config = config.interface(interface);
        }
        if port == 0 && place.processes > 1 && lookup(ADDRESS_FILE).is_none() {
            let expected = format!("a port from 1 to 65535, or {ADDRESS_FILE} beside it");
            return Err(wrong("MASTER_PORT", "0".to_owned(), expected));
        }
        Ok(Some(config))
    }
}

/// Where this process stands in its job, as its launcher says.
#[derive(Debug)]
struct Place {
    process: usize,
    processes: usize,
    local_process: Option<usize>,
    local_processes: Option<usize>,
    /// Where process 0 is, if that follows from what the launcher says.
    host: Option<String>,
    port: Option<u16>,
    /// Whether the launcher itself listens on `MASTER_PORT`.
    agent_listens: bool,
}

/// The names of a launcher's variables.
struct Names {
    process: &'static str,
    processes: &'static str,
    local_process: Option<&'static str>,
    local_processes: Option<&'static str>,
}

const TORCHRUN: Names = Names {
    process: "RANK",
    processes: "WORLD_SIZE",
    local_process: Some("LOCAL_RANK"),
    local_processes: Some("LOCAL_WORLD_SIZE"),
};
const OPEN_MPI: Names = Names {
    process: "OMPI_COMM_WORLD_RANK",
    processes: "OMPI_COMM_WORLD_SIZE",
    local_process: Some("OMPI_COMM_WORLD_LOCAL_RANK"),
    local_processes: Some("OMPI_COMM_WORLD_LOCAL_SIZE"),
};
const SLURM: Names = Names {
    process: "SLURM_PROCID",
    processes: "SLURM_NTASKS",
    local_process: Some("SLURM_LOCALID"),
    local_processes: None,
};
const KUBERNETES: Names = Names {
    process: "JOB_COMPLETION_INDEX",
    processes: "WORLD_SIZE",
    local_process: None,
    local_processes: None,
};

/// The environment.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    /// What the launcher that was started last says.
    fn place(&self) -> Result<Option<Place>> {
        if self.has(TORCHRUN.process) {
            let place = self.read(&TORCHRUN)?;
            let agent_listens = self.text(AGENT_STORE)?.is_some_and(|told| told == "True");
            return Ok(Some(Place {
                agent_listens,
                ..place
            }));
        }
        if self.has(OPEN_MPI.process) || self.has(OPEN_MPI.processes) {
            let place = self.read(&OPEN_MPI)?;
            let port = Some(PORT);
            return Ok(Some(Place { port, ..place }));
        }
        // The script of a batch job has a number too, and counts the tasks that it may start.
        if self.has(SLURM.process) && self.has(SLURM_STEP) {
            return self.slurm().map(Some);
        }
        if self.has(KUBERNETES.process) {
            // Every indexed Job has an index; only one that is told of others is distributed.
            if !self.has("WORLD_SIZE") && !self.has("MASTER_ADDR") {
                return Ok(None);
            }
            let place = self.read(&KUBERNETES)?;
            let port = Some(PORT);
            return Ok(Some(Place { port, ..place }));
        }
        for name in [
            "WORLD_SIZE",
            "MASTER_ADDR",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
        ] {
            if let Some(value) = self.text(name)? {
                let expected = format!("the number of this process, because {name} is {value:?}");
                return Err(unset("RANK", &expected));
            }
        }
        Ok(None)
    }

    fn slurm(&self) -> Result<Place> {
        let place = self.read(&SLURM)?;
        // The step's nodes may be a part of the job's.
        let host = match self.text(SLURM_STEP)? {
            Some(list) => Some(nodes::first(&list).ok_or_else(|| {
                let expected = "a list of nodes, as node[01-04,7]".to_owned();
                wrong(SLURM_STEP, list, expected)
            })?),
            None => None,
        };
        let job: Option<u64> = self.number("SLURM_JOB_ID", "the number of the job")?;
        // Below the ports that systems give to connections, and rarely the same for two jobs.
        let port = job.map_or(PORT, |job| 10_000 + (job % 20_000) as u16);
        let port = Some(port);
        Ok(Place {
            host,
            port,
            ..place
        })
    }

    /// Reads and checks a launcher's variables.
    fn read(&self, names: &Names) -> Result<Place> {
        let process = self.required(names.process, "the number of this process, from 0")?;
        let processes = self.required(names.processes, "how many processes the job has")?;
        if processes == 0 {
            let expected = "how many processes the job has, at least 1".to_owned();
            return Err(wrong(names.processes, processes.to_string(), expected));
        }
        below(names.process, process, names.processes, processes)?;
        let optional = |name: Option<&'static str>| match name {
            Some(name) => self.number(name, "a number of processes on this machine"),
            None => Ok(None),
        };
        let local_process = optional(names.local_process)?;
        let local_processes = optional(names.local_processes)?;
        if let (Some(name), Some(count)) = (names.local_processes, local_processes)
            && !(1..=processes).contains(&count)
        {
            let expected = format!("from 1 to {processes} ({})", names.processes);
            return Err(wrong(name, count.to_string(), expected));
        }
        if let (Some(name), Some(number)) = (names.local_process, local_process) {
            let of = names.local_processes.unwrap_or(names.processes);
            let (of, count) = match local_processes {
                Some(count) => (of, count),
                None => (names.processes, processes),
            };
            below(name, number, of, count)?;
        }
        Ok(Place {
            process,
            processes,
            local_process,
            local_processes,
            host: None,
            port: None,
            agent_listens: false,
        })
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
