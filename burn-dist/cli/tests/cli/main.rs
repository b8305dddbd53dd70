//! The program `burn-dist` as a user runs it.
#![expect(clippy::unwrap_used, reason = "the helpers of tests")]

#[cfg(unix)]
mod bench;
#[cfg(unix)]
mod doctor;
#[cfg(unix)]
mod ends;
#[cfg(unix)]
mod launcher;
#[cfg(unix)]
mod nodes;
#[cfg(unix)]
mod place_and_output;
