//! Joining a job: from a [`JobConfig`] to the list of all its processes.
//!
//! Process 0 serves the store. Every process connects to it, in any order, and enters itself; the one
//! that completes the list says so, and the one that sees that it can't be completed (a number twice,
//! another number of processes, a deadline) says that, once and for all: every process that came returns
//! with the same verdict.
//!
//! Threads: those of the store's server in process 0, which live as long as [`Joined`].
//!

mod host;
mod records;
mod register;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use host::Host;
#[cfg(any(test, fuzzing))]
pub(crate) use records::check_records;
#[cfg(test)]
pub(crate) use records::record_seeds;
use register::Entry;

use super::address;
use super::config::JobConfig;
use super::crossovers::Crossovers;
use super::store::{StoreClient, StoreError};
use crate::error::{JoinFailure, Result};
use crate::net::auth::HandshakeError;

/// Most processes of a job: the store has a connection for each.
const MAX_PROCESSES: usize = 4000;
/// Most ranks of a process: memory is allocated for each of the job's.
const MAX_RANKS: usize = 4096;
/// Longest attempt to reach process 0.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a process that can't join to tell the others.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between two attempts.
const RETRY: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// Time of a wait until the log says what it waits for; then each time after twice as long.
const REMIND_AFTER: Duration = Duration::from_secs(10);

/// A job that all its processes have joined.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The job's store.
    pub(crate) store: StoreClient,
    /// Number of ranks of each process.
    pub(crate) ranks_per_process: Vec<usize>,
    /// Address of each process's port for the others.
    pub(crate) addresses: Vec<SocketAddr>,
    /// This process's listener, bound to its address.
    pub(crate) listener: TcpListener,
    /// The job's number, which process 0 drew.
    pub(crate) job: [u8; 16],
    /// The job's heartbeat: process 0's.
    pub(crate) heartbeat: Duration,
    /// The sizes at which collectives change their algorithm: process 0's.
    pub(crate) crossovers: Crossovers,
    /// The store's server, in process 0. The job's other processes lose the store with it.
    pub(crate) host: Option<Host>,
}

/// Joins the job as the process that `config` says, with so many ranks of its own, and waits for all
/// other processes.
///
/// # Errors
///
/// [`Error::Rendezvous`](crate::Error::Rendezvous) with what is wrong, the same on every process that came.
pub(crate) fn join(config: &JobConfig, local_ranks: usize) -> Result<Joined> {
    let (name, port) = config.check()?;
    let started = Instant::now();
    let deadline = started + config.join_timeout();
    if !(1..=MAX_RANKS).contains(&local_ranks) || config.processes() > MAX_PROCESSES {
        let message = format!(
            "{local_ranks} ranks in one of {} processes; a process brings from 1 to {MAX_RANKS} ranks, \
             and a job has at most {MAX_PROCESSES} processes",
            config.processes()
        );
        return Err(config.fault(String::new(), JoinFailure::Configuration(message)));
    }
    let host = match config.process() {
        0 => Some(Host::start(config, (name, port), started, deadline)?),
        _ => None,
    };
    let mut store = match &host {
        Some(host) => host.connect(config, deadline)?,
        None => connect(config, (name, port), started, deadline)?,
    };
    let (address, processes) = (master(config, host.as_ref()), config.processes());
    let arrived = register::arrive(&mut store, config.process());
    arrived.map_err(|failure| config.fault(address.clone(), failure))?;
    let listener = listen(config, host.as_ref(), &store).inspect_err(|error| {
        let failure = register::give_up(&mut store, config.process(), &error.to_string());
        if let Some(host) = &host {
            host.last_words(&mut store, processes, failure);
        }
    })?;
    let entry = Entry::new(config, local_ranks, listener.address);
    let outcome = entry.register(&mut store, started, deadline);
    let list = outcome.map_err(|failure| {
        let failure = match &host {
            Some(host) => host.last_words(&mut store, processes, failure),
            None => failure,
        };
        config.fault(address, failure)
    })?;
    Ok(Joined {
        store,
        ranks_per_process: list.ranks,
        addresses: list.addresses,
        listener: listener.socket,
        job: list.job,
        heartbeat: list.heartbeat,
        crossovers: list.crossovers,
        host,
    })
}

impl JobConfig {
    /// Tells the job's other processes that this one won't join, and why, so that they need not wait for it:
    /// what a program calls that fails before its [`Launcher`](crate::launch::Launcher) runs. It takes up to 5
    /// seconds, in which process 0 waits for the others, and another process tries to reach process 0.
    ///
    /// # Errors
    ///
    /// [`Error::Rendezvous`](crate::Error::Rendezvous) if nobody could be told; there is nothing to do about
    /// it.
    ///
    /// ```no_run
    /// # use burn_dist::JobConfig;
    /// # fn load() -> Result<(), std::io::Error> { Ok(()) }
    /// let job = JobConfig::from_env()?;
    /// let data = load().inspect_err(|error| {
    ///     if let Some(job) = &job {
    ///         let _ = job.abandon(error);
    ///     }
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn abandon(&self, reason: impl std::fmt::Display) -> Result<()> {
        let (name, port) = self.check()?;
        if self.processes() == 1 {
            return Ok(());
        }
        let started = Instant::now();
        let deadline = started + self.join_timeout().min(ABANDON_TIMEOUT);
        let host = match self.process() {
            0 => Some(Host::start(self, (name, port), started, deadline)?),
            _ => None,
        };
        let mut store = match &host {
            Some(host) => host.connect(self, deadline)?,
            None => connect(self, (name, port), started, deadline)?,
        };
        let fault = |failure| self.fault(master(self, host.as_ref()), failure);
        register::arrive(&mut store, self.process()).map_err(fault)?;
        let failure = register::give_up(&mut store, self.process(), &reason.to_string());
        if let Some(host) = &host {
            register::found(&mut store, self).map_err(fault)?;
            host.last_words(&mut store, self.processes(), failure);
        }
        Ok(())
    }
}

