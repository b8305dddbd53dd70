//! The ends of the ranks of a run, and the wait for them.
//!
//! While all goes well, nothing limits how long ranks run. Once the run has failed, they should end soon; one
//! that doesn't is stuck in code that no call of this crate ends.

use parking_lot::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Ranks};

/// Interval at which the wait checks for a failure of the run.
const LOOK: Duration = Duration::from_millis(100);

/// Time that ranks may take to end after a failure before the log says that the run waits for them.
const QUIET: Duration = Duration::from_secs(1);

/// The ranks that still run.
pub(super) struct Ends {
    running: Mutex<Vec<usize>>,
    changed: Condvar,
}

/// Ranks that run on although the run has failed.
pub(super) struct Stuck {
    pub(super) ranks: Vec<usize>,
    pub(super) error: Error,
}

/// Notes the end of a rank when dropped, however it ends.
pub(super) struct Ending<'e> {
    ends: &'e Ends,
    rank: usize,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.ends.running.lock().retain(|rank| *rank != self.rank);
        self.ends.changed.notify_all();
    }
}

impl Ends {
    pub(super) fn new(ranks: Vec<usize>) -> Self {
        Self {
            running: Mutex::new(ranks),
            changed: Condvar::new(),
        }
    }

    pub(super) fn at_end_of(&self, rank: usize) -> Ending<'_> {
        Ending { ends: self, rank }
    }

    /// Waits until all ranks have ended; gives those that still run `grace` after the run has failed.
    pub(super) fn wait(
        &self,
        failure: impl Fn() -> Option<Error>,
        grace: Duration,
    ) -> Option<Stuck> {
        let mut failed: Option<(Instant, Error)> = None;
        let mut told = false;
        loop {
            if failed.is_none() {
                failed = failure().map(|error| (Instant::now(), error));
            }
            let mut running = self.running.lock();
            if running.is_empty() {
                return None;
            }
            if let Some((since, error)) = &failed {
                let passed = since.elapsed();
                if passed >= grace {
                    return Some(Stuck {
                        ranks: running.clone(),
                        error: error.clone(),
                    });
                }
                if passed >= QUIET && !told {
                    told = true;
                    tracing::error!(
                        "the run has failed, and waits for {}: {error}",
                        Ranks(&running)
                    );
                }
            }
            self.changed.wait_for(&mut running, LOOK);
        }
    }
}
