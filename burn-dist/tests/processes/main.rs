//! Jobs of real processes: what ranks see when their peers are behind sockets, and what they see of
//! processes that die, stand still, fail or never come.
//!
//! Each process of a job is this test program again, run with nothing but the "test"
//! `worker::worker_process` and told its place by a variable. It joins through the public interface and
//! tells what it finds in lines on its standard output.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod collectives;
mod faults;
mod job;
#[cfg(target_os = "linux")]
#[path = "../support/machines.rs"]
mod machines;
#[cfg(target_os = "linux")]
mod many;
mod mismatches;
#[cfg(target_os = "linux")]
mod namespaces;
mod records;
mod restarts;
#[cfg(target_os = "linux")]
mod strangers;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "tls")]
mod tls;
mod worker;
