//! One connection: its state, who waits for what, and how it ends.
//!
//! A connection is in one of three phases, and only goes forward: open; closing (this side says
//! goodbye: no more messages out, those that come in are dropped); ended, with its cause, for good.
//! Whoever sees the end first sets it and shuts the socket down, which wakes the reader and whoever
//! writes. Only the reader's thread tells the watchers, as the last thing it does: so they are told
//! once, and never by a thread that holds a lock of theirs.
//!
//! One lock guards the state, and no I/O is done under it. Who writes holds the [`Turn`], who reads
//! has the [`Inbound`] taken out of the state ([`Reading`]); the socket never waits, so neither does
//! whoever has one of the two.
//!
//! Callers: `exchange` moves messages through it, `writing` and `reading` are the two directions,
//! `pulse` watches over it, the network holds it.

use std::collections::{HashMap, VecDeque};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::inbound::{Inbound, Shelf};
use super::pulse::Waker;
use super::writing::Posted;
use crate::rendezvous::channel::Channel;
use crate::transport::gone::Gone;
use crate::transport::locks::{Signal, lock};
use crate::transport::network::{Cause, Lost, Tag};

/// For how long a connection is left to those who wait on it, after one of them has read it: the
/// network's reader would only be woken for what they read themselves.
pub(super) const QUIET: Duration = Duration::from_millis(10);

/// The connection with one other process.
pub(super) struct Connection {
    peer: usize,
    address: String,
    pub(super) stream: Channel,
    pub(super) state: Mutex<State>,
    /// A message came, somebody has stopped reading or writing, or the phase changed.
    pub(super) arrived: Signal,
    /// There is something for the network's reader to do.
    stirred: Signal,
    /// Whether the last that was waited for came only after a long sleep.
    pub(super) is_slow: AtomicBool,
    pub(super) heard: Moment,
    pub(super) written: Moment,
    /// How many bytes were written.
    pub(super) sent: AtomicU64,
    /// Wakes the thread that sends what waits in `outbox`.
    pub(super) waker: Arc<Waker>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    /// What came and was not yet asked for.
    pub(super) mail: HashMap<Tag, VecDeque<Message>>,
    /// The groups whose messages are dropped.
    gone: Gone,
    /// What goes before the next message.
    pub(super) outbox: VecDeque<Posted>,
    /// Notices that came, until the watchers are told.
    pub(super) notices: VecDeque<Vec<u8>>,
    writing: bool,
    /// What was read of the next frame; none while somebody reads.
    inbound: Option<Box<Inbound>>,
    /// When somebody who waits for a message last read.
    waited: Option<Instant>,
    /// Whether anything has come. Until then the other side may still be waiting for its other
    /// connections, and owes no heartbeats.
    pub(super) greeted: bool,
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

/// The right to write on a connection, until it is dropped.
pub(super) struct Turn<'c>(&'c Connection);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).writing = false;
        self.0.arrived.notify_all();
    }
}

/// The right to read on a connection, until it is dropped.
pub(super) struct Reading<'c> {
    connection: &'c Connection,
    /// There until it is dropped.
    pub(super) inbound: Option<Box<Inbound>>,
    /// Whether it is the network's own reader that reads.
    by_reader: bool,
}

impl Reading<'_> {
    /// Gives the memory back that the shelf has lent.
    pub(super) fn clear(&mut self, shelf: &mut dyn Shelf) {
        if let Some(inbound) = &mut self.inbound {
            inbound.clear(shelf);
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let Some(inbound) = self.inbound.take() else {
            return;
        };
        if inbound.is_shelved() {
            // Whoever read has panicked; what came of the body is gone with its memory.
            let cause = Cause::Malformed("its message was lost in a panic".into());
            self.connection.end(cause);
        }
        let mut state = lock(&self.connection.state);
        state.inbound = Some(inbound);
        if !self.by_reader {
            state.waited = Some(Instant::now());
        }
        drop(state);
        self.connection.arrived.notify_all();
    }
}

