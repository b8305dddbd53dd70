//! The receiving direction of a connection.
//!
//! Whoever waits for a message reads the connection itself (`exchange`), so that its bytes come into
//! its memory without another thread. While nobody does, the network's reader takes in what comes and
//! keeps it. It alone tells the watchers, and holds no lock and no right to read meanwhile.
//!
//! Callers: the network starts one reader for each connection; `exchange`.

use std::io::{self, IoSliceMut, Read};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::{Connection, Duty, Message, Phase, Reading};
use super::frame::{Frame, Unreadable};
use super::inbound::{Event, NoShelf, Shelf};
use crate::transport::locks::lock;
use crate::transport::network::{Cause, Tag};
use crate::transport::watchers::Watchers;

/// How many notices may wait for the watchers to be told: with more, nothing is read until they are.
const NOTICES: usize = 64;

/// The longest that the network's reader waits for a socket: so late it may tell of a notice. Less than a
/// second.
const WAIT: Duration = Duration::from_millis(250);

/// What was taken in.
pub(super) enum Taken {
    /// A message that was kept, or something else than a message.
    Frame,
    /// A message that was put on its shelf.
    Placed(Tag),
    /// Nothing: the watchers must be told of notices first. What comes next may have been read of the
    /// socket already, so nobody may wait for that.
    Held,
    /// Nothing: there is no more for now.
    Dry,
    /// Nothing: the connection has ended.
    End,
}

impl Connection {
    /// Reads when nobody else does, until the connection ends, and tells the watchers.
    pub(super) fn run_reader(&self, watchers: &Watchers) {
        let ended = loop {
            match self.await_duty() {
                Duty::Notices(notices) => {
                    for notice in notices {
                        if !watchers.notice(self.peer(), notice) {
                            let detail = "more notices than anybody has heard";
                            self.end(Cause::Malformed(detail.into()));
                        }
                    }
                }
                Duty::Read => self.read_on(),
                Duty::End(cause) => break cause,
            }
        };
        if !matches!(ended, Cause::Left | Cause::Stopped) {
            let lost = self.lost(ended);
            tracing::warn!("{lost}");
            watchers.lost(lost);
        }
    }

    /// Takes in what is there, or else waits for something to come.
    fn read_on(&self) {
        // What somebody has read of the socket already, for a message before it, no wait would show.
        let Some(mut reading) = self.try_reading(true) else {
            return;
        };
        let mut came = false;
        loop {
            match self.take_in(&mut reading, &mut NoShelf) {
                Taken::Frame | Taken::Placed(_) => came = true,
                // This thread is the one that tells them.
                Taken::Held => return,
                Taken::Dry | Taken::End => break,
            }
        }
        drop(reading);
        if came || self.has_ended() {
            return;
        }
        // A connection that ends is shut down, which ends this wait. It has an end of its own because the
        // thread of an exchange may have read all that came before this one looked, and notices with it.
        let readable = PollFd::new(self.stream.socket(), PollFlags::IN);
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: WAIT.subsec_nanos().into(),
        };
        if let Err(error) = poll(&mut [readable], Some(&wait))
            && error != rustix::io::Errno::INTR
        {
            self.end(Cause::Disconnected(error.to_string().into()));
        }
    }

    /// Takes in one frame, if it is there.
    pub(super) fn take_in(&self, reading: &mut Reading<'_>, shelf: &mut dyn Shelf) -> Taken {
        let Some(inbound) = &mut reading.inbound else {
            return Taken::Dry;
        };
        if lock(&self.state).notices.len() >= NOTICES {
            // Meanwhile the sender is held up, as it must be; but nobody is told after the end.
            let ended = self.has_ended();
            return if ended { Taken::End } else { Taken::Held };
        }
        let end = match inbound.read(&mut Heard(self), shelf) {
            Ok(Event::Dry) if self.has_ended() => return Taken::End,
            Ok(Event::Dry) => return Taken::Dry,
            Ok(Event::Placed(tag)) => return Taken::Placed(tag),
            Ok(Event::Frame(frame)) => match self.file(frame) {
                Ok(()) => return Taken::Frame,
                Err(cause) => cause,
            },
            Err(Unreadable::Malformed(error)) => Cause::Malformed(error.into()),
            Err(Unreadable::Broken(error)) => self.broken(&error.to_string()),
            Err(Unreadable::End) => self.broken("closed without a goodbye"),
            Err(Unreadable::Truncated) => self.broken("closed in the middle of a frame"),
        };
        self.end(end);
        Taken::End
    }

    /// Puts a frame where it belongs; the error ends the connection.
    fn file(&self, frame: Frame) -> Result<(), Cause> {
        let mut state = lock(&self.state);
        state.greeted = true;
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
                self.stir();
            }
        }
        self.arrived.notify_all();
        Ok(())
    }
}

/// Reads from a connection and notes when something came.
struct Heard<'c>(&'c Connection);

impl Read for Heard<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(into)])
    }

    fn read_vectored(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let read = (&self.0.stream).read_vectored(into)?;
        self.0.heard.set();
        Ok(read)
    }
}
