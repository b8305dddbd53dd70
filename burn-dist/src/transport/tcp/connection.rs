//! One connection: its state, who waits for what, and how it ends.
//!
//! A connection is in one of three phases, and only goes forward: open; closing (this side says
//! goodbye: no more messages out, those that come in are dropped); ended, with its cause, for good.
//! Whoever sees the end first sets it and shuts the socket down, which wakes the reader and whoever
//! writes. Only the reader's thread tells the watchers, as the last thing it does: so they are told
//! once, and never by a thread that holds a lock of theirs.
//!
//! One lock guards the state, and no I/O is done under it. Who writes holds the [`Turn`], which is
//! part of the state and can be waited for with a deadline.
//!
//! Callers: `writing` and `reading` are the two directions, `pulse` watches over it, the network
//! holds it.

use std::collections::{HashMap, VecDeque};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::pulse::Waker;
use crate::rendezvous::channel::Channel;
use crate::rendezvous::timed::Stream;
use crate::transport::locks::{lock, wait_for};
use crate::transport::network::{Cause, Lost, Tag};

/// The connection with one other process.
pub(super) struct Connection {
    peer: usize,
    address: String,
    pub(super) stream: Channel,
    pub(super) state: Mutex<State>,
    /// A message came, or the phase changed.
    pub(super) arrived: Condvar,
    /// The turn to write is free, or the phase changed.
    free: Condvar,
    pub(super) heard: Moment,
    pub(super) written: Moment,
    /// Wakes the thread that sends what waits in `outbox`.
    pub(super) waker: Arc<Waker>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    /// What came and was not yet asked for.
    pub(super) mail: HashMap<Tag, VecDeque<Message>>,
    /// Notices and the goodbye, which go before the next message.
    pub(super) outbox: VecDeque<Small>,
    writing: bool,
    /// Whether anything has come. Until then the other side may still be waiting for its other
    /// connections, and owes no heartbeats.
    greeted: bool,
    /// Why a write failed, for the reader to tell: it alone knows what came before that.
    pub(super) write_error: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    Open,
    Closing,
    Ended(Cause),
}

pub(super) struct Message {
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// What is sent without anybody waiting for it.
#[derive(Clone)]
pub(super) enum Small {
    /// The first heartbeat, which says that this process has all its connections.
    Greeting,
    Notice(Arc<[u8]>),
    Goodbye,
}

/// The right to write on a connection, until it is dropped.
pub(super) struct Turn<'c>(&'c Connection);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).writing = false;
        self.0.free.notify_one();
    }
}

impl Connection {
    pub(super) fn new(peer: usize, stream: Channel, waker: Arc<Waker>) -> Self {
        let address = stream
            .socket()
            .peer_addr()
            .map_or_else(|error| error.to_string(), |address| address.to_string());
        Self {
            peer,
            address,
            stream,
            state: Mutex::new(State {
                phase: Phase::Open,
                mail: HashMap::new(),
                outbox: VecDeque::new(),
                writing: false,
                greeted: false,
                write_error: None,
            }),
            arrived: Condvar::new(),
            free: Condvar::new(),
            heard: Moment::now(),
            written: Moment::now(),
            waker,
        }
    }

    pub(super) fn peer(&self) -> usize {
        self.peer
    }

    pub(super) fn lost(&self, cause: Cause) -> Lost {
        Lost {
            process: self.peer,
            address: self.address.clone(),
            cause,
        }
    }

