//! The rights to write and to read a connection, each of which one thread has at a time.

use std::time::Instant;

use super::connection::{Connection, Phase};
use super::decoder::Decoder;

/// The right to write on a connection, until it is dropped.
pub(super) struct WriteGuard<'c>(&'c Connection);

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        let is_owed = {
            let mut state = self.0.state.lock();
            state.is_writing = false;
            !state.outbox.is_empty() && !state.outbox.is_blocked()
        };
        if is_owed {
            // Queued meanwhile, by a thread that could not write.
            self.0.shared.heartbeat.wake();
        }
        self.0.changed.notify_all();
    }
}

/// The right to read on a connection, until it is dropped.
pub(super) struct ReadGuard<'c> {
    connection: &'c Connection,
    /// None only after the drop.
    pub(super) decoder: Option<Box<Decoder>>,
    is_reader: bool,
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.connection.state.lock();
        state.decoder = self.decoder.take();
        if !self.is_reader {
            state.exchange_read = Some(Instant::now());
            state.is_drained = false;
        }
        drop(state);
        self.connection.changed.notify_all();
    }
}

impl Connection {
    /// Returns the right to write; none if another thread has it or the connection has ended.
    pub(super) fn try_write(&self) -> Option<WriteGuard<'_>> {
        let mut state = self.state.lock();
        if state.is_writing || matches!(state.phase, Phase::Ended(_)) {
            return None;
        }
        state.is_writing = true;
        Some(WriteGuard(self))
    }

    /// Returns the right to read, for the network's reader or for an exchange; none if another thread has it.
    pub(super) fn try_read(&self, is_reader: bool) -> Option<ReadGuard<'_>> {
        let decoder = self.state.lock().decoder.take()?;
        Some(ReadGuard {
            connection: self,
            decoder: Some(decoder),
            is_reader,
        })
    }
}
