//! An exchange: the calling thread sends and receives messages on all the connections it needs at once.
//!
//! It writes what the sockets take and reads what has arrived, in turn, and sleeps only when no socket makes
//! progress: after some tries if a peer has lately answered fast, at once if it has not (its link is slow, or it
//! computes, and this core is better used for that). So two processes that send to each other never wait for
//! each other, no byte is copied but by the system, and no other thread is woken. Several exchanges may use a
//! connection: one of them reads it and keeps the messages of the others, and each frame has one writer.
//!
//! An exchange that ends before a frame is written leaves the rest to the next writer. Only a deadline in the
//! middle of a frame ends the connection: the peer reads too little.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::{Connection, ReadGuard, WriteGuard};
use super::decoder::RecvBuffers;
use super::frame::{HEADER, Header};
use super::read::Received;
use crate::transport::network::{CANCEL_POLL, Cancel, Cause, Come, Incoming, Lost, Outgoing, Tag};

/// Tries of all sockets, with the core yielded in between, before the thread sleeps: some tenths of a
/// millisecond. With a tenth of it, two processes that exchange 64 KiB can fall into step asleep, each waking
/// the other, and take twice as long.
const TRIES_BEFORE_SLEEP: u32 = 200;
/// Sleep after which the tries are saved the next time: bytes come so slowly that there is time to sleep between
/// them. (At 1 Gbit/s they come in bursts a fraction of a millisecond apart.)
const LONG_SLEEP: Duration = Duration::from_micros(100);
/// Longest sleep while another thread has the right to read or write a connection that this one needs.
const CONTENTION_POLL: Duration = Duration::from_millis(1);
/// Time left to the network's reader to tell of notices, before the connection is read again.
const BACKPRESSURE_POLL: Duration = Duration::from_millis(1);

/// An exchange in progress.
pub(super) struct Exchange<'c, 'm, 's, 'r> {
    peers: Vec<PeerIo<'c>>,
    sends: &'m [Outgoing<'s>],
    receives: &'m mut [Incoming<'r>],
    cancel: &'m dyn Cancel,
}

/// The part of an exchange on one connection.
struct PeerIo<'c> {
    connection: &'c Connection,
    /// Indices of the messages to send, the last first.
    unsent: Vec<usize>,
    frame: Option<FrameWrite<'c>>,
    /// True if the socket took less than it was given.
    is_full: bool,
    reading: Option<ReadGuard<'c>>,
    /// Number of messages not received yet.
    awaited: usize,
    /// True if an unexpected message was received.
    is_odd: bool,
}

/// A frame that is being written.
struct FrameWrite<'c> {
    guard: WriteGuard<'c>,
    header: [u8; HEADER],
    /// Index of its message.
    message: usize,
    written: usize,
}

/// The memory of an exchange for the messages of one process.
struct PeerBuffers<'m, 'b> {
    from: usize,
    receives: &'m mut [Incoming<'b>],
}

impl<'b> PeerBuffers<'_, 'b> {
    fn find(&mut self, tag: Tag) -> Option<&mut Incoming<'b>> {
        let mut all = self.receives.iter_mut();
        all.find(|one| one.from == self.from && one.tag == tag && one.come.is_none())
    }
}

impl RecvBuffers for PeerBuffers<'_, '_> {
    fn place(&mut self, tag: Tag, head: &[u8], length: usize) -> Option<&mut [u8]> {
        self.find(tag)?.place(head, length)
    }
}