/// What the network's reader is to do next.
pub(super) enum Duty {
    /// Tell the watchers of these.
    Notices(VecDeque<Vec<u8>>),
    /// Read, for nobody else does.
    Read,
    /// The connection has ended.
    End(Cause),
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
                gone: Gone::default(),
                outbox: VecDeque::new(),
                notices: VecDeque::new(),
                writing: false,
                inbound: Some(Box::new(Inbound::new())),
                waited: None,
                greeted: false,
                write_error: None,
            }),
            arrived: Signal::default(),
            is_slow: AtomicBool::new(false),
            stirred: Signal::default(),
            heard: Moment::now(),
            written: Moment::now(),
            sent: AtomicU64::new(0),
            waker,
        }
    }

    pub(super) fn peer(&self) -> usize {
        self.peer
    }

    /// How many bytes were written.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(super) fn lost(&self, cause: Cause) -> Lost {
        Lost {
            process: self.peer,
            address: self.address.clone(),
            cause,
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

    /// The right to read, if nobody has it.
    pub(super) fn try_reading(&self, by_reader: bool) -> Option<Reading<'_>> {
        let inbound = lock(&self.state).inbound.take()?;
        Some(Reading {
            connection: self,
            inbound: Some(inbound),
            by_reader,
        })
    }

    /// A message that has come.
    pub(super) fn take(&self, tag: Tag) -> Option<Message> {
        lock(&self.state).take(tag)
    }

    /// Whether messages can still be sent and awaited.
    pub(super) fn check(&self) -> Result<(), Lost> {
        match &lock(&self.state).phase {
            Phase::Open => Ok(()),
            Phase::Closing => Err(self.lost(Cause::Stopped)),
            Phase::Ended(cause) => Err(self.lost(cause.clone())),
        }
    }

    /// Sleeps until something has happened to the connection, or for this time.
    pub(super) fn doze(&self, time: Duration) {
        drop(self.arrived.wait_for(lock(&self.state), time));
    }

    /// Waits until there is something to do for the network's reader.
    pub(super) fn await_duty(&self) -> Duty {
        let mut state = lock(&self.state);
        loop {
            if !state.notices.is_empty() {
                return Duty::Notices(std::mem::take(&mut state.notices));
            }
            if let Phase::Ended(cause) = &state.phase {
                return Duty::End(cause.clone());
            }
            let quiet = state.waited.map_or(QUIET, |waited| waited.elapsed());
            if state.inbound.is_some() && quiet >= QUIET {
                return Duty::Read;
            }
            let rest = match state.inbound {
                Some(_) => QUIET.saturating_sub(quiet).max(QUIET / 10),
                // Somebody reads, for who knows how long.
                None => QUIET,
            };
            state = self.stirred.wait_for(state, rest);
        }
    }

    /// Has the network's reader told what there is to do, where it does not find out by reading.
    pub(super) fn stir(&self) {
        self.stirred.notify_all();
    }

    /// Drops the messages of these groups, those that still come too.
    pub(super) fn forget(&self, groups: &[u64]) {
        let mut state = lock(&self.state);
        for group in groups {
            state.gone.add(*group);
        }
        state.mail.retain(|tag, _| !groups.contains(&tag.group));
    }

    /// Leaves something small for the next turn, and has it sent soon.
    pub(super) fn post(&self, posted: Posted) {
        {
            let mut state = lock(&self.state);
            if matches!(state.phase, Phase::Open) {
                if posted.is_goodbye() {
                    state.phase = Phase::Closing;
                    state.mail.clear();
                    // Nobody waits for a message any more, so the reader reads on.
                    state.waited = None;
                }
                state.outbox.push_back(posted);
            }
        }
        self.waker.wake();
        self.arrived.notify_all();
        self.stirred.notify_all();
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
        self.stirred.notify_all();
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
            state = self.arrived.wait_for(state, left);
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
            state = self.arrived.wait_for(state, left);
        }
    }
}

impl State {
    pub(super) fn put(&mut self, tag: Tag, message: Message) {
        if self.gone.contains(tag.group) {
            return;
        }
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
