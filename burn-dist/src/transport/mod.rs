//! How the ranks of a group reach one another.
//!
//! - `threads`: ranks of one process, in shared memory, and their meeting with those elsewhere;
//! - `processes`: which process hosts which rank, and what processes tell one another of failures;
//! - `network`: what is asked of whatever carries bytes between processes;
//! - `tcp`: the network of a job;
//! - `memory`, `faults`: networks for tests, which break as a plan says;
//! - `gone`: the groups that are gone, for which nothing is kept;
//! - `thread`: threads that can be left behind when they are stuck;
//!
//! Callers: `collective` runs its algorithms on it, `group` opens and closes it.

#[cfg(test)]
pub(crate) mod faults;
pub(crate) mod gone;
mod locks;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod processes;
pub(crate) mod tcp;
pub(crate) mod thread;
pub(crate) mod threads;
mod watchers;
