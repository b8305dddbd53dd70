//! The sending direction of a connection.
//!
//! The thread that sends writes to the socket itself, so that no byte is copied but by the system (and
//! by TLS, which holds back what the socket does not take at once: `flush`).
//! Two processes that send large messages to each other at once don't block each other: the reader's
//! thread of each takes whatever comes into memory and waits for nobody (neither for whoever asks
//! for the message nor for a turn to write), so every write goes on as fast as the link carries it.
//!
//! A write is done in slices of time of [`SLICE`], between which the deadline and the end of the
//! connection are looked at. A frame that was begun and can't be finished ends the connection: the
//! other side could not tell where the next frame begins.
//!
//! Callers: the network sends messages, `pulse` sends the rest.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::connection::{Connection, Phase, Small, Turn};
use super::frame::Header;
use crate::transport::locks::lock;
use crate::transport::network::{Cause, Lost, Tag};

/// The longest that one write waits for the socket.
pub(super) const SLICE: Duration = Duration::from_millis(50);
/// The most bytes given to one write: some systems refuse more than `i32::MAX`.
const AT_ONCE: usize = 1 << 30;
/// How long to wait for the reader to say why a connection broke: it needs no more than to read what
/// the system has already received.
const VERDICT: Duration = Duration::from_secs(1);

/// How long a write may take.
#[derive(Clone, Copy)]
struct Patience {
    /// Until when the first byte must go: after that nothing has happened.
    begin: Instant,
    /// Until when the last byte must go: after that the connection ends.
    finish: Instant,
}

/// How a write failed.
enum Failure {
    /// Nothing was written in time.
    NotBegun,
    /// A part was written in time.
    NotFinished,
    /// The system refused.
    Broken(io::Error),
    /// The connection has ended.
    Ended,
}

impl Connection {
    /// Writes a message.
    pub(super) fn send(
        &self,
        tag: Tag,
        head: &[u8],
        body: &[u8],
        deadline: Instant,
    ) -> Result<(), Lost> {
        let start = Instant::now();
        let header = Header::message(tag, head.len(), body.len())
            .map_err(|error| self.lost(Cause::Malformed(error.into())))?;
        let patience = Patience {
            begin: deadline,
            finish: deadline,
        };
        let turn = self.take_turn(deadline)?;
        let sent = self
            .send_posted(&turn, patience)
            .and_then(|()| self.write(&turn, &header, head, body, patience))
            .and_then(|()| self.flush(deadline, Failure::NotFinished));
        drop(turn);
        if !lock(&self.state).outbox.is_empty() {
            // It came while this thread wrote, when nobody else could send it.
            self.waker.wake();
        }
        sent.map_err(|failure| self.judge(failure, start.elapsed()))
    }

    /// Sends what was posted, or else, if nothing was written for `idle`, a heartbeat. Does not wait
    /// for a connection that takes nothing, unless it stops in the middle of a frame; then for `grace`.
    pub(super) fn beat(&self, idle: Duration, grace: Duration) {
        // Who has the turn is writing, which tells the other side as much as a heartbeat would.
        let Some(turn) = self.try_turn() else {
            return;
        };
        let now = Instant::now();
        let patience = Patience {
            begin: now,
            finish: now + grace,
        };
        let mut sent = self
            .flush(now, Failure::NotBegun)
            .and_then(|()| self.send_posted(&turn, patience));
        let closed = matches!(lock(&self.state).phase, Phase::Closing);
        if sent.is_ok() && !closed && self.written.elapsed() >= idle {
            sent = self.write(&turn, &Header::HEARTBEAT, &[], &[], patience);
        }
        drop(turn);
        match sent {
            // The connection is full, so something is on its way; the next round tries again.
            Ok(()) | Err(Failure::NotBegun) => {}
            Err(failure) => drop(self.judge(failure, grace)),
        }
    }

