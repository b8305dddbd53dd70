//! The calls of a group on ranks that are threads.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::float_cmp, reason = "results are exact")]

mod collectives;
mod failures;
mod messages;
mod split;
mod stress;
#[path = "../support/mod.rs"]
mod support;
mod tensors;
