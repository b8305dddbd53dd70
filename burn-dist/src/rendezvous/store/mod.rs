//! The key-value store by which the processes of a job find one another. Process 0 serves it over TCP;
//! every process, process 0 too, is a client.
//!
//! | file | content |
//! |---|---|
//! | `client` | the operations, one after the other, on one connection |
//! | `server` | the port, and a thread for each connection |
//! | `table` | the values, and the requests that wait for one |
//! | `wire` | requests and replies as bytes |
//!
//! Invariants: nothing beyond the handshake is read of a connection that has not proved the secret; connections,
//! keys, values and messages are bounded; no lock is held during I/O.

mod client;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod server;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

pub(crate) use client::{StoreClient, StoreError, Swap};
pub(crate) use server::StoreServer;

use crate::net::handshake_error::HandshakeError;

/// Checks that the name that the peer sent within its proof is that of this process's job.
fn check_job(ours: &str, theirs: &[u8]) -> Result<(), HandshakeError> {
    if ours.as_bytes() == theirs {
        return Ok(());
    }
    Err(HandshakeError::OtherJob {
        ours: ours.to_owned(),
        theirs: String::from_utf8_lossy(theirs).into_owned(),
    })
}

/// Purpose of a connection to the store, which both sides prove.
const PURPOSE: &[u8] = b"store";

/// Key with the number of the first process that ended without having left.
const GONE: &str = "gone";
/// Most bytes of a key.
const MAX_KEY: usize = 256;
/// Most bytes of a value.
const MAX_VALUE: usize = 64 << 10;

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections that have proved the secret.
    pub(crate) connections: usize,
    /// Connections that have not yet. One more costs the oldest of them its place.
    pub(crate) pending: usize,
    /// Time to prove it.
    pub(crate) proof: Duration,
    /// Time for the rest of a request whose first byte was received, and for taking a reply.
    pub(crate) request: Duration,
    /// Keys.
    pub(crate) keys: usize,
    /// Bytes of all keys and values together.
    pub(crate) bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            pending: 64,
            proof: Duration::from_secs(5),
            request: Duration::from_secs(10),
            keys: 65_536,
            bytes: 64 << 20,
        }
    }
}
