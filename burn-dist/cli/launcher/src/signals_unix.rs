//! Signals that ask for the end, as events of the job instead of the launcher's end: Ctrl-C, termination, a
//! hang-up, and those with which batch systems say that the time is nearly over.
//!
//! A signal that was ignored when the launcher began stays ignored, as a hang-up under `nohup`; but for Ctrl-C, which
//! shells ignore for the background commands of scripts.
//!
//! Thread: one, started by [`Signals::new`] and joined by its drop.

use crate::error::Error;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::{Handle, Signals as Incoming};
use std::thread::{Builder, JoinHandle};

#[path = "../../../src/launch/interrupt/ignored.rs"]
mod ignored;

/// The signal of Ctrl-C.
pub(crate) const INTERRUPT: i32 = SIGINT;

/// Tells of signals until it is dropped.
#[derive(Debug)]
pub(crate) struct Signals {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Calls `tell` with the number of each signal from now on.
    ///
    /// # Errors
    ///
    /// When the system refuses a handler or a thread.
    pub(crate) fn new(tell: impl Fn(i32) + Send + 'static) -> Result<Self, Error> {
        let failed = || Error::system("wait for Ctrl-C");
        let signals = ignored::heeded([SIGHUP, SIGTERM, SIGUSR1, SIGUSR2]).chain([INTERRUPT]);
        let mut incoming = Incoming::new(signals).map_err(failed())?;
        let handle = incoming.handle();
        let thread = Builder::new()
            .name("launch-signals".into())
            .spawn(move || incoming.forever().for_each(tell))
            .map_err(failed())?;
        Ok(Self {
            handle,
            thread: Some(thread),
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It panics only if `tell` does, and that was reported there.
            let _ = thread.join();
        }
    }
}

/// The signal's name, such as `SIGTERM`.
pub(crate) fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("unnamed")
}