    /// Sends notices and the goodbye. What could not be begun stays.
    fn send_posted(&self, turn: &Turn<'_>, patience: Patience) -> Result<(), Failure> {
        loop {
            // Only who has the turn takes anything out, so the first stays the first.
            let Some(small) = lock(&self.state).outbox.front().cloned() else {
                return Ok(());
            };
            match &small {
                Small::Greeting => self.write(turn, &Header::HEARTBEAT, &[], &[], patience)?,
                Small::Notice(notice) => match Header::notice(notice.len()) {
                    Ok(header) => self.write(turn, &header, &[], notice, patience)?,
                    Err(error) => tracing::error!("a notice was not sent: {error}"),
                },
                Small::Goodbye => {
                    self.write(turn, &Header::GOODBYE, &[], &[], patience)?;
                    self.flush(patience.finish, Failure::NotFinished)?;
                    // The other side reads to this end, then ends the connection. Closing at once
                    // could destroy what is still on its way.
                    let _ = self.stream.shutdown(Shutdown::Write);
                }
            }
            lock(&self.state).outbox.pop_front();
        }
    }

    fn write(
        &self,
        _turn: &Turn<'_>,
        header: &Header,
        head: &[u8],
        body: &[u8],
        patience: Patience,
    ) -> Result<(), Failure> {
        let header = header.encode();
        let (first, rest) = body.split_at(body.len().min(AT_ONCE));
        let mut begun = false;
        let frame = [&header[..], head, first];
        self.write_all(&mut frame.map(IoSlice::new), patience, &mut begun)?;
        for part in rest.chunks(AT_ONCE) {
            self.write_all(&mut [IoSlice::new(part)], patience, &mut begun)?;
        }
        self.written.set();
        Ok(())
    }

    fn write_all(
        &self,
        mut slices: &mut [IoSlice<'_>],
        patience: Patience,
        begun: &mut bool,
    ) -> Result<(), Failure> {
        loop {
            match (&self.stream).write_vectored(slices) {
                Ok(0) => return Err(Failure::Broken(ErrorKind::WriteZero.into())),
                Ok(written) => {
                    *begun = true;
                    IoSlice::advance_slices(&mut slices, written);
                }
                // The socket took nothing in its slice of time: a system says either.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Broken(error)),
            }
            if slices.iter().all(|slice| slice.is_empty()) {
                return Ok(());
            }
            if self.has_ended() {
                return Err(Failure::Ended);
            }
            let (until, late) = if *begun {
                (patience.finish, Failure::NotFinished)
            } else {
                (patience.begin, Failure::NotBegun)
            };
            if Instant::now() >= until {
                return Err(late);
            }
        }
    }

    /// Sends what the channel holds back, which only an encrypted one does: until then it takes no more,
    /// and what it holds goes on with the next write, or with the next round of the pulse.
    fn flush(&self, until: Instant, late: Failure) -> Result<(), Failure> {
        loop {
            match (&self.stream).flush() {
                Ok(()) => return Ok(()),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(Failure::Broken(error)),
            }
            if self.has_ended() {
                return Err(Failure::Ended);
            }
            if Instant::now() >= until {
                return Err(late);
            }
        }
    }

    /// Says what a failed write means, and ends the connection if it can't go on.
    fn judge(&self, failure: Failure, elapsed: Duration) -> Lost {
        match failure {
            Failure::NotBegun => return self.lost(Cause::Deadline(elapsed)),
            Failure::NotFinished => self.end(Cause::Deadline(elapsed)),
            Failure::Ended => {}
            Failure::Broken(error) => {
                // The reader may have a goodbye before it: what came before the end is its to tell.
                lock(&self.state).write_error = Some(error.to_string());
                let _ = self.stream.shutdown(Shutdown::Both);
                if self.wait_for_end(Instant::now() + VERDICT).is_none() {
                    self.end(Cause::Disconnected(error.to_string().into()));
                }
            }
        }
        let cause = self.wait_for_end(Instant::now());
        self.lost(cause.unwrap_or(Cause::Stopped))
    }
}