/// Process 0's address, as messages name it.
fn master(config: &JobConfig, host: Option<&Host>) -> String {
    match host {
        Some(host) => host.address().to_string(),
        None => config.master().to_owned(),
    }
}

/// Tries to reach process 0 until it is there.
fn connect(
    config: &JobConfig,
    (name, port): (&str, u16),
    started: Instant,
    deadline: Instant,
) -> Result<StoreClient> {
    persist(config, started, deadline, || {
        attempt(config, name, port, deadline)
    })
}

/// Tries until it works, won't ever, or the deadline has passed.
fn persist<T>(
    config: &JobConfig,
    started: Instant,
    deadline: Instant,
    mut attempt: impl FnMut() -> Result<T, (String, Attempt)>,
) -> Result<T> {
    let [mut pause, longest] = RETRY;
    let mut remind = REMIND_AFTER;
    loop {
        let (address, failure) = match attempt() {
            Ok(done) => return Ok(done),
            Err((address, Attempt::Fatal(failure))) => return Err(config.fault(address, failure)),
            Err((address, Attempt::Again(failure))) => (address, failure),
        };
        let failure = match failure {
            JoinFailure::Unreachable { detail, .. } => JoinFailure::Unreachable {
                after: started.elapsed(),
                detail,
            },
            other => other,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let error = config.fault(address, failure);
        if left.is_zero() {
            return Err(error);
        }
        if started.elapsed() >= remind {
            tracing::warn!("{error} (going on for {:.0} s)", left.as_secs_f64());
            remind *= 2;
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(longest);
    }
}

/// Result of a failed attempt.
enum Attempt {
    /// A later attempt may succeed.
    Again(JoinFailure),
    /// No attempt can succeed.
    Fatal(JoinFailure),
}

/// Tries each of process 0's addresses once; an error names the last that was tried.
fn attempt(
    config: &JobConfig,
    name: &str,
    port: u16,
    deadline: Instant,
) -> Result<StoreClient, (String, Attempt)> {
    let named = |attempt| (config.master().to_owned(), attempt);
    let addresses = match config.address_file() {
        Some(file) if port == 0 => host::read_address(file).map(|address| vec![address]),
        _ => address::resolve(name, port),
    };
    // A name may be known only once its machine is up.
    let addresses = addresses.map_err(|failure| named(Attempt::Again(failure)))?;
    let nowhere = JoinFailure::Unresolved("it has no address".to_owned());
    let mut last = named(Attempt::Again(nowhere));
    for address in addresses {
        let failed = |attempt| (address.to_string(), attempt);
        // This process would listen on the network, too: better said before it waits.
        address::check_open(address.ip(), config.secret())
            .map_err(|failure| failed(Attempt::Fatal(failure)))?;
        let until = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
        match StoreClient::connect(
            address,
            config.secret(),
            config.tls(),
            &config.job_name(),
            until,
        ) {
            Ok(store) => return Ok(store),
            Err(error) => last = failed(judge(&error)),
        }
        if matches!(last.1, Attempt::Fatal(_)) {
            break;
        }
    }
    Err(last)
}

/// Decides if another attempt may succeed.
fn judge(error: &StoreError) -> Attempt {
    match error {
        StoreError::Handshake(HandshakeError::Version { ours, theirs }) => {
            Attempt::Fatal(JoinFailure::Version {
                ours: ours.clone(),
                theirs: theirs.clone(),
            })
        }
        StoreError::Handshake(
            rejected @ (HandshakeError::WrongSecret
            | HandshakeError::OtherJob { .. }
            | HandshakeError::NotAPeer(_)
            | HandshakeError::PlainPeer
            | HandshakeError::TlsPeer
            | HandshakeError::Certificate(_)
            | HandshakeError::CertificateRefused(_)
            | HandshakeError::Tls(_)),
        ) => Attempt::Fatal(JoinFailure::Rejected(rejected.to_string())),
        other => Attempt::Again(JoinFailure::Unreachable {
            after: Duration::ZERO,
            detail: other.to_string(),
        }),
    }
}

/// A listener for the other processes, and the address by which they reach it.
struct Listening {
    socket: TcpListener,
    address: SocketAddr,
}

/// Listens where the other processes can reach this one: on the interface it was told, else on the
/// address that it uses towards process 0.
fn listen(config: &JobConfig, host: Option<&Host>, store: &StoreClient) -> Result<Listening> {
    let towards = host.map_or_else(|| store.local_address().ip(), Host::reached_at);
    let ip = match config.interface() {
        Some(interface) => address::of_interface(interface, towards)
            .map_err(|failure| config.fault(interface.to_owned(), failure))?,
        None => towards,
    };
    let address = SocketAddr::new(ip, 0);
    let fault = |failure| config.fault(address.to_string(), failure);
    let socket = address::listen(address, config.secret()).map_err(fault)?;
    let mut address = socket
        .local_addr()
        .map_err(|error| fault(system("an address", &error)))?;
    if address.ip().is_unspecified() {
        address.set_ip(towards); // it listens on all, but is reached at one
    }
    Ok(Listening { socket, address })
}

fn system(what: &'static str, error: &std::io::Error) -> JoinFailure {
    JoinFailure::System {
        what,
        detail: error.to_string(),
    }
}
