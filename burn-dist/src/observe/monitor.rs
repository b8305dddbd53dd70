//! What a training loop calls once a step.
//!
//! Threads: each rank's figures travel on the communication thread of a group of the monitor's own, while
//! the next step computes; a summary is there one step later or two. Only rank 0 has summaries.

use super::straggler::{self, Detector};
use super::summary::{FIELDS, RankFigures, StepSummary};
use crate::ddp::SyncStats;
use crate::error::Result;
use crate::functional;
use crate::group::{ProcessGroup, Work};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

#[cfg(feature = "observe")]
use super::outputs::{Outputs, Sinks};
#[cfg(feature = "observe")]
use super::tensorboard::Beginning;

/// Number of steps whose figures may be on their way before the oldest are waited for.
const UNDER_WAY: usize = 8;

/// Follows the steps of a training loop, over all ranks.
///
/// Every rank makes one and calls [`step`](Self::step) once a step. Rank 0 has the figures of all then:
/// writes them to its outputs, and names a straggler in a warning of the crate `tracing`: a rank that
/// was busy 1.5 times as long as the median rank for 20 steps in a row, and again when that is over.
///
/// In synchronous training all ranks' steps take equally long, because the fast ranks wait for the slow
/// one. So the times that are compared leave waiting for averages (and for the statistics of
/// [`SyncBatchNorm`](crate::norm::SyncBatchNorm)) out, and have in them all else that
/// a rank did between two calls: loading, forward, backward, the optimizer.
///
/// ```no_run
/// # use burn::{nn::Linear, optim::SgdConfig, tensor::Tensor};
/// # use burn_dist::{ddp::Ddp, ProcessGroup, Result};
/// use burn_dist::observe::{self, StepMonitor};
/// # fn example(group: &ProcessGroup, ddp: &Ddp, mut model: Linear, batches: Vec<Tensor<2>>) -> Result<()> {
/// # let mut optimizer = SgdConfig::new().init();
/// let mut monitor = StepMonitor::new(group)?;
/// for batch in batches {
///     let samples = batch.dims()[0];
///     let loss = observe::forward(|| model.forward(batch).mean());
///     let gradients = ddp.synchronize(observe::backward(|| loss.backward()), &model)?;
///     model = observe::optimizer(|| optimizer.step(0.01, model, gradients));
///     monitor.step(samples, ddp.stats())?;
/// }
/// monitor.finish()
/// # }
/// ```
#[derive(Debug)]
pub struct StepMonitor {
    group: ProcessGroup,
    since: Instant,
    stats: SyncStats,
    /// Time that passes have waited for other ranks until then.
    waited: Duration,
    /// The steps whose figures are on their way, the oldest first.
    under_way: VecDeque<(u64, Work<Option<Vec<f64>>>)>,
    /// The number of the first step.
    #[cfg(feature = "observe")]
    first: u64,
    /// The number of the next step.
    next: u64,
    detector: Detector,
    latest: Option<StepSummary>,
    #[cfg(feature = "observe")]
    sinks: Sinks,
}

impl StepMonitor {
    /// Begins to follow this rank's steps: the first begins now. Every rank of the group calls this.
    ///
    /// # Errors
    /// The group's own.
    pub fn new(group: &ProcessGroup) -> Result<Self> {
        // A group of its own, so that its operations never mix with the user's.
        let group = group.duplicate()?.within("StepMonitor::step");
        Ok(Self {
            since: Instant::now(),
            stats: SyncStats::default(),
            waited: functional::waited(),
            under_way: VecDeque::new(),
            #[cfg(feature = "observe")]
            first: 0,
            next: 0,
            detector: Detector::new(group.world_size()),
            latest: None,
            #[cfg(feature = "observe")]
            sinks: Sinks::default(),
            group,
        })
    }

    /// Writes what rank 0 learns to these outputs; the other ranks have nothing to write.
    #[cfg(feature = "observe")]
    #[must_use]
    pub fn with_outputs(mut self, outputs: &Outputs) -> Self {
        if self.group.rank() == 0 {
            self.sinks = outputs.take();
        }
        self
    }

    /// Begins the next step now: what came since the last one, such as a validation, is in no step.
    pub fn begin(&mut self, stats: SyncStats) {
        (self.since, self.stats, self.waited) = (Instant::now(), stats, functional::waited());
    }

