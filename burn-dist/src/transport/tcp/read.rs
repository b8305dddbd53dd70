//! The receiving direction of a connection.
//!
//! An exchange that waits for a message reads the connection itself, so that the bytes reach its memory without
//! another thread. While no exchange does, the network's reader receives frames and keeps their messages. News are
//! passed on by the thread that reads them; the network's reader alone tells the watchers.

use std::io::{self, ErrorKind, IoSliceMut, Read};

use super::connection::{Connection, Message, Phase};
use super::decoder::{Event, NoBuffers, RecvBuffers};
use super::frame::{Frame, Unreadable};
use super::guards::ReadGuard;
use super::mesh::Mesh;
use crate::net::channel::Channel;
use crate::transport::network::{Cause, Tag};

/// Most bytes that the network's reader reads of one connection before it looks after the others.
const MAX_READ: usize = 4 << 20;

/// Result of receiving once.
pub(super) enum Received {
    /// A frame, whose message was kept, or whose news were passed on.
    Frame,
    /// A message whose body is in the memory lent for it.
    Placed(Tag),
    /// Nothing: the watchers must be told of news first. The next bytes may have been read from the socket
    /// already, so nobody may poll for them.
    Backpressure,
    /// Nothing: the socket has no more bytes now.
    WouldBlock,
    /// Nothing: the connection has ended.
    End,
}

/// A stream of which a limited number of bytes is read.
struct Limited<'c> {
    stream: &'c Channel,
    left: usize,
}

impl Limited<'_> {
    /// Reads until there are bytes: a part of a TLS record is none.
    fn limit(&mut self, mut read: impl FnMut(&Channel) -> io::Result<usize>) -> io::Result<usize> {
        if self.left == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        loop {
            match read(self.stream) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(count) => {
                    self.left = self.left.saturating_sub(count);
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.limit(|mut stream| stream.read(buffer))
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.limit(|mut stream| stream.read_vectored(slices))
    }
}

impl Connection {
    /// Receives what is there, for the network's reader.
    pub(super) fn read_all(&self, mesh: &Mesh) {
        let Some(mut guard) = self.try_read(true) else {
            return;
        };
        let mut stream = Limited {
            stream: &self.stream,
            left: MAX_READ,
        };
        loop {
            match self.receive_from(&mut stream, mesh, &mut guard, &mut NoBuffers) {
                Received::Frame | Received::Placed(_) => {}
                // The reader is the thread that tells the watchers. What waits in the decoder, or in an encrypted
                // channel, does not show in a poll.
                Received::Backpressure => return self.note_drained(false),
                Received::WouldBlock if stream.left == 0 => return self.note_drained(false),
                Received::WouldBlock => {
                    if !self.is_over() {
                        self.note_drained(true);
                    }
                    return;
                }
                Received::End => return,
            }
        }
    }

    /// Receives one frame, if it is there.
    pub(super) fn receive(
        &self,
        mesh: &Mesh,
        guard: &mut ReadGuard<'_>,
        buffers: &mut dyn RecvBuffers,
    ) -> Received {
        match self.receive_from(&mut &self.stream, mesh, guard, buffers) {
            Received::WouldBlock if self.is_over() => Received::End,
            received => received,
        }
    }

    fn receive_from(
        &self,
        stream: &mut impl Read,
        mesh: &Mesh,
        guard: &mut ReadGuard<'_>,
        buffers: &mut dyn RecvBuffers,
    ) -> Received {
        let Some(decoder) = &mut guard.decoder else {
            return Received::WouldBlock;
        };
        if mesh.news.is_congested() {
            // The senders are held up meanwhile, as they must be. After the end nobody is told.
            return if self.has_ended() {
                Received::End
            } else {
                Received::Backpressure
            };
        }
        let end = match decoder.read(stream, buffers, &self.heard) {
            Ok(Event::WouldBlock) => return Received::WouldBlock,
            Ok(Event::Placed(tag)) => return Received::Placed(tag),
            Ok(Event::Frame(frame)) => match self.store(mesh, frame) {
                Ok(()) => return Received::Frame,
                Err(cause) => cause,
            },
            Err(Unreadable::Malformed(error)) => Cause::Malformed(error.into()),
            Err(Unreadable::Broken(error)) => self.broken(&error.to_string()),
            Err(Unreadable::End) => self.broken("closed without a goodbye"),
            Err(Unreadable::Truncated) => self.broken("closed in the middle of a frame"),
        };
        self.end(end);
        Received::End
    }

    /// Stores the content of a frame; an error ends the connection.
    fn store(&self, mesh: &Mesh, frame: Frame) -> Result<(), Cause> {
        match frame {
            Frame::Goodbye => return Err(Cause::Left),
            Frame::News(news) => mesh.hear(self, &news)?,
            Frame::Heartbeat => self.state.lock().owes_heartbeats = true,
            Frame::Message { tag, head, body } => {
                let mut state = self.state.lock();
                if matches!(state.phase, Phase::Open) {
                    state.put(&self.shared, tag, Message { head, body });
                }
            }
        }
        self.changed.notify_all();
        Ok(())
    }
}
