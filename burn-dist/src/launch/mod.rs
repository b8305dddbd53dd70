//! Starting replicas: which devices they run on, and one thread for each; and ending them when a signal asks.

mod devices;
mod ends;
mod failures;
mod interrupt;
mod run;
mod setup;
mod threads;

pub use crate::group::Traffic;
pub(crate) use devices::Kind;
pub use devices::{Backend, Devices};
pub use interrupt::{Interrupt, InterruptWatch, Interruption};
pub use threads::{Launcher, Worker, launch};

#[cfg(test)]
mod tests;
