//! Gathers the connections of a process: it connects to the processes before it, and its port accepts those after
//! it, in any order, until all are there or the deadline passes.
//!
//! Threads: `burn-dist-connect-<process>-<peer>` connects to one process; they end before [`gather`] returns.
//! The caller's thread waits, and asks the alarm.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::connect::{Alarm, NetworkConfig, refused, unconnected};
use super::port::{HANDSHAKE_TIMEOUT, LIMITS, Port};
use crate::error::JoinFailure;
use crate::net::acceptor::Acceptor;
use crate::net::channel::Channel;

/// Time between two questions to the alarm.
const ALARM_POLL: Duration = Duration::from_millis(300);
/// First and longest time between two attempts to connect; it doubles.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// The connections of a process, and its port.
pub(super) struct Gathered {
    /// By process; none for this one.
    pub(super) channels: Vec<Option<Channel>>,
    pub(super) port: Acceptor<Port>,
}

/// Gathers a connection with every other process.
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
    let service = Port::new(&place);
    let name = format!("burn-dist-accept-{process}");
    let port = "the port for the job's other processes";
    let port = Acceptor::start(place.listener, name, port, LIMITS, service).map_err(refused)?;
    let attempts = Attempts {
        port: port.service(),
        addresses: &place.addresses,
        deadline,
        state: Mutex::new(AttemptState {
            reasons: vec![None; place.addresses.len()],
            is_stopped: false,
        }),
        stopped: Condvar::new(),
    };
    thread::scope(|scope| {
        let started = (0..process).try_for_each(|peer| {
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
    let taken = port.service().take();
    let channels = taken.map_err(|missing| {
        let state = attempts.state.lock();
        unconnected(missing, start, |process| {
            let reason = state.reasons[process].as_deref();
            let reason = reason.unwrap_or("it did not connect");
            let address = place.addresses[process];
            format!("process {process} at {address} ({reason})")
        })
    })?;
    Ok(Gathered { channels, port })
}

/// The attempts to connect to the processes before this one.
struct Attempts<'p> {
    port: &'p Port,
    addresses: &'p [SocketAddr],
    deadline: Instant,
    state: Mutex<AttemptState>,
    stopped: Condvar,
}

struct AttemptState {
    /// Failure of the last attempt, by process.
    reasons: Vec<Option<String>>,
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
            if self.port.wait_until_complete(next) || next >= self.deadline {
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
        while let Err(reason) = self.attempt(peer) {
            let next = self.deadline.min(Instant::now() + pause);
            let mut state = self.state.lock();
            state.reasons[peer] = Some(reason);
            while !state.is_stopped && !self.stopped.wait_until(&mut state, next).timed_out() {}
            if state.is_stopped || next >= self.deadline {
                return;
            }
            pause = (pause * 2).min(RETRY.1);
        }
    }

    fn attempt(&self, peer: usize) -> Result<(), String> {
        let deadline = self.deadline.min(Instant::now() + HANDSHAKE_TIMEOUT);
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        let socket = TcpStream::connect_timeout(&self.addresses[peer], left)
            .map_err(|error| error.to_string())?;
        self.port.connect(peer, socket, deadline)
    }
}
