//! The sending direction of a connection.
//!
//! Nothing here blocks. A write gives the socket what it takes. The rest of a frame is written by the exchange
//! that began it, or is left in the outbox, which the next writer sends first, at the latest the heartbeat
//! thread. So a frame is never cut, and no thread waits for a peer that reads nothing. A frame is sent once the
//! channel holds none of it back; only an encrypted channel does that.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::connection::{Connection, Phase};
use super::frame::Header;
use super::guards::WriteGuard;
use crate::transport::network::Cause;

/// Most bytes of one write: two loopback segments of a system that gathers 64 KiB to one. With more, two
/// processes that send to each other fill the system's buffers before either of them reads, and the bytes fall
/// out of the cores' caches: without a limit, all_reduces of 4 MB and more take 1.5 times as long (measured with
/// 2 processes on 2 cores).
const MAX_WRITE: usize = 127 << 10;

/// Byte by which the side that dialled confirms that it uses the connection, before all frames.
pub(super) const CONFIRMATION: u8 = 6;

/// A frame sent without anybody waiting for it: a small one, or the rest of one whose exchange has ended.
#[derive(Clone)]
pub(super) struct QueuedFrame {
    bytes: Arc<Vec<u8>>,
    written: usize,
    /// Bytes of news in it.
    news: usize,
    is_goodbye: bool,
}

impl QueuedFrame {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Arc::new(bytes),
            written: 0,
            news: 0,
            is_goodbye: false,
        }
    }

    /// A heartbeat. The first one says that others follow until the end.
    pub(super) fn heartbeat() -> Self {
        Self::new(Header::HEARTBEAT.encode().to_vec())
    }

    /// The first byte of the side that dialled.
    pub(super) fn confirmation() -> Self {
        Self::new(vec![CONFIRMATION])
    }

    /// An encoded frame of news.
    pub(super) fn news(bytes: Vec<u8>) -> Self {
        Self {
            news: bytes.len(),
            ..Self::new(bytes)
        }
    }

    /// The last frame of a connection.
    pub(super) fn goodbye() -> Self {
        Self {
            is_goodbye: true,
            ..Self::new(Header::GOODBYE.encode().to_vec())
        }
    }

    /// Frames in a row as one.
    pub(super) fn joined(first: &Self, rest: impl Iterator<Item = Self>) -> Self {
        let mut bytes = first.bytes[first.written..].to_vec();
        let (mut news, mut is_goodbye) = (first.news, first.is_goodbye);
        for next in rest {
            bytes.extend_from_slice(&next.bytes[next.written..]);
            news += next.news;
            is_goodbye |= next.is_goodbye;
        }
        Self {
            news,
            is_goodbye,
            ..Self::new(bytes)
        }
    }

    pub(super) fn is_goodbye(&self) -> bool {
        self.is_goodbye
    }

    /// Returns the number of bytes of news.
    pub(super) fn news_bytes(&self) -> usize {
        self.news
    }

    /// Returns the number of bytes that are not written.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.written
    }
}

impl Connection {
    /// Writes what the socket takes of the pieces after their first `skip` bytes, and returns the number of
    /// bytes. An error is kept for the reader, which first delivers what was received before.
    pub(super) fn write(&self, _: &WriteGuard<'_>, pieces: [&[u8]; 3], skip: usize) -> usize {
        let mut skip = skip;
        let mut room = MAX_WRITE;
        let slices = pieces.map(|piece| {
            let start = skip.min(piece.len());
            skip -= start;
            let end = start + room.min(piece.len() - start);
            room -= end - start;
            IoSlice::new(&piece[start..end])
        });
        let error = match (&self.stream).write_vectored(&slices) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(written) => {
                self.written.set();
                // Relaxed: a count, which guards no other memory.
                self.sent.fetch_add(written as u64, Relaxed);
                return written;
            }
            Err(error) => error,
        };
        self.note_write_error(&error);
        0
    }

    /// Writes what the channel holds back. Returns true if the socket took all of it.
    pub(super) fn flush(&self, _: &WriteGuard<'_>) -> bool {
        let flushed = (&self.stream).flush();
        if let Err(error) = &flushed {
            self.note_write_error(error);
        }
        flushed.is_ok()
    }

    /// Keeps the first error of a write. A socket that takes no bytes now has none.
    fn note_write_error(&self, error: &io::Error) {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            return;
        }
        let is_first = {
            let mut state = self.state.lock();
            let is_first = state.write_error.is_none();
            state.write_error.get_or_insert_with(|| error.to_string());
            is_first
        };
        if is_first {
            // The reader finds the end now and says what it means: a goodbye may have been received before.
            let _ = self.stream.shutdown(Shutdown::Both);
            self.shared.reader.wake();
        }
    }

    /// Sends the outbox. Returns false if the socket takes no more.
    pub(super) fn send_queued(&self, guard: &WriteGuard<'_>) -> bool {
        loop {
            // Only the writer takes frames out, so the first stays the first.
            let Some(mut frame) = self.state.lock().outbox.pop() else {
                return true;
            };
            if frame.written < frame.bytes.len() {
                frame.written += self.write(guard, [&frame.bytes, &[], &[]], frame.written);
            }
            if frame.written < frame.bytes.len() || !self.flush(guard) {
                self.state.lock().outbox.push_rest(frame);
                return false;
            }
            if frame.is_goodbye {
                // The peer reads to this end, then ends the connection. Closing at once could destroy what is
                // still on its way.
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
    }

    /// Sends the outbox; a heartbeat if it is empty and nothing was written for `idle`.
    pub(super) fn beat(&self, idle: Option<Duration>) {
        {
            let mut state = self.state.lock();
            let is_due = idle.is_some_and(|idle| self.written.elapsed() >= idle);
            // A queued frame tells the peer as much as a heartbeat would.
            if is_due && state.outbox.is_empty() && matches!(state.phase, Phase::Open) {
                state.outbox.push(QueuedFrame::heartbeat());
            }
            if state.outbox.is_empty() {
                return;
            }
        }
        // If another thread writes, it sends the outbox or wakes this one for it.
        if let Some(guard) = self.try_write()
            && !self.send_queued(&guard)
        {
            drop(guard);
            self.shared.reader.wake();
        }
    }

    /// Queues the rest of a frame before everything else, and gives up the right to write.
    pub(super) fn queue_rest(&self, guard: WriteGuard<'_>, pieces: [&[u8]; 3], written: usize) {
        let mut rest = Vec::new();
        let mut skip = written;
        for piece in pieces {
            let start = skip.min(piece.len());
            skip -= start;
            rest.extend_from_slice(&piece[start..]);
        }
        self.state.lock().outbox.push_rest(QueuedFrame::new(rest));
        drop(guard);
        self.shared.heartbeat.wake();
    }

    /// Returns the cause of a broken connection: the error of a failed write, which tells more than the end of
    /// the stream, or else `detail`.
    pub(super) fn broken(&self, detail: &str) -> Cause {
        let write_error = self.state.lock().write_error.clone();
        Cause::Disconnected(write_error.as_deref().unwrap_or(detail).into())
    }
}
