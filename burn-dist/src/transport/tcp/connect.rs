//! Brings up the network of one process: gathers its connections, closes its port, and waits until
//! every other process has all of its own.
//!
//! Callers: `launch`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TcpNetwork;
use super::gather::gather;
use crate::error::{Error, JoinFailure, Result};
use crate::rendezvous::{Secret, Tls};

/// The place of this process in its job, as the rendezvous found it.
pub(crate) struct Place {
    /// This process, from 0.
    pub(crate) process: usize,
    /// Where each process listens, by process.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where this process listens.
    pub(crate) listener: TcpListener,
    /// The job's number, which no other job has.
    pub(crate) job: [u8; 16],
    /// What only the job's processes know.
    pub(crate) secret: Secret,
    /// The certificates to encrypt with, if the job does.
    pub(crate) tls: Option<Tls>,
    /// After how much silence a process is lost.
    pub(crate) heartbeat: Duration,
}

/// Says why not all processes will come, once that is known.
pub(crate) type Alarm<'a> = dyn FnMut() -> Option<JoinFailure> + Send + 'a;

/// Connects this process with all others. When it returns, every process has all its connections.
///
/// # Errors
/// [`Error::Rendezvous`]: not all processes came before the deadline (they are named, with what the
/// last attempt met with), one was lost again, or the system refuses threads or sockets.
///
/// `alarm` is asked now and then, and ends it with what it says: a process that will never come.
pub(crate) fn connect(
    place: Place,
    deadline: Instant,
    alarm: &mut Alarm<'_>,
) -> Result<Arc<TcpNetwork>> {
    let process = place.process;
    let address = place.addresses.get(process).map(ToString::to_string);
    let connected = bring_up(place, deadline, alarm);
    connected.map_err(|failure| Error::Rendezvous {
        process: Some(process),
        address: address.unwrap_or_default(),
        // Who has lost a process may have lost one that only follows another.
        failure: match alarm() {
            Some(gone @ JoinFailure::Gone { .. }) => gone,
            _ => failure,
        },
    })
}

fn bring_up(
    place: Place,
    deadline: Instant,
    alarm: &mut Alarm<'_>,
) -> Result<Arc<TcpNetwork>, JoinFailure> {
    let start = Instant::now();
    let gathered = gather(&place, deadline, alarm)?;
    let Place {
        process,
        addresses,
        listener,
        heartbeat,
        ..
    } = place;
    // From now on the system turns strangers away.
    drop(listener);
    let network = TcpNetwork::start(process, gathered.streams, heartbeat, gathered.rejected)
        .map_err(|error| refused("to start the network", &error))?;
    await_others(&network, &addresses, start, deadline)?;
    Ok(Arc::new(network))
}

/// Waits until the others have all their connections too: only then do they send.
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

/// Names the processes that are missing, each as `describe` has it.
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

/// The system refused something.
pub(super) fn refused(what: &'static str, error: &io::Error) -> JoinFailure {
    JoinFailure::System {
        what,
        detail: error.to_string(),
    }
}
