//! The processes of a job where there are no process groups: each is ended by the thread that waits for
//! it.
//!
//! What the processes start themselves is not ended, nor is anything when the launcher is killed; job
//! objects would do both, but only through `unsafe` calls.
//!
//! Callers: `job`; `main` for [`guard`].

use crate::error::Error;
use std::convert::Infallible;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a waiting thread looks at its child, and whether it is to be killed.
const LOOK: Duration = Duration::from_millis(10);

/// The processes of one job; dropping it kills them.
#[derive(Debug)]
pub(super) struct Group {
    killed: Arc<AtomicBool>,
}

impl Group {
    #[expect(clippy::unnecessary_wraps, reason = "a process group of Unix can fail")]
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self {
            killed: Arc::default(),
        })
    }

    #[expect(clippy::unused_self, reason = "a process group of Unix is needed")]
    pub(super) fn enter(&self, _command: &mut Command) {}

    /// What waits for a child's end, on a thread of its own, and kills it when that is asked for.
    pub(super) fn waiter(
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
    pub(super) fn terminate(&self) {
        self.kill();
    }

    /// The console has told the processes already.
    #[expect(clippy::unused_self, reason = "a process group of Unix is needed")]
    pub(super) fn forward(&self, _signal: i32) {}

    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Only process groups have a guard.
pub(crate) fn guard() -> Result<Infallible, Error> {
    Err(Error::Guard)
}
