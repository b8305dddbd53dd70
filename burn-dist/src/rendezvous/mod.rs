//! How the processes of a job find, name and authenticate one another.
//!
//! Callers: `launch` joins a job; `transport` authenticates its connections.
#![cfg_attr(
    not(test),
    expect(dead_code, reason = "wired by the launcher and the TCP transport")
)]

pub(crate) mod auth;
mod secret;
pub(crate) mod timed;

pub use secret::Secret;
