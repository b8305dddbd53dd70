//! One function for each decoder of bytes from outside: it checks the decoder's properties for any bytes, and
//! panics where one does not hold.
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

use crate::net::timed::Stream;
use crate::{codec, ddp, error, net, rendezvous, transport};

/// Bytes of a connection between processes. The first byte selects the pieces in which the others arrive.
///
/// # Panics
/// If something does not hold, as all functions here.
pub fn frame(bytes: &[u8]) {
    transport::tcp::check_frames(bytes);
}

/// Bytes of the other side of a handshake. The first byte selects the side that connected.
///
/// # Panics
/// See [`frame`].
pub fn handshake(bytes: &[u8]) {
    net::auth::check(bytes);
}

/// Bytes of a member to the store, and of the store back.
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

/// A control message. The first byte selects its type.
///
/// # Panics
/// See [`frame`].
pub fn control(bytes: &[u8]) {
    let Some((&kind, message)) = bytes.split_first() else {
        return;
    };
    match kind % 7 {
        0 => check_message::<error::Call>(message),
        1 => transport::processes::check_notice(message),
        2 => transport::tcp::check_hello(message),
        3 => rendezvous::check_records(message),
        4 => ddp::check_parameters(message),
        5 => transport::tcp::check_loss(message),
        _ => check_message::<Vec<usize>>(message),
    }
}

/// Checks that accepted bytes mean the same after they are encoded again.
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

    /// Returns the bytes that were read.
    pub(crate) fn read(&self) -> &'b [u8] {
        &self.bytes[..self.position.get()]
    }

    /// Returns the bytes that were written to it.
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
