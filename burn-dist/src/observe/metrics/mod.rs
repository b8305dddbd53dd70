//! The figures as Prometheus reads them: counters and gauges of the whole job, served over HTTP by the
//! process that hosts rank 0.
//!
//! - `server`: a thread that answers `GET /metrics`.
//!
//! Callers: `outputs`.

mod server;

use super::summary::StepSummary;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

pub(super) use server::Endpoint;

type Float = Gauge<f64, AtomicU64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rank {
    rank: u64,
}

/// All series.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    steps: Counter,
    samples: Counter,
    step_time: Histogram,
    last_step: Float,
    speed: Float,
    wait: Float,
    gradients: Counter,
    sent: Counter,
    slowest: Gauge,
    rank_busy: Family<Rank, Float>,
    rank_wait: Family<Rank, Float>,
    straggler: Family<Rank, Gauge>,
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("burn_dist"),
            steps: Counter::default(),
            samples: Counter::default(),
            // From a millisecond to two minutes and more.
            step_time: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            last_step: Float::default(),
            speed: Float::default(),
            wait: Float::default(),
            gradients: Counter::default(),
            sent: Counter::default(),
            slowest: Gauge::default(),
            rank_busy: Family::default(),
            rank_wait: Family::default(),
            straggler: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("steps", "Steps of the optimizer", self.steps.clone());
        let help = "Samples trained on, over all ranks";
        registry.register("samples", help, self.samples.clone());
        let help = "How long steps took, on the rank that took longest";
        let unit = Unit::Seconds;
        registry.register_with_unit("step_time", help, unit, self.step_time.clone());
        let help = "How long the last step took";
        let unit = Unit::Seconds;
        registry.register_with_unit("last_step", help, unit, self.last_step.clone());
        let help = "Samples a second over all ranks, in the last step";
        registry.register("samples_per_second", help, self.speed.clone());
        let help = "How long ranks waited for averages in the last step, on the average";
        registry.register_with_unit("wait", help, Unit::Seconds, self.wait.clone());
        let help = "Gradients given to be averaged, over all ranks";
        let unit = Unit::Bytes;
        registry.register_with_unit("gradients", help, unit, self.gradients.clone());
        let help = "What the processes of the job sent to one another";
        registry.register_with_unit("sent", help, Unit::Bytes, self.sent.clone());
        let help = "The rank that was busy longest in the last step";
        registry.register("slowest_rank", help, self.slowest.clone());
        let help = "How long a rank was busy in the last step, waiting for averages left out";
        let unit = Unit::Seconds;
        registry.register_with_unit("rank_busy", help, unit, self.rank_busy.clone());
        let help = "How long a rank waited for averages in the last step";
        let unit = Unit::Seconds;
        registry.register_with_unit("rank_wait", help, unit, self.rank_wait.clone());
        let help = "1 for a rank that has held the others up for many steps";
        registry.register("straggler", help, self.straggler.clone());
    }

    /// Takes in one step.
    pub(super) fn step(&self, summary: &StepSummary, stragglers: impl Iterator<Item = bool>) {
        let seconds = summary.seconds();
        self.steps.inc();
        self.samples.inc_by(summary.samples() as u64);
        self.step_time.observe(seconds);
        self.last_step.set(seconds);
        self.speed.set(summary.samples_per_second());
        self.wait.set(summary.wait());
        self.gradients.inc_by(summary.bytes() as u64);
        // Only this method counts, for one monitor at a time.
        let more = (summary.sent() as u64).saturating_sub(self.sent.get());
        self.sent.inc_by(more);
        self.slowest.set(summary.slowest_rank() as i64);
        for ((rank, figures), straggler) in summary.ranks.iter().enumerate().zip(stragglers) {
            let label = Rank { rank: rank as u64 };
            self.rank_busy.get_or_create(&label).set(figures.busy);
            self.rank_wait.get_or_create(&label).set(figures.wait);
            self.straggler.get_or_create(&label).set(straggler.into());
        }
    }

    /// All series in OpenMetrics' text format.
    fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::RankFigures;

    #[test]
    fn a_step_is_counted_and_shown() {
        let figures = |busy| RankFigures {
            step: 0.5,
            busy,
            wait: 0.25,
            samples: 32.0,
            bytes: 1000.0,
            process: 0,
            sent: 7.0,
        };
        let metrics = Metrics::new();
        for number in 0..3 {
            let ranks = vec![figures(0.125), figures(0.375)];
            let summary = StepSummary { number, ranks };
            metrics.step(&summary, [false, true].into_iter());
        }
        let text = metrics.text();
        for line in [
            "burn_dist_steps_total 3",
            "burn_dist_samples_total 192",
            "burn_dist_step_time_seconds_count 3",
            "burn_dist_last_step_seconds 0.5",
            "burn_dist_samples_per_second 128.0",
            "burn_dist_wait_seconds 0.25",
            "burn_dist_gradients_bytes_total 6000",
            "burn_dist_sent_bytes_total 7",
            "burn_dist_slowest_rank 1",
            "burn_dist_rank_busy_seconds{rank=\"1\"} 0.375",
            "burn_dist_straggler{rank=\"0\"} 0",
            "burn_dist_straggler{rank=\"1\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
