//! What a run needs before its ranks start: the group of all ranks, how many threads each computes with, how
//! long operations wait.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::devices::on_flex;
use super::threads::Launcher;
use crate::error::{Error, JoinFailure, Result};
use crate::group::{DEFAULT_TIMEOUT, ProcessGroup};
use crate::rendezvous::{self, Host, JobConfig, Joined};
use crate::transport::tcp::connect::{NetworkConfig, connect};

impl Launcher {
    /// The memberships of this process's ranks in the group of all ranks, and where the job's other
    /// processes reach this one, if there are any.
    pub(super) fn join(&self) -> Result<(Vec<ProcessGroup>, Option<IpAddr>)> {
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
            crossovers,
            mut store,
            host,
        } = rendezvous::join(job, self.devices.len())?;
        // Joining has checked that no clock overflows.
        let deadline = started + job.join_timeout();
        // There is one for each process.
        let address = addresses.get(job.process()).map(SocketAddr::ip);
        let place = NetworkConfig {
            process: job.process(),
            addresses,
            listener,
            job: number,
            secret: job.secret().clone(),
            tls: job.tls().cloned(),
            heartbeat,
        };
        let records = self.folder(u128::from_be_bytes(number));
        let mut gone = || match store.gone(deadline) {
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
        close_store(host, job.process(), &ranks_per_process);
        let groups =
            ProcessGroup::launched_world(network, &ranks_per_process, records, crossovers)?;
        Ok((groups, address))
    }

    /// Returns the directory for the records of the job with this number.
    fn folder(&self, job: u128) -> PathBuf {
        let by_default = || std::env::temp_dir().join(format!("burn-dist-{job:032x}"));
        self.records.clone().unwrap_or_else(by_default)
    }

    /// Checks the settings before this process joins its job. Returns the number of threads of each replica on
    /// the CPU, and the timeout of operations.
    pub(super) fn settings(&self) -> Result<(usize, Duration)> {
        let timeout = match self.timeout {
            Some(timeout) => timeout,
            None => rendezvous::operation_timeout()?.unwrap_or(DEFAULT_TIMEOUT),
        };
        Ok((self.pool_size()?, timeout))
    }

    /// Returns the number of threads of each replica on the CPU.
    fn pool_size(&self) -> Result<usize> {
        let replicas = self.devices.iter().filter(|device| on_flex(device)).count();
        match self.threads {
            Some(0) => Err(Error::InvalidArgument {
                rank: 0,
                call: "Launcher::with_threads_per_replica",
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

/// Closes the job's store, which has done its work, and logs the connections that it turned away. The port for
/// the other processes stays open as long as the network.
fn close_store(host: Option<Host>, process: usize, ranks_per_process: &[usize]) {
    let store = host.map(Host::close).unwrap_or_default();
    tracing::info!(
        process,
        ranks = ?ranks_per_process,
        "all processes of the job are connected, and its store is closed"
    );
    if store.total() > 0 {
        tracing::warn!(process, %store, "connections were turned away while the port was open");
    }
}