    /// Waits for a message. One that came before the connection ended is still given.
    pub(super) fn receive(&self, tag: Tag, deadline: Instant) -> Result<Message, Lost> {
        let start = Instant::now();
        let mut state = lock(&self.state);
        loop {
            if matches!(state.phase, Phase::Closing) {
                return Err(self.lost(Cause::Stopped));
            }
            if let Some(message) = state.take(tag) {
                return Ok(message);
            }
            if let Phase::Ended(cause) = &state.phase {
                return Err(self.lost(cause.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.lost(Cause::Deadline(start.elapsed())));
            }
            state = wait_for(&self.arrived, state, left);
        }
    }

    /// Waits for the turn to write a message.
    pub(super) fn take_turn(&self, deadline: Instant) -> Result<Turn<'_>, Lost> {
        let start = Instant::now();
        let mut state = lock(&self.state);
        loop {
            match &state.phase {
                Phase::Open => {}
                Phase::Closing => return Err(self.lost(Cause::Stopped)),
                Phase::Ended(cause) => return Err(self.lost(cause.clone())),
            }
            if !state.writing {
                state.writing = true;
                return Ok(Turn(self));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.lost(Cause::Deadline(start.elapsed())));
            }
            state = wait_for(&self.free, state, left);
        }
    }

    /// The turn to write, if nobody has it and the connection has not ended.
    pub(super) fn try_turn(&self) -> Option<Turn<'_>> {
        let mut state = lock(&self.state);
        if state.writing || matches!(state.phase, Phase::Ended(_)) {
            return None;
        }
        state.writing = true;
        Some(Turn(self))
    }

    /// Leaves something small for the next turn, and has it sent soon.
    pub(super) fn post(&self, small: Small) {
        {
            let mut state = lock(&self.state);
            if matches!(state.phase, Phase::Open) {
                if matches!(small, Small::Goodbye) {
                    state.phase = Phase::Closing;
                    state.mail.clear();
                }
                state.outbox.push_back(small);
            }
        }
        self.waker.wake();
        self.arrived.notify_all();
        self.free.notify_all();
    }

    /// Ends the connection, if it has not ended; after this side's goodbye no end is a failure.
    pub(super) fn end(&self, cause: Cause) {
        {
            let mut state = lock(&self.state);
            state.phase = match state.phase {
                Phase::Open => Phase::Ended(cause),
                Phase::Closing => Phase::Ended(Cause::Stopped),
                Phase::Ended(_) => return,
            };
        }
        // It fails only where the connection is already gone.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.arrived.notify_all();
        self.free.notify_all();
    }

    /// Notes that the other side is up.
    pub(super) fn greet(&self) {
        lock(&self.state).greeted = true;
        self.arrived.notify_all();
    }

    /// Waits until the other side is up; says whether it is by the deadline.
    pub(super) fn wait_for_greeting(&self, deadline: Instant) -> Result<bool, Lost> {
        let mut state = lock(&self.state);
        loop {
            if state.greeted {
                return Ok(true);
            }
            if let Phase::Ended(cause) = &state.phase {
                return Err(self.lost(cause.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            state = wait_for(&self.arrived, state, left);
        }
    }

    /// For how long nothing came that was due.
    pub(super) fn silence(&self) -> Duration {
        if lock(&self.state).greeted {
            self.heard.elapsed()
        } else {
            Duration::ZERO
        }
    }

    /// Whether the connection has ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Ended(_))
    }

    /// Waits for the connection's end; gives its cause, or nothing after the deadline.
    pub(super) fn wait_for_end(&self, deadline: Instant) -> Option<Cause> {
        let mut state = lock(&self.state);
        loop {
            if let Phase::Ended(cause) = &state.phase {
                return Some(cause.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = wait_for(&self.arrived, state, left);
        }
    }
}

impl State {
    pub(super) fn put(&mut self, tag: Tag, message: Message) {
        self.mail.entry(tag).or_default().push_back(message);
    }

    fn take(&mut self, tag: Tag) -> Option<Message> {
        let messages = self.mail.get_mut(&tag)?;
        let message = messages.pop_front();
        if messages.is_empty() {
            self.mail.remove(&tag);
        }
        message
    }
}

/// The last time of something, which threads set and read without a lock.
pub(super) struct Moment {
    start: Instant,
    /// Microseconds from `start`.
    offset: AtomicU64,
}

impl Moment {
    fn now() -> Self {
        Self {
            start: Instant::now(),
            offset: AtomicU64::new(0),
        }
    }

    /// It happens now.
    pub(super) fn set(&self) {
        let offset = self.start.elapsed().as_micros() as u64;
        // Relaxed: it tells how long ago something was, and guards no other memory.
        self.offset.store(offset, Relaxed);
    }

    /// How long ago it happened.
    pub(super) fn elapsed(&self) -> Duration {
        let offset = Duration::from_micros(self.offset.load(Relaxed));
        self.start.elapsed().saturating_sub(offset)
    }
}
