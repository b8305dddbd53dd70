//! Brings up the network of one process: gathers its connections in the overlay, and waits until every other process
//! has all of its own.
//!
//! The wait is a barrier by dissemination: in the round of step `s` a process sends to the one `s` after it and waits
//! for the one `s` before it. Whoever comes out knows that all have come in.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TcpNetwork;
use super::gather::{Gathered, gather};
use super::mesh::Mesh;
use super::overlay;
use crate::error::{Error, JoinFailure, Result};
use crate::net::{Secret, Tls};
use crate::transport::network::{Cancel, Cause, Incoming, Lost, Network, Tag};

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

/// Time between two questions to the alarm.
pub(super) const ALARM_POLL: Duration = Duration::from_millis(300);
/// Group of the messages of the barrier, which no other messages have.
const BARRIER: u64 = u64::MAX;

/// Connects this process with its neighbours. When it returns, every process has all connections of the overlay.
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
    let Gathered { mesh, port } = gather(place, deadline, alarm)?;
    let network = TcpNetwork::start(mesh, Some(port))
        .map_err(|error| refused("to start the network", &error))?;
    await_others(&network, start, deadline, alarm)?;
    Ok(Arc::new(network))
}

/// Waits until all other processes have their connections too. Process 0 may be out already, and its store closed:
/// so of the alarm only a process that is gone counts.
fn await_others(
    network: &TcpNetwork,
    start: Instant,
    deadline: Instant,
    alarm: &mut Alarm<'_>,
) -> Result<(), JoinFailure> {
    let mesh = &network.mesh;
    let (process, processes) = (mesh.process, mesh.processes());
    let failed = |lost: &Lost| unconnected(vec![lost.process], start, |_| lost.to_string());
    for step in overlay::steps(processes) {
        let (to, from) = (
            (process + step) % processes,
            (process + processes - step) % processes,
        );
        let tag = Tag {
            group: BARRIER,
            sequence: 0,
            part: step as u32,
        };
        network
            .send(to, tag, &[], &[], deadline)
            .map_err(|lost| failed(&lost))?;
        loop {
            let next = deadline.min(Instant::now() + ALARM_POLL);
            let mut receive = [Incoming::new(from, tag, None, None)];
            match network.exchange(&[], &mut receive, next, &AnyLoss(mesh)) {
                Ok(true) => break,
                Err(lost) if !matches!(lost.cause, Cause::Deadline(_)) => {
                    return Err(failed(&lost));
                }
                Ok(false) | Err(_) => {}
            }
            if let Some(lost) = mesh.any_lost() {
                return Err(failed(&lost));
            }
            if next >= deadline {
                return Err(unconnected(vec![from], start, |process| {
                    let address = mesh.address(process);
                    format!("process {process} at {address} (connected, but waits for others)")
                }));
            }
            if let Some(gone @ JoinFailure::Gone { .. }) = alarm() {
                return Err(gone);
            }
        }
    }
    Ok(())
}

/// Cancels a wait once any process is lost.
struct AnyLoss<'m>(&'m Mesh);

impl Cancel for AnyLoss<'_> {
    fn is_cancelled(&self) -> bool {
        self.0.any_lost().is_some()
    }

    fn received_from(&self, _: usize) {}
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
