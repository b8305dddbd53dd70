//! The receiving direction of a connection.
//!
//! An exchange that waits for a message reads the connection itself, so that the bytes reach its memory without
//! another thread. While no exchange does, the network's reader receives frames and keeps their messages. It
//! alone tells the watchers, and holds no lock and no right to read meanwhile.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::{Connection, Message, Phase, ReadGuard, ReaderTask};
use super::decoder::{Event, NoBuffers, RecvBuffers};
use super::frame::{Frame, Unreadable};
use crate::transport::network::{Cause, Tag};
use crate::transport::watchers::Watchers;

/// Most notices that wait for the watchers to be told. With more, nothing is read until they are.
const MAX_PENDING_NOTICES: usize = 64;

/// Longest wait of the network's reader for a socket, and so the latest that it tells of a notice. Less than a
/// second.
const READER_POLL: Duration = Duration::from_millis(250);

/// Result of receiving once.
pub(super) enum Received {
    /// A frame, whose message or notice was kept.
    Frame,
    /// A message whose body is in the memory lent for it.
    Placed(Tag),
    /// Nothing: the watchers must be told of notices first. The next bytes may have been read from the socket
    /// already, so nobody may poll for them.
    Backpressure,
    /// Nothing: the socket has no more bytes now.
    WouldBlock,
    /// Nothing: the connection has ended.
    End,
}

impl Connection {
    /// Reads while no exchange does, until the connection ends, and tells the watchers.
    pub(super) fn run_reader(&self, watchers: &Watchers) {
        let ended = loop {
            match self.wait_for_task() {
                ReaderTask::Notify(notices) => {
                    for notice in notices {
                        if !watchers.notice(self.peer(), notice) {
                            let detail = "more notices than anybody has heard";
                            self.end(Cause::Malformed(detail.into()));
                        }
                    }
                }
                ReaderTask::Read => self.read_or_poll(),
                ReaderTask::Stop(cause) => break cause,
            }
        };
        if !matches!(ended, Cause::Left | Cause::Stopped) {
            let lost = self.lost(ended);
            tracing::warn!("{lost}");
            watchers.lost(lost);
        }
    }

    /// Receives what is there, or else waits for bytes.
    fn read_or_poll(&self) {
        // Bytes that an exchange has read already would not show in a poll.
        let Some(mut guard) = self.try_read(true) else {
            return;
        };
        let mut any = false;
        loop {
            match self.receive(&mut guard, &mut NoBuffers) {
                Received::Frame | Received::Placed(_) => any = true,
                // This is the thread that tells the watchers.
                Received::Backpressure => return,
                Received::WouldBlock | Received::End => break,
            }
        }
        drop(guard);
        if any || self.has_ended() {
            return;
        }
        // A connection that ends is shut down, which ends this wait. It is bounded because an exchange may have
        // read all bytes before the poll, and notices with them.
        let readable = PollFd::new(self.stream.socket(), PollFlags::IN);
        let wait = Timespec::try_from(READER_POLL).unwrap_or_default();
        if let Err(error) = poll(&mut [readable], Some(&wait))
            && error != rustix::io::Errno::INTR
        {
            self.end(Cause::Disconnected(error.to_string().into()));
        }
    }

    /// Receives one frame, if it is there.
    pub(super) fn receive(
        &self,
        guard: &mut ReadGuard<'_>,
        buffers: &mut dyn RecvBuffers,
    ) -> Received {
        let Some(decoder) = &mut guard.decoder else {
            return Received::WouldBlock;
        };
        if self.state.lock().notices.len() >= MAX_PENDING_NOTICES {
            // The sender is held up meanwhile, as it must be. After the end nobody is told.
            let ended = self.has_ended();
            return if ended {
                Received::End
            } else {
                Received::Backpressure
            };
        }
        let end = match decoder.read(&mut &self.stream, buffers, &self.heard) {
            Ok(Event::WouldBlock) if self.has_ended() => return Received::End,
            Ok(Event::WouldBlock) => return Received::WouldBlock,
            Ok(Event::Placed(tag)) => return Received::Placed(tag),
            Ok(Event::Frame(frame)) => match self.store(frame) {
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
    fn store(&self, frame: Frame) -> Result<(), Cause> {
        let mut state = self.state.lock();
        state.is_peer_up = true;
        match frame {
            Frame::Heartbeat => {}
            Frame::Goodbye => return Err(Cause::Left),
            Frame::Message { tag, head, body } => {
                if matches!(state.phase, Phase::Open) {
                    state.put(tag, Message { head, body });
                }
            }
            Frame::Notice(notice) => {
                state.notices.push_back(notice);
                drop(state);
                self.wake_reader();
            }
        }
        self.changed.notify_all();
        Ok(())
    }
}