impl<'c, 'm, 's, 'r> Exchange<'c, 'm, 's, 'r> {
    /// # Errors
    /// There is no connection with a process.
    pub(super) fn new(
        connection: impl Fn(usize) -> Result<&'c Connection, Lost>,
        sends: &'m [Outgoing<'s>],
        receives: &'m mut [Incoming<'r>],
        cancel: &'m dyn Cancel,
    ) -> Result<Self, Lost> {
        let mut peers: Vec<PeerIo<'c>> = Vec::new();
        let mut index_of = |process| -> Result<usize, Lost> {
            let found = peers.iter().position(|io| io.connection.peer() == process);
            if let Some(found) = found {
                return Ok(found);
            }
            peers.push(PeerIo::new(connection(process)?));
            Ok(peers.len() - 1)
        };
        let receivers: Vec<_> = sends.iter().map(|send| index_of(send.to)).collect();
        let senders: Vec<_> = receives.iter().map(|one| index_of(one.from)).collect();
        for (message, peer) in receivers.into_iter().enumerate().rev() {
            peers[peer?].unsent.push(message);
        }
        for peer in senders {
            peers[peer?].awaited += 1;
        }
        Ok(Self {
            peers,
            sends,
            receives,
            cancel,
        })
    }

    /// Runs until all messages are sent and received (true), or the exchange was cancelled or an unexpected
    /// message received (false).
    ///
    /// # Errors
    /// A process is lost, a message is too long, or the deadline has passed.
    pub(super) fn run(mut self, deadline: Instant) -> Result<bool, Lost> {
        let start = Instant::now();
        let mut tries = 0;
        loop {
            let mut any = false;
            for peer in &mut self.peers {
                any |= peer.write(self.sends)?;
                let awaited = peer.awaited;
                any |= peer.read(self.receives)?;
                if awaited > 0 && peer.awaited == 0 {
                    self.cancel.received_from(peer.connection.peer());
                }
            }
            if self.peers.iter().any(|peer| peer.is_odd) {
                return Ok(false);
            }
            if self.peers.iter().all(PeerIo::is_done) {
                return Ok(true);
            }
            if self.cancel.is_cancelled() {
                return Ok(false);
            }
            if any {
                tries = 0;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.late(start.elapsed()));
            }
            tries += 1;
            if tries > self.max_tries() {
                let asleep = Instant::now();
                self.sleep(left.min(CANCEL_POLL));
                self.note_sleep(asleep.elapsed());
                tries = 0;
            } else {
                // The peer may need this core.
                std::thread::yield_now();
            }
        }
    }

    /// Returns the number of tries before a sleep.
    fn max_tries(&self) -> u32 {
        let mut waiting = self.waiting();
        let is_fast = waiting.any(|connection| !connection.is_slow.load(Relaxed));
        if is_fast { TRIES_BEFORE_SLEEP } else { 1 }
    }

    /// Lets the next waits for the same processes learn from this one.
    fn note_sleep(&self, time: Duration) {
        for connection in self.waiting() {
            connection.is_slow.store(time >= LONG_SLEEP, Relaxed);
        }
    }

    /// Returns the connections that are not done.
    fn waiting(&self) -> impl Iterator<Item = &'c Connection> {
        let peers = self.peers.iter().filter(|peer| !peer.is_done());
        peers.map(|peer| peer.connection)
    }

    /// Sleeps until a socket is ready, at most for this time.
    fn sleep(&self, mut time: Duration) {
        let mut polled = Vec::with_capacity(self.peers.len());
        let mut contended = None;
        for peer in &self.peers {
            let mut events = PollFlags::empty();
            events.set(PollFlags::OUT, peer.is_full && peer.wants_to_write());
            events.set(PollFlags::IN, peer.reading.is_some());
            if !events.is_empty() {
                polled.push(PollFd::new(peer.connection.stream.socket(), events));
            }
            let lacks_write = peer.wants_to_write() && !peer.is_full;
            if lacks_write || (peer.awaited > 0 && peer.reading.is_none()) {
                contended = Some(peer.connection);
            }
        }
        if let Some(connection) = contended {
            if polled.is_empty() {
                // Notified when the other thread stops, or receives a message of this exchange.
                return connection.wait(time);
            }
            time = time.min(CONTENTION_POLL);
        }
        // Less than a second. The result of an interrupted wait is found by the next try.
        let time = Timespec::try_from(time).unwrap_or_default();
        let _ = poll(&mut polled, Some(&time));
    }

    /// Returns the first process that has not answered, and ends the connections with a frame half written.
    fn late(&self, elapsed: Duration) -> Lost {
        let cause = Cause::Deadline(elapsed);
        let waiting = self.peers.iter().find(|peer| !peer.is_done());
        let mut lost = waiting.map(|peer| peer.connection.lost(cause.clone()));
        for peer in &self.peers {
            if peer.frame.as_ref().is_some_and(|frame| frame.written > 0) {
                peer.connection.end(cause.clone());
                lost = Some(peer.connection.lost(cause.clone()));
            }
        }
        // Only called while a peer is waited for.
        lost.unwrap_or_else(|| self.peers[0].connection.lost(cause))
    }
}

impl Drop for Exchange<'_, '_, '_, '_> {
    /// Gives back lent memory, the rights to read and write, and the rests of frames.
    fn drop(&mut self) {
        for peer in &mut self.peers {
            let connection = peer.connection;
            if let Some(mut reading) = peer.reading.take()
                && let Some(decoder) = &mut reading.decoder
            {
                decoder.release(&mut PeerBuffers {
                    from: connection.peer(),
                    receives: self.receives,
                });
            }
            if let Some(frame) = peer.frame.take()
                && frame.written > 0
            {
                let Outgoing { head, body, .. } = self.sends[frame.message];
                connection.queue_rest(frame.guard, [&frame.header, head, body], frame.written);
            }
            if !connection.state.lock().outbox.is_empty() {
                // Queued while this thread had the right to write.
                connection.heartbeat.wake();
            }
        }
    }
}