    /// Numbers the steps from this one on, as a run that goes on from a checkpoint does. TensorBoard forgets what an
    /// earlier run wrote to the same folder of this step and later ones.
    #[must_use]
    pub fn with_first_step(mut self, number: u64) -> Self {
        self.next = number;
        #[cfg(feature = "observe")]
        {
            self.first = number;
        }
        self
    }

    /// Writes to the outputs now that the run begins, of which the epochs up to `passed` were in an earlier one.
    /// TensorBoard's steps go on after those; here they are counted from 0.
    #[cfg(all(feature = "observe", feature = "train"))]
    pub(crate) fn after_epochs(mut self, passed: usize) -> Self {
        self.sinks.begin(match passed {
            0 => Beginning::At(0),
            passed => Beginning::AfterEpoch(passed as u64),
        });
        self
    }

    /// Gives the next step this number.
    #[cfg(feature = "train")]
    pub(crate) fn number_next(&mut self, number: u64) {
        self.next = number;
    }

    /// Writes to the outputs that an epoch ended with this step.
    #[cfg(all(feature = "observe", feature = "train"))]
    pub(crate) fn end_epoch(&mut self, epoch: usize, step: u64) {
        self.sinks.end_epoch(epoch, step);
    }

    /// Ends a step on this rank, on so many samples; `stats` are those of
    /// [`Ddp::stats`](crate::ddp::Ddp::stats).
    ///
    /// # Errors
    /// The group's own, of this step or an earlier one.
    pub fn step(&mut self, samples: usize, stats: SyncStats) -> Result<()> {
        let (now, waited) = (Instant::now(), functional::waited());
        let step = (now - self.since).as_secs_f64();
        let averaging = stats.averaging.saturating_sub(self.stats.averaging);
        let others = averaging + waited.saturating_sub(self.waited);
        let figures = RankFigures {
            step,
            busy: (step - others.as_secs_f64()).max(0.0),
            wait: stats.wait.saturating_sub(self.stats.wait).as_secs_f64(),
            samples: samples as f64,
            bytes: stats.bytes.saturating_sub(self.stats.bytes) as f64,
            process: self.group.process(),
            sent: self.group.sent() as f64,
        };
        (self.since, self.stats, self.waited) = (now, stats, waited);
        let numbers = figures.encode().to_vec();
        let work = self.group.start().gather(numbers, 0);
        self.under_way.push_back((self.next, work));
        self.next += 1;
        self.collect(UNDER_WAY)
    }

    /// The last step that all ranks' figures have come of; on rank 0 alone.
    pub fn latest(&self) -> Option<&StepSummary> {
        self.latest.as_ref()
    }

    /// Writes a value of the training loop's own, such as its loss, to TensorBoard's event file, for the
    /// last step; on rank 0 alone.
    #[cfg(feature = "observe")]
    pub fn scalar(&mut self, name: &str, value: f64) {
        self.sinks.begin(Beginning::At(self.first));
        self.sinks.scalar(name, value, self.next.saturating_sub(1));
    }

    /// Writes values as [`scalar`](Self::scalar), under `prefix/NAME`.
    #[cfg(feature = "observe")]
    pub fn scalars(&mut self, prefix: &str, values: &[(String, f64)]) {
        for (name, value) in values {
            self.scalar(&format!("{prefix}/{name}"), *value);
        }
    }

    /// Waits for the figures that are still on their way, and writes them.
    ///
    /// # Errors
    /// The group's own.
    pub fn finish(mut self) -> Result<()> {
        self.collect(0)?;
        #[cfg(feature = "observe")]
        self.sinks.flush();
        Ok(())
    }

    /// Takes in what has arrived, and waits until no more than so many steps are on their way.
    fn collect(&mut self, under_way: usize) -> Result<()> {
        while let Some((number, next)) = self
            .under_way
            .pop_front_if(|(_, next)| next.is_done())
            .or_else(|| (self.under_way.len() > under_way).then(|| self.under_way.pop_front())?)
        {
            let numbers = next.wait()?;
            // Only the root of the gathering has something.
            if let Some(numbers) = numbers {
                let (ranks, _) = numbers.as_chunks::<FIELDS>();
                let ranks = ranks.iter().map(RankFigures::decode).collect();
                self.take(StepSummary { number, ranks });
            }
        }
        Ok(())
    }

