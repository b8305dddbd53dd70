//! Gathers the connections of one process: it connects to those before it and accepts those after
//! it, in any order, until all are there or the deadline passes.
//!
//! A connection counts when both sides have proved that they know the job's secret and named the job
//! and themselves. Whatever else comes to the port is turned away, counted and logged, and disturbs
//! nobody: each newcomer has a thread of its own and [`HANDSHAKE`] time, and no more than [`NEWCOMERS`]
//! are heard at once: for one more, the one that has been at it longest goes.
//!
//! Threads: the caller's accepts; `burn-dist-connect-<process>-<peer>` connects to one process;
//! `burn-dist-alarm-<process>` asks whether all will come;
//! `burn-dist-newcomer-<process>` hears one newcomer out. All end before [`gather`] returns.
//!
//! Callers: `connect`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::connect::{Alarm, Place, refused, unconnected};
use crate::codec;
use crate::error::JoinFailure;
use crate::rendezvous::auth::{HELLO, Role, authenticate};
use crate::rendezvous::channel::Channel;
use crate::rendezvous::rejects::{Ledger, Reject, Rejects};
use crate::transport::locks::{lock, wait_for};

/// The longest that a newcomer may take to prove that it belongs to the job.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The most newcomers heard at once.
const NEWCOMERS: usize = 256;
/// How often the port is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How often the alarm is listened to.
const ALARM: Duration = Duration::from_millis(300);
/// How long to wait before another attempt to connect: it doubles from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// What connections are for: one that was authenticated for something else is none.
const PURPOSE: &[u8] = b"transport";

/// What each side tells the other about itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    job: [u8; 16],
    process: usize,
    processes: usize,
}

/// The connections of a process.
pub(super) struct Gathered {
    /// By process; none for this one.
    pub(super) streams: Vec<Option<Channel>>,
    /// Who was turned away.
    pub(super) rejected: Rejects,
}

/// Gathers a connection with every other process.
///
/// # Errors
/// Not all came before the deadline, or the system refuses threads or sockets.
pub(super) fn gather(
    place: &Place,
    deadline: Instant,
    alarm: &mut Alarm<'_>,
) -> Result<Gathered, JoinFailure> {
    let start = Instant::now();
    let port = Port::new(place, deadline);
    let all = &port;
    let done = thread::scope(move |scope| {
        let done = all.gather(scope, alarm);
        // In any case: what is still under way ends now, so that the scope can.
        all.stop();
        done
    });
    done.map_err(|error| refused("to connect with the other processes", &error))?;
    let rejected = port.ledger.counts();
    let state = port.state.into_inner();
    let state = state.unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = state.alarmed {
        return Err(failure);
    }
    let others = (0..state.streams.len()).filter(|&other| other != place.process);
    let missing: Vec<_> = others
        .filter(|&other| state.streams[other].is_none())
        .collect();
    if missing.is_empty() {
        return Ok(Gathered {
            streams: state.streams,
            rejected,
        });
    }
    Err(unconnected(missing, start, |process| {
        let reason = state.reasons[process]
            .as_deref()
            .unwrap_or("it did not call");
        format!(
            "process {process} at {} ({reason})",
            place.addresses[process]
        )
    }))
}

/// The gathering of the connections.
struct Port<'p> {
    place: &'p Place,
    hello: Vec<u8>,
    deadline: Instant,
    state: Mutex<State>,
    stopped: Condvar,
    /// A newcomer was heard.
    heard: Condvar,
    ledger: Ledger,
}

struct State {
    /// By process.
    streams: Vec<Option<Channel>>,
    /// What the last attempt to connect met with, by process.
    reasons: Vec<Option<String>>,
    /// Who is being heard, the oldest first.
    newcomers: VecDeque<Newcomer>,
    newcomers_ever: u64,
    stopped: bool,
    /// Why not all will come.
    alarmed: Option<JoinFailure>,
}

/// Who is being heard.
struct Newcomer {
    number: u64,
    /// A second handle of its socket, by which its thread is woken.
    stream: TcpStream,
    /// Whether it must give up its place.
    sent_away: bool,
}

