//! State of one connection: its phase, the rights to read and write it, and the messages received.
//!
//! A connection is in one of three phases, and moves only forward: open; closing (this side said goodbye: it
//! sends no more messages and drops those it receives); ended, with a cause that never changes. The thread that
//! sees the end first sets it and shuts the socket down, which wakes the reader and the writer. Only the
//! reader's thread tells the watchers, as its last action: they are told once, and by a thread without locks.
//!
//! One lock guards the state, and no I/O is done under it. A writer holds the [`WriteGuard`], a reader the
//! [`ReadGuard`] with the [`Decoder`]. The socket never blocks, so neither do they.

use std::collections::{HashMap, VecDeque};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::decoder::Decoder;
use super::heartbeat::Waker;
use super::write::QueuedFrame;
use crate::net::channel::Channel;
use crate::transport::gone::Gone;
use crate::transport::network::{Cause, Lost, Tag};

/// Time without a read by an exchange after which the network's reader reads again. Before that it would only
/// be woken by what the exchanges read themselves.
const EXCHANGE_IDLE: Duration = Duration::from_millis(10);

/// The connection with one other process.
pub(super) struct Connection {
    peer: usize,
    address: String,
    pub(super) stream: Channel,
    pub(super) state: Mutex<ConnectionState>,
    /// Notified when a frame was received, a read or write guard was dropped, or the phase changed.
    pub(super) changed: Condvar,
    /// Wakes the network's reader.
    reader_wake: Condvar,
    /// True if the last wait for the peer took a long sleep.
    pub(super) is_slow: AtomicBool,
    pub(super) heard: Moment,
    pub(super) written: Moment,
    /// Bytes written.
    pub(super) sent: AtomicU64,
    /// Wakes the thread that sends the outbox.
    pub(super) heartbeat: Arc<Waker>,
}

pub(super) struct ConnectionState {
    pub(super) phase: Phase,
    /// Messages received and not taken yet.
    received: HashMap<Tag, VecDeque<Message>>,
    /// Groups whose messages are dropped.
    gone: Gone,
    /// Frames to send before the next message.
    pub(super) outbox: VecDeque<QueuedFrame>,
    /// Notices received and not told to the watchers yet.
    pub(super) notices: VecDeque<Vec<u8>>,
    is_writing: bool,
    /// None while a [`ReadGuard`] has it.
    decoder: Option<Box<Decoder>>,
    /// Time of the last read by an exchange.
    exchange_read: Option<Instant>,
    /// True once anything was received. Until then the peer may wait for its other connections, and owes no
    /// heartbeats.
    pub(super) is_peer_up: bool,
    /// Error of a failed write, for the reader: it alone knows what was received before.
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
pub(super) struct WriteGuard<'c>(&'c Connection);

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_writing = false;
        self.0.changed.notify_all();
    }
}

/// The right to read on a connection, until it is dropped.
pub(super) struct ReadGuard<'c> {
    connection: &'c Connection,
    /// None only after the drop.
    pub(super) decoder: Option<Box<Decoder>>,
    is_reader: bool,
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.connection.state.lock();
        state.decoder = self.decoder.take();
        if !self.is_reader {
            state.exchange_read = Some(Instant::now());
        }
        drop(state);
        self.connection.changed.notify_all();
    }
}

/// Next task of the network's reader.
pub(super) enum ReaderTask {
    /// Tell the watchers of these notices.
    Notify(VecDeque<Vec<u8>>),
    /// Read, because no exchange does.
    Read,
    /// Stop: the connection has ended.
    Stop(Cause),
}

impl Connection {
    pub(super) fn new(peer: usize, stream: Channel, heartbeat: Arc<Waker>) -> Self {
        let address = stream
            .socket()
            .peer_addr()
            .map_or_else(|error| error.to_string(), |address| address.to_string());
        Self {
            peer,
            address,
            stream,
            state: Mutex::new(ConnectionState {
                phase: Phase::Open,
                received: HashMap::new(),
                gone: Gone::default(),
                outbox: VecDeque::new(),
                notices: VecDeque::new(),
                is_writing: false,
                decoder: Some(Box::new(Decoder::new())),
                exchange_read: None,
                is_peer_up: false,
                write_error: None,
            }),
            changed: Condvar::new(),
            is_slow: AtomicBool::new(false),
            reader_wake: Condvar::new(),
            heard: Moment::now(),
            written: Moment::now(),
            sent: AtomicU64::new(0),
            heartbeat,
        }
    }

    pub(super) fn peer(&self) -> usize {
        self.peer
    }

    /// Returns the number of bytes written.
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

