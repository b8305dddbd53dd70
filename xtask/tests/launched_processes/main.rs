//! What `cargo xtask launch` makes of the processes it starts: their output, their failures, their end.
//!
//! Shell scripts stand for programs. A script tells its pid in a file, so that a test can see whether it
//! is still there.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests")]

mod ends;
mod launcher;
mod place_and_output;
