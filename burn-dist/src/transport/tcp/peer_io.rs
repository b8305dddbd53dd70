//! The part of an exchange with one process: its frames are written, and its messages read, as far as the socket goes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::decoder::RecvBuffers;
use super::frame::{HEADER, Header};
use super::guards::{ReadGuard, WriteGuard};
use super::mesh::Mesh;
use super::read::Received;
use crate::transport::network::{Cause, Come, Incoming, Lost, Outgoing, Tag};

/// Time left to the network's reader to tell of notices, before the connection is read again.
const BACKPRESSURE_POLL: Duration = Duration::from_millis(1);

/// The part of an exchange with one process.
pub(super) struct PeerIo<'c> {
    mesh: &'c Arc<Mesh>,
    pub(super) peer: usize,
    /// None until there is one.
    pub(super) connection: Option<&'c Connection>,
    /// Indices of the messages to send, the last first.
    pub(super) unsent: Vec<usize>,
    pub(super) frame: Option<FrameWrite<'c>>,
    /// True if the socket took less than it was given.
    pub(super) is_full: bool,
    pub(super) reading: Option<ReadGuard<'c>>,
    /// Number of messages not received yet.
    pub(super) awaited: usize,
    /// True if an unexpected message was received.
    pub(super) is_odd: bool,
}

/// A frame that is being written.
pub(super) struct FrameWrite<'c> {
    guard: WriteGuard<'c>,
    header: [u8; HEADER],
    /// Index of its message.
    message: usize,
    pub(super) written: usize,
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

impl<'c> PeerIo<'c> {
    pub(super) fn new(mesh: &'c Arc<Mesh>, peer: usize) -> Self {
        Self {
            mesh,
            peer,
            connection: None,
            unsent: Vec::new(),
            frame: None,
            is_full: false,
            reading: None,
            awaited: 0,
            is_odd: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.awaited == 0 && !self.wants_to_write()
    }

    pub(super) fn wants_to_write(&self) -> bool {
        self.frame.is_some() || !self.unsent.is_empty()
    }

    /// Has the connection made, if it is needed. Returns true once it is there.
    pub(super) fn connect(&mut self, deadline: Instant) -> Result<bool, Lost> {
        if !self.is_done() {
            let sends = self.wants_to_write();
            self.connection = self.mesh.reach(self.peer, sends, deadline)?;
        }
        Ok(self.connection.is_some())
    }

    /// Writes what the socket takes. Returns true if it took anything.
    pub(super) fn write(&mut self, sends: &[Outgoing<'_>]) -> Result<bool, Lost> {
        let mut any = false;
        self.is_full = false;
        let Some(connection) = self.connection else {
            return Ok(false);
        };
        while self.wants_to_write() {
            let frame = match &mut self.frame {
                Some(frame) => frame,
                None => match self.begin_frame(connection, sends)? {
                    Some(frame) => self.frame.insert(frame),
                    None => return Ok(any),
                },
            };
            let Outgoing { head, body, .. } = sends[frame.message];
            let pieces = [&frame.header[..], head, body];
            let length = HEADER + head.len() + body.len();
            let mut written = 0;
            if frame.written < length {
                written = connection.write(&frame.guard, pieces, frame.written);
            }
            frame.written += written;
            any |= written > 0;
            if frame.written == length && connection.flush(&frame.guard) {
                // Relaxed: a count, which guards no other memory.
                connection.messages.fetch_add(1, Relaxed);
                self.frame = None;
            } else if written == 0 {
                self.is_full = true;
                connection.check()?;
                return Ok(any);
            }
        }
        Ok(any)
    }

    /// Begins the next frame; none if another thread writes, or the outbox must go before it.
    fn begin_frame(
        &mut self,
        connection: &'c Connection,
        sends: &[Outgoing<'_>],
    ) -> Result<Option<FrameWrite<'c>>, Lost> {
        connection.check_sends()?;
        let (Some(&message), Some(guard)) = (self.unsent.last(), connection.try_write()) else {
            return Ok(None);
        };
        if !connection.send_queued(&guard) {
            self.is_full = true;
            return Ok(None);
        }
        let Outgoing {
            tag, head, body, ..
        } = sends[message];
        let header = Header::message(tag, head.len(), body.len())
            .map_err(|error| connection.lost(Cause::TooLarge(error.into())))?;
        self.unsent.pop();
        Ok(Some(FrameWrite {
            guard,
            header: header.encode(),
            message,
            written: 0,
        }))
    }

    /// Receives what has arrived. Returns true if anything had.
    pub(super) fn read(&mut self, receives: &mut [Incoming<'_>]) -> Result<bool, Lost> {
        // A socket that takes no more may wait for its peer to be read, which may wait for the same.
        if self.awaited == 0 && !self.is_full {
            self.reading = None;
            return Ok(false);
        }
        let Some(connection) = self.connection else {
            return Ok(false);
        };
        if self.reading.is_none() {
            self.reading = connection.try_read(false);
            // Messages received before are older than those this thread will read.
            if self.take_received(connection, receives) {
                return Ok(true);
            }
        }
        let Some(reading) = &mut self.reading else {
            connection.check()?;
            return Ok(false);
        };
        let mut buffers = PeerBuffers {
            from: self.peer,
            receives,
        };
        match connection.receive(self.mesh, reading, &mut buffers) {
            Received::Placed(tag) => {
                if let Some(receive) = buffers.find(tag) {
                    receive.come = Some(Come::Placed);
                    self.awaited -= 1;
                }
                Ok(true)
            }
            Received::Frame => {
                self.take_received(connection, receives);
                Ok(true)
            }
            Received::Backpressure => {
                connection.wait(BACKPRESSURE_POLL);
                Ok(false)
            }
            Received::WouldBlock => Ok(false),
            Received::End => connection.check().map(|()| false),
        }
    }

    /// Takes the messages that were received and kept. Returns true if there were any.
    fn take_received(&mut self, connection: &Connection, receives: &mut [Incoming<'_>]) -> bool {
        let before = self.awaited;
        for receive in receives {
            if receive.from == self.peer
                && receive.come.is_none()
                && let Some(message) = connection.take(receive.tag)
            {
                receive.accept(message.head, message.body);
                self.awaited -= 1;
                self.is_odd |= receive.is_odd();
            }
        }
        self.awaited < before
    }

    /// Gives back lent memory, the rights to read and write, and the rest of a frame.
    pub(super) fn give_back(&mut self, sends: &[Outgoing<'_>], receives: &mut [Incoming<'_>]) {
        let Some(connection) = self.connection else {
            return;
        };
        if let Some(mut reading) = self.reading.take()
            && let Some(decoder) = &mut reading.decoder
        {
            decoder.release(&mut PeerBuffers {
                from: self.peer,
                receives,
            });
        }
        if let Some(frame) = self.frame.take()
            && frame.written > 0
        {
            let Outgoing { head, body, .. } = sends[frame.message];
            connection.queue_rest(frame.guard, [&frame.header, head, body], frame.written);
        }
        if !connection.state.lock().outbox.is_empty() {
            // Queued while this thread had the right to write.
            connection.shared.heartbeat.wake();
        }
    }
}
