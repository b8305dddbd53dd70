//! Brings up the network of one process: gathers its connections, and waits until every other process has all of
//! its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TcpNetwork;
use super::gather::gather;
use crate::error::{Error, JoinFailure, Result};
use crate::net::{Secret, Tls};

/// The place of a process in its job, as the rendezvous found it.
pub(crate) struct NetworkConfig {
    /// This process, from 0.
    pub(crate) process: usize,
    /// Address of each process, by process.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Port of this process, which stays open as long as the network.
    pub(crate) listener: TcpListener,
    /// Number of the job, which no other job has.
    pub(crate) job: [u8; 16],
    /// Secret of the job.
    pub(crate) secret: Secret,
    /// Certificates of this process, if the job encrypts.
    pub(crate) tls: Option<Tls>,
    /// Silence after which a process is lost.
    pub(crate) heartbeat: Duration,
}

/// Returns why not all processes will connect, once that is known.
pub(crate) type Alarm<'a> = dyn FnMut() -> Option<JoinFailure> + Send + 'a;

/// Connects this process with all others. When it returns, every process has all its connections.
///
/// # Errors
/// [`Error::Rendezvous`]: not all processes connected before the deadline (they are named, with the failure of
/// the last attempt), one was lost again, the system refuses threads or sockets, or `alarm`, which is asked
/// now and then, returns a failure.
pub(crate) fn connect(
    place: NetworkConfig,
    deadline: Instant,
    alarm: &mut Alarm<'_>,
) -> Result<Arc<TcpNetwork>> {
    let process = place.process;
    let address = place.addresses.get(process).map(ToString::to_string);
    let connected = bring_up(place, deadline, alarm);
    connected.map_err(|failure| Error::Rendezvous {
        process: Some(process),
        address: address.unwrap_or_default(),
        // A lost process may only have followed another one.
        failure: match alarm() {
            Some(gone @ JoinFailure::Gone { .. }) => gone,
            _ => failure,
        },
    })
}

fn bring_up(
    place: NetworkConfig,
    deadline: Instant,
    alarm: &mut Alarm<'_>,
) -> Result<Arc<TcpNetwork>, JoinFailure> {
    let start = Instant::now();
    let (process, heartbeat) = (place.process, place.heartbeat);
    let addresses = place.addresses.clone();
    let gathered = gather(place, deadline, alarm)?;
    let network = TcpNetwork::start(process, gathered.channels, heartbeat, Some(gathered.port))
        .map_err(|error| refused("to start the network", &error))?;
    await_others(&network, &addresses, start, deadline)?;
    Ok(Arc::new(network))
}

/// Waits until the other processes have all their connections too: only then do they send.
fn await_others(
    network: &TcpNetwork,
    addresses: &[SocketAddr],
    start: Instant,
    deadline: Instant,
) -> Result<(), JoinFailure> {
    let waiting = network
        .wait_until_up(deadline)
        .map_err(|lost| unconnected(vec![lost.process], start, |_| lost.to_string()))?;
    if waiting.is_empty() {
        return Ok(());
    }
    Err(unconnected(waiting, start, |process| {
        let address = addresses[process];
        format!("process {process} at {address} (connected, but waits for others)")
    }))
}

/// Returns the failure that names the missing processes, each described by `describe`.
pub(super) fn unconnected(
    missing: Vec<usize>,
    start: Instant,
    describe: impl Fn(usize) -> String,
) -> JoinFailure {
    let described: Vec<_> = missing.iter().map(|&process| describe(process)).collect();
    JoinFailure::Unconnected {
        detail: described.join(", "),
        missing,
        after: start.elapsed(),
    }
}

/// Returns the failure for an error of the system.
pub(super) fn refused(what: &'static str, error: &io::Error) -> JoinFailure {
    JoinFailure::System {
        what,
        detail: error.to_string(),
    }
}
