//! Starting replicas: which devices they run on, and one thread for each.
//!
//! Callers: training programs.

mod devices;
mod ends;
mod failures;
mod run;
mod setup;
mod threads;

pub(crate) use devices::Kind;
pub use devices::{Backend, Devices};
pub use threads::{Launcher, Worker, launch};

#[cfg(test)]
mod tests;
