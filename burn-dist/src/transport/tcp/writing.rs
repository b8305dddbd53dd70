//! The sending direction of a connection.
//!
//! Nothing here waits: a write gives the socket what it takes, and what remains of a frame is either
//! gone on with by whoever began it (`exchange`), or left in the outbox, which whoever writes next
//! sends first, the pulse at the latest. So a frame is never cut, and no thread is held up by a
//! connection that takes nothing. A frame is gone when the channel holds nothing of it back, which only
//! an encrypted one does.
//!
//! Callers: `exchange` sends messages, `pulse` the rest.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::connection::{Connection, Phase, Turn};
use super::frame::Header;
use crate::transport::locks::lock;
use crate::transport::network::Cause;

/// The most bytes given to one write: as many as go over loopback in two segments of a system that
/// gathers 64 KiB to one. With more, two processes that send to each other fill the system's buffers
/// before either of them reads, and those bytes fall out of the cores' caches: with writes without a limit
/// all_reduces of 4 MB and more take 1.5 times as long (measured with 2 processes on 2 cores).
const AT_ONCE: usize = 127 << 10;

/// What is sent without anybody waiting for it: small frames, and the rest of one whose sender has
/// gone.
pub(super) struct Posted {
    bytes: Vec<u8>,
    written: usize,
    goodbye: bool,
}

impl Posted {
    fn of(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            written: 0,
            goodbye: false,
        }
    }

    /// The first heartbeat, which says that this process has all its connections.
    pub(super) fn greeting() -> Self {
        Self::of(Header::HEARTBEAT.encode().to_vec())
    }

    /// A notice; the error says which limit its length breaks.
    pub(super) fn notice(notice: &[u8]) -> Result<Self, String> {
        let header = Header::notice(notice.len())?;
        Ok(Self::of([&header.encode()[..], notice].concat()))
    }

    /// The last frame.
    pub(super) fn goodbye() -> Self {
        Self {
            goodbye: true,
            ..Self::of(Header::GOODBYE.encode().to_vec())
        }
    }

    pub(super) fn is_goodbye(&self) -> bool {
        self.goodbye
    }
}

impl Connection {
    /// Writes what the socket takes of the pieces, after the first `skip` bytes of them; gives how
    /// many. The system's refusal is kept for whoever reads: what came before it is told first.
    pub(super) fn write(&self, _: &Turn<'_>, pieces: [&[u8]; 3], skip: usize) -> usize {
        let mut skip = skip;
        let mut room = AT_ONCE;
        let slices = pieces.map(|piece| {
            let start = skip.min(piece.len());
            skip -= start;
            let end = start + room.min(piece.len() - start);
            room -= end - start;
            IoSlice::new(&piece[start..end])
        });
        let refusal = match (&self.stream).write_vectored(&slices) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(written) => {
                self.written.set();
                // Relaxed: a count, which guards no other memory.
                self.sent.fetch_add(written as u64, Relaxed);
                return written;
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return 0;
            }
            Err(error) => error,
        };
        self.refuse(&refusal);
        0
    }

    /// Writes what the channel holds back; says whether the socket took all of it.
    pub(super) fn flush(&self, _: &Turn<'_>) -> bool {
        match (&self.stream).flush() {
            Ok(()) => return true,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.refuse(&error),
        }
        false
    }

    /// The system takes no more bytes.
    fn refuse(&self, error: &io::Error) {
        let first = {
            let mut state = lock(&self.state);
            let first = state.write_error.is_none();
            state.write_error.get_or_insert_with(|| error.to_string());
            first
        };
        if first {
            // The reader finds the end now, and says what it means: a goodbye may have come before.
            let _ = self.stream.shutdown(Shutdown::Both);
            self.stir();
        }
    }

    /// Sends what was posted; false if the socket takes no more.
    pub(super) fn send_posted(&self, turn: &Turn<'_>) -> bool {
        loop {
            // Only who has the turn takes anything out, so the first stays the first.
            let Some(mut posted) = lock(&self.state).outbox.pop_front() else {
                return true;
            };
            if posted.written < posted.bytes.len() {
                posted.written += self.write(turn, [&posted.bytes, &[], &[]], posted.written);
            }
            if posted.written < posted.bytes.len() || !self.flush(turn) {
                lock(&self.state).outbox.push_front(posted);
                return false;
            }
            if posted.goodbye {
                // The other side reads to this end, then ends the connection. Closing at once could
                // destroy what is still on its way.
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
    }

    /// Sends what was posted, or else, if nothing was written for `idle`, a heartbeat.
    pub(super) fn beat(&self, idle: Duration) {
        if self.written.elapsed() >= idle {
            let mut state = lock(&self.state);
            // What waits tells the other side as much as a heartbeat would.
            if state.outbox.is_empty() && matches!(state.phase, Phase::Open) {
                state.outbox.push_back(Posted::greeting());
            }
        }
        // Who has the turn sends what was posted, or has the pulse do so.
        if let Some(turn) = self.try_turn() {
            self.send_posted(&turn);
        }
    }

    /// Leaves the rest of a frame, which must go before anything else.
    pub(super) fn leave(&self, turn: Turn<'_>, pieces: [&[u8]; 3], written: usize) {
        let mut rest = Vec::new();
        let mut skip = written;
        for piece in pieces {
            let start = skip.min(piece.len());
            skip -= start;
            rest.extend_from_slice(&piece[start..]);
        }
        lock(&self.state).outbox.push_front(Posted::of(rest));
        drop(turn);
        self.waker.wake();
    }

    /// The connection broke; what a failed write said tells more than the end of the stream.
    pub(super) fn broken(&self, detail: &str) -> Cause {
        let write_error = lock(&self.state).write_error.clone();
        Cause::Disconnected(write_error.as_deref().unwrap_or(detail).into())
    }
}
