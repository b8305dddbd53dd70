//! One function for each decoder of what comes from outside: given any bytes, it checks what must hold
//! of them, and panics where that does not.
//!
//! The fuzz targets in `fuzz/` call these; so do the ordinary tests, on the corpus that lies there and on
//! thousands of mutations of it. Nothing here is part of the library: it is compiled for tests and with
//! `--cfg fuzzing` only.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::rendezvous::timed::Stream;
use crate::{codec, ddp, error, rendezvous, transport};

/// The bytes of a connection between processes; the first byte says in which pieces the others come.
///
/// # Panics
/// If something does not hold, as all functions here.
pub fn frame(bytes: &[u8]) {
    transport::tcp::check_frames(bytes);
}

/// What the other side of a handshake sends; the first byte says who connected.
///
/// # Panics
/// See [`frame`].
pub fn handshake(bytes: &[u8]) {
    rendezvous::auth::check(bytes);
}

/// What a member sends to the store, and what the store sends back.
///
/// # Panics
/// See [`frame`].
pub fn store(bytes: &[u8]) {
    rendezvous::check_store(bytes);
}

/// A list of nodes, as Slurm writes it.
///
/// # Panics
/// See [`frame`].
pub fn nodes(bytes: &[u8]) {
    rendezvous::check_nodes(bytes);
}

/// An environment, as lines of `NAME=value`.
///
/// # Panics
/// See [`frame`].
pub fn variables(bytes: &[u8]) {
    rendezvous::check_variables(bytes);
}

/// A control message; the first byte says of which type.
///
/// # Panics
/// See [`frame`].
pub fn control(bytes: &[u8]) {
    let Some((&kind, message)) = bytes.split_first() else {
        return;
    };
    match kind % 6 {
        0 => check_message::<error::Call>(message),
        1 => transport::processes::check_notice(message),
        2 => transport::tcp::check_hello(message),
        3 => rendezvous::check_records(message),
        4 => ddp::check_parameters(message),
        _ => check_message::<Vec<usize>>(message),
    }
}

/// What is accepted as a message means the same when it is sent on.
pub(crate) fn check_message<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = codec::decode::<T>(bytes) else {
        return;
    };
    let again = codec::encode(&message);
    let again =
        again.unwrap_or_else(|error| unreachable!("what was read can't be written: {error}"));
    // Numbers have longer forms, too, which are read but never written: so not the bytes are compared.
    let back = codec::decode::<T>(&again).and_then(|back| codec::encode(&back));
    assert_eq!(back, Ok(again));
}

/// A peer that sends what it was given, listens to everything, and never makes anyone wait.
pub(crate) struct Script<'b> {
    bytes: &'b [u8],
    position: Cell<usize>,
    sent: RefCell<Vec<u8>>,
}

impl<'b> Script<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self {
            bytes,
            position: Cell::default(),
            sent: RefCell::default(),
        }
    }

    /// What was read of its bytes.
    pub(crate) fn read(&self) -> &'b [u8] {
        &self.bytes[..self.position.get()]
    }

    /// What was written to it.
    pub(crate) fn sent(&self) -> Vec<u8> {
        self.sent.borrow().clone()
    }
}

impl Stream for Script<'_> {
    fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn read_some(&self, into: &mut [u8]) -> io::Result<usize> {
        let read = (&self.bytes[self.position.get()..]).read(into)?;
        self.position.set(self.position.get() + read);
        Ok(read)
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn binding(&self) -> &[u8] {
        &[]
    }
}