    /// Returns the right to write; none if another thread has it or the connection has ended.
    pub(super) fn try_write(&self) -> Option<WriteGuard<'_>> {
        let mut state = self.state.lock();
        if state.is_writing || matches!(state.phase, Phase::Ended(_)) {
            return None;
        }
        state.is_writing = true;
        Some(WriteGuard(self))
    }

    /// Returns the right to read, for the network's reader or for an exchange; none if another thread has it.
    pub(super) fn try_read(&self, is_reader: bool) -> Option<ReadGuard<'_>> {
        let decoder = self.state.lock().decoder.take()?;
        Some(ReadGuard {
            connection: self,
            decoder: Some(decoder),
            is_reader,
        })
    }

    /// Takes a message with this tag, if one was received.
    pub(super) fn take(&self, tag: Tag) -> Option<Message> {
        self.state.lock().take(tag)
    }

    /// Returns an error unless messages can be sent and received.
    pub(super) fn check(&self) -> Result<(), Lost> {
        match &self.state.lock().phase {
            Phase::Open => Ok(()),
            Phase::Closing => Err(self.lost(Cause::Stopped)),
            Phase::Ended(cause) => Err(self.lost(cause.clone())),
        }
    }

    /// Waits until the connection changes, at most for this time.
    pub(super) fn wait(&self, time: Duration) {
        self.changed.wait_for(&mut self.state.lock(), time);
    }

    /// Waits for the next task of the network's reader.
    pub(super) fn wait_for_task(&self) -> ReaderTask {
        let mut state = self.state.lock();
        loop {
            if !state.notices.is_empty() {
                return ReaderTask::Notify(std::mem::take(&mut state.notices));
            }
            if let Phase::Ended(cause) = &state.phase {
                return ReaderTask::Stop(cause.clone());
            }
            let idle = state
                .exchange_read
                .map_or(EXCHANGE_IDLE, |read| read.elapsed());
            if state.decoder.is_some() && idle >= EXCHANGE_IDLE {
                return ReaderTask::Read;
            }
            let rest = match state.decoder {
                Some(_) => EXCHANGE_IDLE.saturating_sub(idle).max(EXCHANGE_IDLE / 10),
                // An exchange reads, for an unknown time.
                None => EXCHANGE_IDLE,
            };
            self.reader_wake.wait_for(&mut state, rest);
        }
    }

    /// Wakes the network's reader for a task that it does not find by reading.
    pub(super) fn wake_reader(&self) {
        self.reader_wake.notify_all();
    }

    /// Drops the messages of these groups, now and when they are received.
    pub(super) fn forget(&self, groups: &[u64]) {
        let mut state = self.state.lock();
        for group in groups {
            state.gone.add(*group);
        }
        state.received.retain(|tag, _| !groups.contains(&tag.group));
    }

    /// Queues a small frame, to be sent soon.
    pub(super) fn queue(&self, frame: QueuedFrame) {
        {
            let mut state = self.state.lock();
            if matches!(state.phase, Phase::Open) {
                if frame.is_goodbye() {
                    state.phase = Phase::Closing;
                    state.received.clear();
                    // No exchange waits for a message any more: the reader takes over.
                    state.exchange_read = None;
                }
                state.outbox.push_back(frame);
            }
        }
        self.heartbeat.wake();
        self.changed.notify_all();
        self.wake_reader();
    }

    /// Ends the connection, if it has not ended. After this side's goodbye no end is a failure.
    pub(super) fn end(&self, cause: Cause) {
        {
            let mut state = self.state.lock();
            state.phase = match state.phase {
                Phase::Open => Phase::Ended(cause),
                Phase::Closing => Phase::Ended(Cause::Stopped),
                Phase::Ended(_) => return,
            };
        }
        // Fails only if the connection is already gone.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.changed.notify_all();
        self.wake_reader();
    }

    /// Waits until the peer has all its connections. Returns false at the deadline.
    pub(super) fn wait_until_up(&self, deadline: Instant) -> Result<bool, Lost> {
        let mut state = self.state.lock();
        loop {
            if state.is_peer_up {
                return Ok(true);
            }
            if let Phase::Ended(cause) = &state.phase {
                return Err(self.lost(cause.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.changed.wait_for(&mut state, left);
        }
    }

    /// Returns the time without bytes from the peer; zero while it owes none.
    pub(super) fn silence(&self) -> Duration {
        if self.state.lock().is_peer_up {
            self.heard.elapsed()
        } else {
            Duration::ZERO
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Ended(_))
    }

    /// Waits for the end of the connection and returns its cause; none at the deadline.
    pub(super) fn wait_for_end(&self, deadline: Instant) -> Option<Cause> {
        let mut state = self.state.lock();
        loop {
            if let Phase::Ended(cause) = &state.phase {
                return Some(cause.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.changed.wait_for(&mut state, left);
        }
    }
}

impl ConnectionState {
    pub(super) fn put(&mut self, tag: Tag, message: Message) {
        if !self.gone.contains(tag.group) {
            self.received.entry(tag).or_default().push_back(message);
        }
    }

    fn take(&mut self, tag: Tag) -> Option<Message> {
        let messages = self.received.get_mut(&tag)?;
        let message = messages.pop_front();
        if messages.is_empty() {
            self.received.remove(&tag);
        }
        message
    }
}

/// Time of the last event of a kind, set and read by threads without a lock.
pub(super) struct Moment {
    start: Instant,
    /// Microseconds since `start`.
    offset: AtomicU64,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            start: Instant::now(),
            offset: AtomicU64::new(0),
        }
    }

    /// Sets the time to now.
    pub(super) fn set(&self) {
        let offset = self.start.elapsed().as_micros() as u64;
        // Relaxed: only an elapsed time, which guards no other memory.
        self.offset.store(offset, Relaxed);
    }

    /// Returns the time since the event.
    pub(super) fn elapsed(&self) -> Duration {
        let offset = Duration::from_micros(self.offset.load(Relaxed));
        self.start.elapsed().saturating_sub(offset)
    }
}
