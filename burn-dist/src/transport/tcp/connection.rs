//! State of one connection: its phase, the rights to read and write it, and the messages received.
//!
//! A connection is in one of three phases, and moves only forward: open; closing (this side said goodbye: it
//! sends no more messages and drops those it receives); ended, with a cause that never changes. The thread that
//! sees the end first sets it and shuts the socket down, which wakes the readers and the writer. The network's
//! reader finds ends, and has the mesh told. A connection is *doomed* when its process was lost elsewhere: it ends
//! once what was received before has been read.
//!
//! One lock guards the state, and no I/O is done under it. A writer holds the [`WriteGuard`], a reader the
//! [`ReadGuard`] with the [`Decoder`]. The socket never blocks, so neither do they.

use std::collections::{HashMap, VecDeque};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::context::ConnectionContext;
use super::decoder::Decoder;
use super::moment::Moment;
use super::outbox::Outbox;
use super::write::QueuedFrame;
use crate::net::channel::Channel;
use crate::transport::network::{Cause, Lost, Tag};

/// Time without a read by an exchange after which the network's reader reads again. Before that it would only
/// be woken by what the exchanges read themselves.
const EXCHANGE_IDLE: Duration = Duration::from_millis(10);

/// The connection with one other process.
pub(super) struct Connection {
    peer: usize,
    address: String,
    /// True for a connection of the overlay, which carries heartbeats and news.
    is_overlay: bool,
    pub(super) stream: Channel,
    pub(super) state: Mutex<ConnectionState>,
    /// Notified when a frame was received, a read or write guard was dropped, or the phase changed.
    pub(super) changed: Condvar,
    /// True once the connection has ended or is doomed.
    is_over: AtomicBool,
    /// True if the last wait for the peer took a long sleep.
    pub(super) is_slow: AtomicBool,
    pub(super) heard: Moment,
    pub(super) written: Moment,
    /// Bytes written.
    pub(super) sent: AtomicU64,
    /// Messages written.
    pub(super) messages: AtomicU64,
    pub(super) shared: Arc<ConnectionContext>,
}

pub(super) struct ConnectionState {
    pub(super) phase: Phase,
    /// Messages received and not taken yet.
    received: HashMap<Tag, VecDeque<Message>>,
    /// Frames to send before the next message.
    pub(super) outbox: Outbox,
    pub(super) is_writing: bool,
    /// None while a [`ReadGuard`] has it.
    pub(super) decoder: Option<Box<Decoder>>,
    /// Time of the last read by an exchange.
    pub(super) exchange_read: Option<Instant>,
    /// True if all that was read was decoded too. What an exchange has read and not decoded does not show in a
    /// poll.
    pub(super) is_drained: bool,
    /// True once the peer has sent a heartbeat: it goes on with that until its end.
    pub(super) owes_heartbeats: bool,
    /// Cause of the end of the process, which was found elsewhere.
    doom: Option<Cause>,
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

/// Next task of the network's reader for a connection.
pub(super) enum ReaderTask {
    /// Report the end.
    Report(Cause),
    /// Leave it alone for this time: an exchange reads.
    Leave(Duration),
    /// Read what is there.
    Read,
    /// Wait for bytes.
    Poll,
}

impl Connection {
    pub(super) fn new(
        (peer, address): (usize, String),
        is_overlay: bool,
        stream: Channel,
        shared: Arc<ConnectionContext>,
    ) -> Self {
        Self {
            peer,
            address,
            is_overlay,
            stream,
            state: Mutex::new(ConnectionState {
                phase: Phase::Open,
                received: HashMap::new(),
                outbox: Outbox::default(),
                is_writing: false,
                decoder: Some(Box::new(Decoder::new())),
                exchange_read: None,
                is_drained: false,
                owes_heartbeats: false,
                doom: None,
                write_error: None,
            }),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
            is_slow: AtomicBool::new(false),
            heard: Moment::now(),
            written: Moment::now(),
            sent: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            shared,
        }
    }

    pub(super) fn peer(&self) -> usize {
        self.peer
    }

    pub(super) fn is_overlay(&self) -> bool {
        self.is_overlay
    }

    /// Returns the number of messages written.
    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
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

    /// Takes a message with this tag, if one was received.
    pub(super) fn take(&self, tag: Tag) -> Option<Message> {
        self.state.lock().take(tag)
    }

    /// Returns an error unless messages can be received.
    pub(super) fn check(&self) -> Result<(), Lost> {
        match &self.state.lock().phase {
            Phase::Open => Ok(()),
            Phase::Closing => Err(self.lost(Cause::Stopped)),
            Phase::Ended(cause) => Err(self.lost(cause.clone())),
        }
    }

