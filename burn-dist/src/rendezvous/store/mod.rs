//! The key-value store by which the processes of a job find one another. Process 0 serves it over TCP;
//! every process, process 0 too, is a client.
//!
//! | file | idea |
//! |---|---|
//! | `client` | the operations, one after the other, on one connection |
//! | `server` | threads: one that accepts, one for each connection |
//! | `connections` | who is connected, and how many may be |
//! | `table` | the values, and who waits for one |
//! | `wire` | requests and replies as bytes |
//!
//! Invariants: nobody who hasn't proved the secret is read beyond the handshake; connections, keys,
//! values and messages are bounded; no lock is held during I/O.
//!
//! Callers: `join`.

mod client;
mod connections;
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

use super::rejected::Rejected;

/// Checks that the other side of a connection belongs to the job of this name; both sides have said theirs
/// within the proof.
fn same_job(ours: &str, theirs: &[u8]) -> Result<(), Rejected> {
    if ours.as_bytes() == theirs {
        return Ok(());
    }
    Err(Rejected::OtherJob {
        ours: ours.to_owned(),
        theirs: String::from_utf8_lossy(theirs).into_owned(),
    })
}

/// What connections to the store are for, as [`auth`](super::auth) proves it.
const PURPOSE: &[u8] = b"store";

/// The key with the number of the first process that ended without having left.
const GONE: &str = "gone";
/// The most bytes of a key.
const KEY: usize = 256;
/// The most bytes of a value.
const VALUE: usize = 64 << 10;

/// How much of everything a server allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections that have proved the secret.
    pub(crate) connections: usize,
    /// Connections that have not yet; one more costs the oldest of them its place.
    pub(crate) pending: usize,
    /// The time to prove it.
    pub(crate) proof: Duration,
    /// The time for the rest of a request whose first byte came, and for taking a reply.
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
