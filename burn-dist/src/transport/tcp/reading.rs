//! The receiving direction of a connection: its reader's thread.
//!
//! The reader puts every message into its box and waits for nobody. It alone tells the watchers.
//!
//! Callers: the network starts one thread for each connection.

use std::io::{self, BufReader, Read};

use super::connection::{Connection, Message, Phase};
use super::frame::{self, Frame, Unreadable};
use crate::transport::locks::lock;
use crate::transport::network::{Cause, Tag};
use crate::transport::watchers::Watchers;

/// How much is read at once where frames are small. Larger bodies are read into their own memory.
const BUFFER: usize = 64 << 10;

impl Connection {
    /// Reads until the connection ends, then tells the watchers if that is a failure.
    pub(super) fn run_reader(&self, watchers: &Watchers) {
        let cause = self.read_to_end(watchers);
        self.end(cause);
        let ended = match &lock(&self.state).phase {
            Phase::Ended(cause) => cause.clone(),
            Phase::Open | Phase::Closing => return,
        };
        if !matches!(ended, Cause::Left | Cause::Stopped) {
            let lost = self.lost(ended);
            tracing::warn!("{lost}");
            watchers.lost(lost);
        }
    }

    /// Reads frames until there are no more; gives the reason.
    fn read_to_end(&self, watchers: &Watchers) -> Cause {
        let mut stream = BufReader::with_capacity(BUFFER, Heard(self));
        let mut first = true;
        loop {
            let frame = frame::read(&mut stream);
            if std::mem::take(&mut first) && frame.is_ok() {
                self.greet();
            }
            match frame {
                Ok(Frame::Heartbeat) => {}
                Ok(Frame::Goodbye) => return Cause::Left,
                Ok(Frame::Message { tag, head, body }) => self.deliver(tag, Message { head, body }),
                Ok(Frame::Notice(notice)) => {
                    if !watchers.notice(self.peer(), notice) {
                        let detail = "more notices than anybody has heard";
                        return Cause::Malformed(detail.into());
                    }
                }
                Err(Unreadable::Malformed(error)) => return Cause::Malformed(error.into()),
                Err(Unreadable::Broken(error)) => return self.broken(&error.to_string()),
                Err(Unreadable::End) => return self.broken("closed without a goodbye"),
                Err(Unreadable::Truncated) => {
                    return self.broken("closed in the middle of a frame");
                }
            }
        }
    }

    fn deliver(&self, tag: Tag, message: Message) {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Open) {
            state.put(tag, message);
            drop(state);
            self.arrived.notify_all();
        }
    }

    /// The connection broke; what a failed write said tells more than the end of the stream.
    fn broken(&self, detail: &str) -> Cause {
        let write_error = lock(&self.state).write_error.clone();
        Cause::Disconnected(write_error.as_deref().unwrap_or(detail).into())
    }
}

/// Reads from a connection and notes when something came.
struct Heard<'c>(&'c Connection);

impl Read for Heard<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = (&self.0.stream).read(into)?;
        self.0.heard.set();
        Ok(read)
    }
}
