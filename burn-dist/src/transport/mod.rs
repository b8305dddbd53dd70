//! How the ranks of a group reach one another.
//!
//! - `threads`: ranks of one process, in shared memory;
//! - `network`: what is asked of whatever carries bytes between processes;
//! - `tcp`: the network of a job;
//!
//! Callers: `collective` runs its algorithms on it, `group` opens and closes it.

#![expect(
    dead_code,
    reason = "the network between processes is not wired to groups yet"
)]

mod locks;
pub(crate) mod network;
pub(crate) mod tcp;
pub(crate) mod threads;
mod watchers;