    /// Returns an error unless messages can be sent.
    pub(super) fn check_sends(&self) -> Result<(), Lost> {
        let state = self.state.lock();
        match (&state.phase, &state.doom) {
            (Phase::Open, None) => Ok(()),
            (Phase::Closing, _) => Err(self.lost(Cause::Stopped)),
            (Phase::Open, Some(cause)) | (Phase::Ended(cause), _) => Err(self.lost(cause.clone())),
        }
    }

    /// Waits until the connection changes, at most for this time.
    pub(super) fn wait(&self, time: Duration) {
        self.changed.wait_for(&mut self.state.lock(), time);
    }

    /// Returns the next task of the network's reader, and true if it must also wait until the outbox can be sent.
    pub(super) fn reader_task(&self) -> (ReaderTask, bool) {
        let state = self.state.lock();
        if let Phase::Ended(cause) = &state.phase {
            return (ReaderTask::Report(cause.clone()), false);
        }
        let is_blocked = state.outbox.is_blocked() && !state.is_writing;
        let idle = state
            .exchange_read
            .map_or(EXCHANGE_IDLE, |read| read.elapsed());
        let task = if state.decoder.is_none() {
            // An exchange reads, for an unknown time.
            ReaderTask::Leave(EXCHANGE_IDLE)
        } else if idle < EXCHANGE_IDLE {
            ReaderTask::Leave(EXCHANGE_IDLE.saturating_sub(idle).max(EXCHANGE_IDLE / 10))
        } else if state.is_drained && state.doom.is_none() {
            ReaderTask::Poll
        } else {
            ReaderTask::Read
        };
        (task, is_blocked)
    }

    /// Notes whether the reader has decoded all that it has read.
    pub(super) fn note_drained(&self, is_drained: bool) {
        self.state.lock().is_drained = is_drained;
    }

    /// Drops the messages of these groups that were received.
    pub(super) fn forget(&self, groups: &[u64]) {
        let mut state = self.state.lock();
        state.received.retain(|tag, _| !groups.contains(&tag.group));
    }

    /// Queues a frame. [`Self::send_soon`] has it sent.
    pub(super) fn queue(&self, frame: QueuedFrame) {
        let is_goodbye = frame.is_goodbye();
        let fits = {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Open) {
                return;
            }
            if is_goodbye {
                state.phase = Phase::Closing;
                state.received.clear();
                // No exchange waits for a message any more: the reader takes over.
                state.exchange_read = None;
            }
            state.outbox.push(frame)
        };
        if is_goodbye {
            self.changed.notify_all();
            self.shared.reader.wake();
        }
        if !fits {
            let detail = "it does not read the news for it";
            self.end(Cause::Disconnected(detail.into()));
        }
    }

    /// Sends what is queued if the socket takes it; else the reader or the heartbeat thread sends it.
    pub(super) fn send_soon(&self) {
        match self.try_write() {
            Some(guard) => {
                if !self.send_queued(&guard) {
                    drop(guard);
                    self.shared.reader.wake();
                }
            }
            None if self.state.lock().outbox.is_empty() => {}
            // The writer sends it before its next frame, and the heartbeat thread after the last.
            None => self.shared.heartbeat.wake(),
        }
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
            state.outbox.clear();
            self.is_over.store(true, Ordering::Release);
        }
        // Fails only if the connection is already gone.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.changed.notify_all();
        self.shared.reader.wake();
    }

    /// Has the connection end once all that was received has been read: its process was lost elsewhere.
    pub(super) fn doom(&self, cause: Cause) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Ended(_)) {
            state.doom.get_or_insert(cause);
            self.is_over.store(true, Ordering::Release);
        }
    }

    /// Returns true if a connection with nothing to read has ended; ends it if it is doomed.
    pub(super) fn is_over(&self) -> bool {
        if !self.is_over.load(Ordering::Acquire) {
            return false;
        }
        let doom = self.state.lock().doom.clone();
        if let Some(cause) = doom {
            self.end(cause);
        }
        true
    }

    /// Returns the time without bytes from the peer; zero while it owes none.
    pub(super) fn silence(&self) -> Duration {
        if self.state.lock().owes_heartbeats {
            self.heard.elapsed()
        } else {
            Duration::ZERO
        }
    }

    /// Returns true if the socket has bytes, or its end, that nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        let mut polled = [PollFd::new(self.stream.socket(), PollFlags::IN)];
        matches!(poll(&mut polled, Some(&Timespec::default())), Ok(1..))
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
    /// Keeps a message, unless its group is gone.
    pub(super) fn put(&mut self, shared: &ConnectionContext, tag: Tag, message: Message) {
        if !shared.gone.read().contains(tag.group) {
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
