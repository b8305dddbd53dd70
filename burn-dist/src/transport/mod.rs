//! How the ranks of a group reach one another.
//!
//! - `threads`: ranks of one process, in shared memory;
//! - `network`: what is asked of whatever carries bytes between processes;
//! - `tcp`: the network of a job;
//! - `memory`, `faults`: networks for tests, which break as a plan says;
//!
//! Callers: `collective` runs its algorithms on it, `group` opens and closes it.

#[cfg(test)]
pub(crate) mod faults;
mod locks;
#[cfg(test)]
pub(crate) mod memory;
#[cfg_attr(not(test), expect(dead_code, reason = "not wired to groups yet"))]
pub(crate) mod network;
#[cfg_attr(not(test), expect(dead_code, reason = "not wired to groups yet"))]
pub(crate) mod tcp;
pub(crate) mod threads;
mod watchers;
