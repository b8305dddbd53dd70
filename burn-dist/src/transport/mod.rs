//! How the processes of a job reach one another.
//!
//! - `processes`: which process hosts which rank, and what processes tell one another of failures;
//! - `network`: what is asked of whatever carries bytes between processes;
//! - `tcp`: the network of a job;
//! - `memory`, `faults`: networks for tests, which break as a plan says;
//! - `gone`: the groups that are gone, for which nothing is kept;
//! - `thread`: threads that can be left behind when they are stuck;

#[cfg(test)]
pub(crate) mod faults;
pub(crate) mod gone;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod processes;
pub(crate) mod tcp;
pub(crate) mod thread;
mod watchers;
