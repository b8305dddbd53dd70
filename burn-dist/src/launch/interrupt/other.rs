//! Ctrl-C where there are no signals of Unix.

use std::io;

pub(super) const SIGINT: i32 = 2;

/// Calls `take` with each Ctrl-C from now on.
pub(super) fn listen(take: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(move || take(SIGINT)).map_err(io::Error::other)
}

/// Ends the process, as Ctrl-C does without a handler.
pub(super) fn default_effect(signal: i32) {
    std::process::exit(128 + signal);
}

/// The name of Ctrl-C, or of a signal that a process on another system got.
pub(super) fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "SIGINT",
        15 => "SIGTERM",
        _ => "a signal",
    }
}