    fn take(&mut self, summary: StepSummary) {
        let busy: Vec<f64> = summary.ranks.iter().map(|rank| rank.busy).collect();
        for verdict in self.detector.step(&busy) {
            let rank = self.group.ranks()[verdict.rank];
            let (seconds, median) = (verdict.seconds, verdict.median);
            let (factor, steps) = (straggler::FACTOR, straggler::STEPS);
            if verdict.straggler {
                tracing::warn!(
                    straggler = rank,
                    step = summary.number,
                    "rank {rank} is a straggler: for {steps} steps it was busy at least {factor} times as \
                     long as the median rank (at last {seconds:.4} s, median {median:.4} s)"
                );
            } else {
                tracing::warn!(
                    recovered = rank,
                    step = summary.number,
                    "rank {rank} is no straggler any more (at last it was busy for {seconds:.4} s, median \
                     {median:.4} s)"
                );
            }
        }
        #[cfg(feature = "observe")]
        {
            self.sinks.begin(Beginning::At(self.first));
            self.sinks.step(&summary, self.detector.stragglers());
        }
        self.latest = Some(summary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::fmt::Debug;
    use std::sync::Arc;
    use tracing::field::{Field, Visit};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Log {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            struct Message<'l>(&'l Log);
            impl Visit for Message<'_> {
                fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                    if field.name() == "message" {
                        self.0.0.lock().push(format!("{value:?}"));
                    }
                }
            }
            event.record(&mut Message(self));
        }
    }

    /// The first of two ranks' monitors.
    fn of_two_ranks() -> StepMonitor {
        let groups = ProcessGroup::threads(2).unwrap();
        let monitors: Vec<_> = std::thread::scope(|scope| {
            let start = |group| scope.spawn(move || StepMonitor::new(&group).unwrap());
            let threads: Vec<_> = groups.into_iter().map(start).collect();
            let ended = threads.into_iter().map(|thread| thread.join().unwrap());
            ended.collect()
        });
        monitors.into_iter().next().unwrap()
    }

    fn summary(number: u64, busy: [f64; 2]) -> StepSummary {
        let figures = |busy| RankFigures {
            step: 3.0,
            busy,
            wait: 0.0,
            samples: 1.0,
            bytes: 0.0,
            process: 0,
            sent: 0.0,
        };
        let ranks = busy.map(figures).to_vec();
        StepSummary { number, ranks }
    }

    #[test]
    fn a_straggler_is_named_once_and_again_when_it_recovers() {
        let mut monitor = of_two_ranks();
        let log = Log::default();
        let lines = || log.0.lock().clone();
        let logged = tracing_subscriber::registry().with(log.clone());
        tracing::subscriber::with_default(logged, || {
            for number in 0..19 {
                monitor.take(summary(number, [1.0, 3.0]));
            }
            assert!(lines().is_empty());
            for number in 19..60 {
                monitor.take(summary(number, [1.0, 3.0]));
            }
            let [line] = &lines()[..] else {
                panic!("{:?}", lines())
            };
            assert!(
                line.starts_with("rank 1 is a straggler: for 20 steps"),
                "{line}"
            );
            for number in 60..100 {
                monitor.take(summary(number, [1.0, 1.1]));
            }
            let [_, line] = &lines()[..] else {
                panic!("{:?}", lines())
            };
            assert!(
                line.starts_with("rank 1 is no straggler any more"),
                "{line}"
            );
        });
        assert_eq!(monitor.latest().unwrap().number, 99);
    }

    #[test]
    fn waiting_for_averages_is_not_being_busy() {
        let groups = ProcessGroup::threads(1).unwrap();
        let mut monitor = StepMonitor::new(&groups[0]).unwrap();
        let hours = |hours| std::time::Duration::from_hours(hours);
        // More than the step took: all of it was waiting.
        let stats = SyncStats {
            steps: 1,
            wait: hours(2),
            averaging: hours(1),
            bytes: 10,
            ..SyncStats::default()
        };
        monitor.step(4, stats).unwrap();
        monitor.collect(0).unwrap();
        let rank = monitor.latest().unwrap().ranks[0];
        assert_eq!((rank.busy, rank.wait), (0.0, 7200.0));
        assert_eq!((rank.samples, rank.bytes), (4.0, 10.0));
        assert!(rank.step > 0.0);
        // Only what has come since.
        monitor.step(4, stats).unwrap();
        monitor.collect(0).unwrap();
        let rank = monitor.latest().unwrap().ranks[0];
        assert_eq!((rank.wait, rank.bytes), (0.0, 0.0));
        let (busy, step) = (rank.busy.to_bits(), rank.step.to_bits());
        assert_eq!(busy, step, "it waited for nothing");
    }
}
