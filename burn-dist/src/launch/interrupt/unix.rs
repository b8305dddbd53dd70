//! Signals of Unix, on a thread of their own.

#[path = "ignored.rs"]
mod ignored;

use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use std::io;
use std::thread::Builder;

pub(super) use signal_hook::consts::SIGINT;

/// Calls `take` with each signal from now on.
pub(super) fn listen(take: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    let others = ignored::heeded([SIGHUP, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU]);
    let mut incoming = Signals::new(others.chain([SIGINT]))?;
    Builder::new()
        .name("burn-dist-signals".into())
        .spawn(move || incoming.forever().for_each(take))
        .map(drop)
}

/// Lets the signal do what it does without a handler.
pub(super) fn default_effect(signal: i32) {
    if let Err(error) = low_level::emulate_default_handler(signal) {
        tracing::warn!(signal, %error, "the signal has no effect");
    }
}

/// The signal's name, such as `SIGTERM`.
pub(super) fn name(signal: i32) -> &'static str {
    low_level::signal_name(signal).unwrap_or("a signal")
}
