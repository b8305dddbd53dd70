//! How long a rank's steps take, and how much of them is waiting for others: what tells a straggler from those
//! that wait for it.

use crate::ddp::{Ddp, SyncStats};
use crate::error::Result;
use crate::group::ProcessGroup;
use crate::observe::StepMonitor;
use std::time::{Duration, Instant};

pub(super) struct Pace {
    monitor: StepMonitor,
    /// Time this rank has waited for others outside of averages.
    waited: Duration,
    /// Samples since the last step.
    samples: usize,
    /// The passes of this run so far.
    passes: u64,
}

impl Pace {
    /// Every rank calls this.
    pub(super) fn new(
        group: &ProcessGroup,
        outputs: impl FnOnce(StepMonitor) -> StepMonitor,
    ) -> Result<Self> {
        Ok(Self {
            monitor: outputs(StepMonitor::new(group)?),
            waited: Duration::ZERO,
            samples: 0,
            passes: 0,
        })
    }

    /// Runs what ends when the other ranks have come as far.
    pub(super) fn meeting<R>(&mut self, meet: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let met = meet();
        self.waited += start.elapsed();
        met
    }

    /// Steps begin: what came before is in none of them.
    pub(super) fn begin(&mut self, ddp: &Ddp) {
        self.samples = 0;
        self.monitor.begin(self.stats(ddp));
    }

    /// A pass on so many samples is over, and with it a step of the optimizer, or not.
    pub(super) fn passed(&mut self, samples: usize, step: bool, ddp: &Ddp) -> Result<()> {
        self.samples += samples;
        self.passes += 1;
        if !step {
            return Ok(());
        }
        // As the metrics of the same passes are.
        self.monitor.number_next(self.passes - 1);
        let stats = self.stats(ddp);
        self.monitor.step(std::mem::take(&mut self.samples), stats)
    }

    /// An epoch's training is over.
    #[cfg(feature = "observe")]
    pub(super) fn end_epoch(&mut self, epoch: usize) {
        self.monitor.end_epoch(epoch, self.passes.saturating_sub(1));
    }

    /// Waits for the figures of all ranks that are still on their way.
    pub(super) fn finish(self) -> Result<()> {
        self.monitor.finish()
    }

    fn stats(&self, ddp: &Ddp) -> SyncStats {
        let mut stats = ddp.stats();
        stats.wait += self.waited;
        stats.averaging += self.waited;
        stats
    }
}
