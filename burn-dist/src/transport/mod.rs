//! How the ranks of a group reach one another.
//!
//! - `threads`: ranks of one process, in shared memory;
//! - `network`: what processes ask of whatever carries bytes between them.
//!
//! Callers: `collective` runs its algorithms on it, `group` opens and closes it.

#![expect(
    dead_code,
    reason = "the network between processes is not wired to groups yet"
)]

pub(crate) mod network;
pub(crate) mod threads;
