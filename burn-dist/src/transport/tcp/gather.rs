//! Gathers the connections of a process in the overlay: it connects to the neighbours before it, and its port accepts
//! those after it, in any order, until all are there or the deadline passes.
//!
//! Threads: `burn-dist-connect-<process>-<peer>` connects to one process; they end before [`gather`] returns.
//! The caller's thread waits, and asks the alarm.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::connect::{ALARM_POLL, Alarm, NetworkConfig, refused, unconnected};
use super::dial::{NoConnection, RETRY};
use super::hello::HANDSHAKE_TIMEOUT;
use super::mesh::Mesh;
use super::port::{LIMITS, Port};
use crate::error::JoinFailure;
use crate::net::acceptor::Acceptor;

/// The connections of a process, and its port.
pub(super) struct Gathered {
    pub(super) mesh: Arc<Mesh>,
    pub(super) port: Acceptor<Port>,
}

/// Gathers a connection with every neighbour.
///
/// # Errors
/// Not all were there before the deadline, the alarm says why they will not be, or the system refuses threads or
/// sockets.
pub(super) fn gather(
    place: NetworkConfig,
    deadline: Instant,
    alarm: &mut Alarm<'_>,
) -> Result<Gathered, JoinFailure> {
    let start = Instant::now();
    let refused = |error| refused("to connect with the other processes", &error);
    let process = place.process;
    let mesh = Mesh::new(&place).map_err(refused)?;
    let name = format!("burn-dist-accept-{process}");
    let port = "the port for the job's other processes";
    let service = Port(mesh.clone());
    let port = Acceptor::start(place.listener, name, port, LIMITS, service).map_err(refused)?;
    let attempts = Attempts {
        mesh: &mesh,
        deadline,
        state: Mutex::new(AttemptState {
            reasons: HashMap::new(),
            is_stopped: false,
        }),
        stopped: Condvar::new(),
    };
    thread::scope(|scope| {
        let before = mesh.neighbours.iter().filter(|peer| **peer < process);
        let started = before.copied().try_for_each(|peer| {
            let name = format!("burn-dist-connect-{process}-{peer}");
            let attempts = &attempts;
            let thread = thread::Builder::new().name(name);
            thread
                .spawn_scoped(scope, move || attempts.connect(peer))
                .map(drop)
        });
        let ended = started.map_err(refused).and_then(|()| attempts.wait(alarm));
        // The threads end now, so that the scope can.
        attempts.stop();
        ended
    })?;
    let missing = mesh.missing();
    if !missing.is_empty() {
        let state = attempts.state.lock();
        return Err(unconnected(missing, start, |process| {
            let reason = state.reasons.get(&process).map(String::as_str);
            let reason = reason.unwrap_or("it did not connect");
            let address = mesh.address(process);
            format!("process {process} at {address} ({reason})")
        }));
    }
    drop(attempts);
    Ok(Gathered { mesh, port })
}

/// The attempts to connect to the neighbours before this process.
struct Attempts<'m> {
    mesh: &'m Mesh,
    deadline: Instant,
    state: Mutex<AttemptState>,
    stopped: Condvar,
}

struct AttemptState {
    /// Failure of the last attempt, by process.
    reasons: HashMap<usize, String>,
    is_stopped: bool,
}

impl Attempts<'_> {
    /// Waits until all connections are there or the deadline has passed.
    ///
    /// # Errors
    /// The alarm says why they will not be.
    fn wait(&self, alarm: &mut Alarm<'_>) -> Result<(), JoinFailure> {
        loop {
            let next = self.deadline.min(Instant::now() + ALARM_POLL);
            if self.mesh.wait_until_complete(next) || next >= self.deadline {
                return Ok(());
            }
            if let Some(failure) = alarm() {
                return Err(failure);
            }
        }
    }

    /// Ends all attempts.
    fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.stopped.notify_all();
    }

    /// Tries to connect to a process until it succeeds or the attempts end.
    fn connect(&self, peer: usize) {
        let mut pause = RETRY.0;
        while self.mesh.connection(peer).is_none() {
            let due = self.deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
            let reason = match self.mesh.attempt(peer, due) {
                Ok(()) => return,
                Err(NoConnection::Refused(reason) | NoConnection::Failed(reason)) => Some(reason),
                Err(NoConnection::Void) => None,
            };
            let next = self.deadline.min(Instant::now() + pause);
            let mut state = self.state.lock();
            if let Some(reason) = reason {
                state.reasons.insert(peer, reason);
            }
            while !state.is_stopped && !self.stopped.wait_until(&mut state, next).timed_out() {}
            if state.is_stopped || next >= self.deadline {
                return;
            }
            pause = (pause * 2).min(RETRY.1);
        }
    }
}
