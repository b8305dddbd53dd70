//! The processes of a job where there are no process groups: each is ended by the thread that waits for
//! it.
//!
//! What the processes start themselves is not ended, nor is anything when the launcher is killed; job
//! objects would do both, but only through `unsafe` calls.

use crate::error::Error;
use std::convert::Infallible;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Time between two looks of a waiting thread at its child and at the request to kill it.
const LOOK: Duration = Duration::from_millis(10);

/// The processes of one job; dropping it kills them.
#[derive(Debug)]
pub(crate) struct Group {
    killed: Arc<AtomicBool>,
}

impl Group {
    #[expect(clippy::unnecessary_wraps, reason = "a process group of Unix can fail")]
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self {
            killed: Arc::default(),
        })
    }

    #[expect(clippy::unused_self, reason = "a process group of Unix is needed")]
    pub(crate) fn enter(&self, _command: &mut Command) {}

    /// Returns the wait for a child's end, to be called on a thread of its own; it kills the child on request.
    pub(crate) fn waiter(
        &self,
        mut child: Child,
    ) -> impl FnOnce() -> io::Result<ExitStatus> + use<> {
        let killed = Arc::clone(&self.killed);
        move || loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if killed.load(Ordering::Relaxed) {
                // It fails when the child has just ended, which the next look shows.
                let _ = child.kill();
            }
            std::thread::sleep(LOOK);
        }
    }

    /// There is no way to ask: this ends them.
    pub(crate) fn terminate(&self) {
        self.kill();
    }

    /// The console has told the processes already.
    #[expect(clippy::unused_self, reason = "a process group of Unix is needed")]
    pub(crate) fn forward(&self, _signal: i32) {}

    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Only process groups have a guard.
pub fn guard() -> Result<Infallible, Error> {
    Err(Error::Guard)
}
