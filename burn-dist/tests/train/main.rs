//! burn-train on all ranks, against burn-train's own strategy on one device.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod ends;
mod equality;
mod loaders;
mod net;
mod norms;
mod processes;
mod recorder;
#[cfg(feature = "observe")]
#[path = "../support/scrape.rs"]
mod scrape;
#[cfg(feature = "observe")]
mod seeing;
mod tokens;
mod training;