impl<'c> PeerIo<'c> {
    fn new(connection: &'c Connection) -> Self {
        Self {
            connection,
            unsent: Vec::new(),
            frame: None,
            is_full: false,
            reading: None,
            awaited: 0,
            is_odd: false,
        }
    }

    fn is_done(&self) -> bool {
        self.awaited == 0 && !self.wants_to_write()
    }

    fn wants_to_write(&self) -> bool {
        self.frame.is_some() || !self.unsent.is_empty()
    }

    /// Writes what the socket takes. Returns true if it took anything.
    fn write(&mut self, sends: &[Outgoing<'_>]) -> Result<bool, Lost> {
        let mut any = false;
        self.is_full = false;
        while self.wants_to_write() {
            let frame = match &mut self.frame {
                Some(frame) => frame,
                None => match self.begin_frame(sends)? {
                    Some(frame) => self.frame.insert(frame),
                    None => return Ok(any),
                },
            };
            let Outgoing { head, body, .. } = sends[frame.message];
            let pieces = [&frame.header[..], head, body];
            let length = HEADER + head.len() + body.len();
            let mut written = 0;
            if frame.written < length {
                written = self.connection.write(&frame.guard, pieces, frame.written);
            }
            frame.written += written;
            any |= written > 0;
            if frame.written == length && self.connection.flush(&frame.guard) {
                self.frame = None;
            } else if written == 0 {
                self.is_full = true;
                self.connection.check()?;
                return Ok(any);
            }
        }
        Ok(any)
    }

    /// Begins the next frame; none if another thread writes, or the outbox must go before it.
    fn begin_frame(&mut self, sends: &[Outgoing<'_>]) -> Result<Option<FrameWrite<'c>>, Lost> {
        self.connection.check()?;
        let (Some(&message), Some(guard)) = (self.unsent.last(), self.connection.try_write())
        else {
            return Ok(None);
        };
        if !self.connection.send_queued(&guard) {
            self.is_full = true;
            return Ok(None);
        }
        let Outgoing {
            tag, head, body, ..
        } = sends[message];
        let header = Header::message(tag, head.len(), body.len())
            .map_err(|error| self.connection.lost(Cause::TooLarge(error.into())))?;
        self.unsent.pop();
        Ok(Some(FrameWrite {
            guard,
            header: header.encode(),
            message,
            written: 0,
        }))
    }

    /// Receives what has arrived. Returns true if anything had.
    fn read(&mut self, receives: &mut [Incoming<'_>]) -> Result<bool, Lost> {
        // A socket that takes no more may wait for its peer to be read, which may wait for the same.
        if self.awaited == 0 && !self.is_full {
            self.reading = None;
            return Ok(false);
        }
        if self.reading.is_none() {
            self.reading = self.connection.try_read(false);
            // Messages received before are older than those this thread will read.
            if self.take_received(receives) {
                return Ok(true);
            }
        }
        let Some(reading) = &mut self.reading else {
            self.connection.check()?;
            return Ok(false);
        };
        let mut buffers = PeerBuffers {
            from: self.connection.peer(),
            receives,
        };
        match self.connection.receive(reading, &mut buffers) {
            Received::Placed(tag) => {
                if let Some(receive) = buffers.find(tag) {
                    receive.come = Some(Come::Placed);
                    self.awaited -= 1;
                }
                Ok(true)
            }
            Received::Frame => {
                self.take_received(receives);
                Ok(true)
            }
            Received::Backpressure => {
                self.connection.wait(BACKPRESSURE_POLL);
                Ok(false)
            }
            Received::WouldBlock => Ok(false),
            Received::End => self.connection.check().map(|()| false),
        }
    }

    /// Takes the messages that were received and kept. Returns true if there were any.
    fn take_received(&mut self, receives: &mut [Incoming<'_>]) -> bool {
        let from = self.connection.peer();
        let before = self.awaited;
        for receive in receives {
            if receive.from == from
                && receive.come.is_none()
                && let Some(message) = self.connection.take(receive.tag)
            {
                receive.accept(message.head, message.body);
                self.awaited -= 1;
                self.is_odd |= receive.is_odd();
            }
        }
        self.awaited < before
    }
}