impl State {
    fn is_over(&self, process: usize) -> bool {
        self.alarmed.is_some() || self.complete(process)
    }

    fn complete(&self, process: usize) -> bool {
        let mut others = self
            .streams
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != process);
        others.all(|(_, stream)| stream.is_some())
    }
}

impl<'p> Port<'p> {
    fn new(place: &'p Place, deadline: Instant) -> Self {
        let processes = place.addresses.len();
        let hello = Hello {
            job: place.job,
            process: place.process,
            processes,
        };
        Self {
            place,
            // Three small fields are within every limit; were they not, nobody would be let in.
            hello: codec::encode(&hello).unwrap_or_default(),
            deadline,
            state: Mutex::new(State {
                streams: (0..processes).map(|_| None).collect(),
                reasons: vec![None; processes],
                newcomers: VecDeque::new(),
                newcomers_ever: 0,
                stopped: false,
                alarmed: None,
            }),
            stopped: Condvar::new(),
            heard: Condvar::new(),
            ledger: Ledger::new("the port for the job's other processes"),
        }
    }

    /// Returns when all are there, the deadline has passed, or the alarm says why not all will come.
    fn gather<'s>(&'s self, scope: &'s Scope<'s, '_>, alarm: &'s mut Alarm<'_>) -> io::Result<()> {
        let process = self.place.process;
        for peer in 0..process {
            thread::Builder::new()
                .name(format!("burn-dist-connect-{process}-{peer}"))
                .spawn_scoped(scope, move || self.call(peer))?;
        }
        thread::Builder::new()
            .name(format!("burn-dist-alarm-{process}"))
            .spawn_scoped(scope, move || self.listen_to(alarm))?;
        self.place.listener.set_nonblocking(true)?;
        while Instant::now() < self.deadline && !lock(&self.state).is_over(process) {
            match self.place.listener.accept() {
                Ok((stream, address)) => self.admit(scope, stream, address),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.pause(LOOK);
                }
                // The system is short of something that others may give back.
                Err(error) => {
                    self.ledger.record(None, &Reject::System(error.to_string()));
                    self.pause(RETRY.1);
                }
            }
        }
        Ok(())
    }

    /// Asks the alarm now and then.
    fn listen_to(&self, alarm: &mut Alarm<'_>) {
        while self.pause(ALARM) {
            if let Some(failure) = alarm() {
                lock(&self.state).alarmed = Some(failure);
                return;
            }
        }
    }

    /// Ends all attempts.
    fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        for newcomer in &state.newcomers {
            let _ = newcomer.stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.stopped.notify_all();
    }

    /// Waits; says whether to go on.
    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time.min(self.left());
        let mut state = lock(&self.state);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.stopped || left.is_zero() {
                return !state.stopped && Instant::now() < self.deadline;
            }
            state = wait_for(&self.stopped, state, left);
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Calls a process until it answers.
    fn call(&self, peer: usize) {
        let mut wait = RETRY.0;
        loop {
            match self.attempt(peer) {
                Ok(stream) => {
                    lock(&self.state).streams[peer] = Some(stream);
                    return;
                }
                Err(reason) => lock(&self.state).reasons[peer] = Some(reason),
            }
            if !self.pause(wait) {
                return;
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }

    fn attempt(&self, peer: usize) -> Result<Channel, String> {
        let address = &self.place.addresses[peer];
        let time = self.left().min(HANDSHAKE).max(Duration::from_millis(1));
        let stream =
            TcpStream::connect_timeout(address, time).map_err(|error| error.to_string())?;
        let (stream, hello) = self
            .shake_hands(stream, Role::Connects)
            .map_err(|reject| reject.to_string())?;
        if hello.process != peer {
            return Err(format!("process {} is at that address", hello.process));
        }
        Ok(stream)
    }

    /// Hears a newcomer out, on a thread of its own.
    fn admit<'s>(&'s self, scope: &'s Scope<'s, '_>, stream: TcpStream, address: SocketAddr) {
        let number = match self.register(&stream) {
            Ok(number) => number,
            Err(error) => {
                let reject = Reject::System(error.to_string());
                return self.ledger.record(Some(address), &reject);
            }
        };
        let thread = thread::Builder::new()
            .name(format!("burn-dist-newcomer-{}", self.place.process))
            .spawn_scoped(scope, move || {
                let heard = self.hear(stream);
                self.judge(number, address, heard);
            });
        if let Err(error) = thread {
            self.judge(number, address, Err(Reject::System(error.to_string())));
        }
    }

    /// Lets a newcomer in or turns it away, and forgets it as a newcomer in the same step.
    fn judge(&self, number: u64, address: SocketAddr, heard: Result<(usize, Channel), Reject>) {
        let mut state = lock(&self.state);
        let of_number = |newcomer: &Newcomer| newcomer.number == number;
        let place = state.newcomers.iter().position(of_number);
        let newcomer = place.and_then(|place| state.newcomers.remove(place));
        self.heard.notify_all();
        let reject = match heard {
            _ if state.stopped => Reject::Unfinished,
            _ if newcomer.is_some_and(|newcomer| newcomer.sent_away) => Reject::Crowded,
            // A process calls again if it could not tell that it had been let in: the last call
            // counts.
            Ok((peer, stream)) => return state.streams[peer] = Some(stream),
            Err(reject) => reject,
        };
        drop(state);
        self.ledger.record(Some(address), &reject);
    }

    /// Keeps a handle by which the newcomer can be sent away, once there is a place for it.
    fn register(&self, stream: &TcpStream) -> io::Result<u64> {
        stream.set_nonblocking(false)?;
        let stream = stream.try_clone()?;
        let mut state = lock(&self.state);
        while state.newcomers.len() >= NEWCOMERS && !self.left().is_zero() {
            if state.newcomers.iter().all(|newcomer| !newcomer.sent_away)
                && let Some(oldest) = state.newcomers.front_mut()
            {
                oldest.sent_away = true;
                // Its thread ends at once. It fails only where the other side has closed already.
                let _ = oldest.stream.shutdown(Shutdown::Both);
            }
            state = wait_for(&self.heard, state, self.left());
        }
        let number = state.newcomers_ever;
        state.newcomers_ever += 1;
        state.newcomers.push_back(Newcomer {
            number,
            stream,
            sent_away: false,
        });
        Ok(number)
    }

    fn hear(&self, stream: TcpStream) -> Result<(usize, Channel), Reject> {
        let (stream, hello) = self.shake_hands(stream, Role::Accepts)?;
        let peer = hello.process;
        if peer <= self.place.process {
            let reason = format!("process {peer} is one to be called, not to call");
            return Err(Reject::Foreign(reason));
        }
        Ok((peer, stream))
    }

    fn shake_hands(&self, socket: TcpStream, role: Role) -> Result<(Channel, Hello), Reject> {
        let deadline = self.deadline.min(Instant::now() + HANDSHAKE);
        let Place { secret, tls, .. } = self.place;
        let opened = Channel::open(socket, tls.as_ref(), role, deadline);
        let (stream, hello) = opened
            .and_then(|stream| {
                let hello = authenticate(&stream, secret, role, PURPOSE, &self.hello, deadline)?;
                Ok((stream, hello))
            })
            .map_err(Reject::Unproved)?;
        let hello: Hello = codec::decode_within::<HELLO, _>(&hello).map_err(Reject::Foreign)?;
        let processes = self.place.addresses.len();
        if hello.job != self.place.job {
            return Err(Reject::Foreign("it belongs to another job".to_owned()));
        }
        if hello.processes != processes || hello.process >= processes {
            return Err(Reject::Foreign(format!(
                "it is process {} of {}, in a job of {processes}",
                hello.process, hello.processes
            )));
        }
        Ok((stream, hello))
    }
}

/// What must hold of any bytes that come as a hello.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_hello(bytes: &[u8]) {
    crate::fuzzing::check_message::<Hello>(bytes);
}

/// A hello.
#[cfg(test)]
pub(crate) fn hello_seed() -> Vec<u8> {
    let hello = Hello {
        job: [3; 16],
        process: 1,
        processes: 1000,
    };
    codec::encode(&hello).unwrap()
}
