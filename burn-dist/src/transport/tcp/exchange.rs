//! An exchange: the calling thread sends and receives messages on all the connections it needs at once.
//!
//! It writes what the sockets take and reads what has arrived, in turn, and sleeps only when no socket makes
//! progress: after some tries if a peer has lately answered fast, at once if it has not (its link is slow, or it
//! computes, and this core is better used for that). So two processes that send to each other never wait for
//! each other, no byte is copied but by the system, and no other thread is woken. Several exchanges may use a
//! connection: one of them reads it and keeps the messages of the others, and each frame has one writer.
//!
//! A process without a connection gets one while the others' messages go on.
//!
//! An exchange that ends before a frame is written leaves the rest to the next writer. Only a deadline in the
//! middle of a frame ends the connection: the peer reads too little.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::Connection;
use super::mesh::Mesh;
use super::peer_io::PeerIo;
use crate::transport::network::{CANCEL_POLL, Cancel, Cause, Incoming, Lost, Outgoing};

/// Tries of all sockets, with the core yielded in between, before the thread sleeps: some tenths of a
/// millisecond. With a tenth of it, two processes that exchange 64 KiB can fall into step asleep, each waking
/// the other, and take twice as long.
const TRIES_BEFORE_SLEEP: u32 = 200;
/// Sleep after which the tries are saved the next time: bytes come so slowly that there is time to sleep between
/// them. (At 1 Gbit/s they come in bursts a fraction of a millisecond apart.)
const LONG_SLEEP: Duration = Duration::from_micros(100);
/// Longest sleep while another thread has the right to read or write a connection that this one needs.
const CONTENTION_POLL: Duration = Duration::from_millis(1);
/// Time of an exchange in which it looks after a missing connection often: it comes in a millisecond or so. Later,
/// its process computes.
const SOON: Duration = Duration::from_millis(100);

/// An exchange in progress.
pub(super) struct Exchange<'c, 'm, 's, 'r> {
    mesh: &'c Arc<Mesh>,
    start: Instant,
    peers: Vec<PeerIo<'c>>,
    sends: &'m [Outgoing<'s>],
    receives: &'m mut [Incoming<'r>],
    cancel: &'m dyn Cancel,
}

impl<'c, 'm, 's, 'r> Exchange<'c, 'm, 's, 'r> {
    /// # Errors
    /// There is no such process.
    pub(super) fn new(
        mesh: &'c Arc<Mesh>,
        sends: &'m [Outgoing<'s>],
        receives: &'m mut [Incoming<'r>],
        cancel: &'m dyn Cancel,
    ) -> Result<Self, Lost> {
        let mut peers: Vec<PeerIo<'c>> = Vec::new();
        let mut index_of = |process| -> Result<usize, Lost> {
            let found = peers.iter().position(|io| io.peer == process);
            if let Some(found) = found {
                return Ok(found);
            }
            mesh.find(process)?;
            peers.push(PeerIo::new(mesh, process));
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
            mesh,
            start: Instant::now(),
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
        let mut tries = 0;
        loop {
            let mut any = false;
            for peer in &mut self.peers {
                if peer.connection.is_none() && !peer.connect(deadline)? {
                    continue;
                }
                any |= peer.write(self.sends)?;
                let awaited = peer.awaited;
                any |= peer.read(self.receives)?;
                if awaited > 0 && peer.awaited == 0 {
                    self.cancel.received_from(peer.peer);
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
                return Err(self.late());
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
        // A connection takes longer than the tries.
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
        peers.filter_map(|peer| peer.connection)
    }

    /// Sleeps until a socket is ready, at most for this time.
    fn sleep(&self, mut time: Duration) {
        let mut polled = Vec::with_capacity(self.peers.len());
        let mut contended = None;
        let mut is_apart = false;
        for peer in &self.peers {
            let Some(connection) = peer.connection else {
                is_apart |= !peer.is_done();
                continue;
            };
            let mut events = PollFlags::empty();
            events.set(PollFlags::OUT, peer.is_full && peer.wants_to_write());
            events.set(PollFlags::IN, peer.reading.is_some());
            if !events.is_empty() {
                polled.push(PollFd::new(connection.stream.socket(), events));
            }
            let lacks_write = peer.wants_to_write() && !peer.is_full;
            if lacks_write || (peer.awaited > 0 && peer.reading.is_none()) {
                contended = Some(connection);
            }
        }
        if is_apart {
            if polled.is_empty() && contended.is_none() {
                return self.mesh.wait(time);
            }
            if self.start.elapsed() < SOON {
                time = time.min(CONTENTION_POLL);
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
    fn late(&self) -> Lost {
        let elapsed = self.start.elapsed();
        let cause = Cause::Deadline(elapsed);
        let waiting = self.peers.iter().find(|peer| !peer.is_done());
        // Only called while a peer is waited for.
        let waiting = waiting.unwrap_or(&self.peers[0]);
        let (peer, sends) = (waiting.peer, waiting.wants_to_write());
        let mut lost = match waiting.connection {
            Some(connection) => connection.lost(cause.clone()),
            None => self.mesh.late(peer, sends, elapsed),
        };
        for peer in &self.peers {
            if let (Some(frame), Some(connection)) = (&peer.frame, peer.connection)
                && frame.written > 0
            {
                connection.end(cause.clone());
                lost = connection.lost(cause.clone());
            }
        }
        lost
    }
}

impl Drop for Exchange<'_, '_, '_, '_> {
    /// Gives back lent memory, the rights to read and write, and the rests of frames.
    fn drop(&mut self) {
        for peer in &mut self.peers {
            peer.give_back(self.sends, self.receives);
        }
    }
}
