//! The figures as Prometheus reads them: counters and gauges of the whole job, served over HTTP by the
//! process that hosts rank 0.
//!
//! - `server`: a thread that answers `GET /metrics`; `client`: one connection of it.
//!
//! The format: Prometheus' text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Written out, a dozen series take less
//! code than they take to be registered with the client libraries, whose dependencies have Burn built with
//! other features.

mod client;
mod server;

use super::summary::StepSummary;
use parking_lot::Mutex;
use std::fmt::{Display, Write};

pub(super) use server::Endpoint;

/// All that is served: written by rank 0's thread, read by the endpoint's.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    steps: u64,
    samples: f64,
    seconds: f64,
    gradients: f64,
    sent: f64,
    /// By rank.
    stragglers: Vec<bool>,
    last: Option<StepSummary>,
}

impl Metrics {
    /// Takes in one step.
    pub(super) fn step(&self, summary: &StepSummary, stragglers: impl Iterator<Item = bool>) {
        let stragglers = stragglers.collect();
        let last = Some(summary.clone());
        let mut state = self.0.lock();
        state.steps += 1;
        state.samples += summary.samples();
        state.seconds += summary.seconds();
        state.gradients += summary.bytes();
        // A count since the job began; it never falls, whatever a later training says.
        state.sent = state.sent.max(summary.sent());
        (state.stragglers, state.last) = (stragglers, last);
    }

    /// All series.
    fn text(&self) -> String {
        let state = self.0.lock().clone();
        state.text()
    }
}

impl State {
    fn text(&self) -> String {
        let mut text = Text::default();
        let counters = [
            ("steps", "Steps of the optimizer.", self.steps as f64),
            (
                "samples",
                "Samples trained on, over all ranks.",
                self.samples,
            ),
            (
                "gradient_bytes",
                "Bytes of gradients given to be averaged, over all ranks.",
                self.gradients,
            ),
            (
                "sent_bytes",
                "Bytes that the processes of the job have sent to one another.",
                self.sent,
            ),
        ];
        for (name, help, value) in counters {
            text.series(&format!("{name}_total"), "counter", help);
            text.value(&format!("{name}_total"), None, value);
        }
        let help = "How long steps took, on the rank that took longest.";
        text.series("step_seconds", "summary", help);
        text.value("step_seconds_sum", None, self.seconds);
        text.value("step_seconds_count", None, self.steps);
        if let Some(last) = &self.last {
            self.last_step(&mut text, last);
        }
        text.0
    }

    fn last_step(&self, text: &mut Text, last: &StepSummary) {
        let gauges = [
            (
                "last_step_seconds",
                "How long the last step took.",
                last.seconds(),
            ),
            (
                "samples_per_second",
                "Samples a second over all ranks, in the last step.",
                last.samples_per_second(),
            ),
            (
                "wait_seconds",
                "How long ranks waited for averages in the last step, on the average.",
                last.wait(),
            ),
            (
                "slowest_rank",
                "The rank that was busy longest in the last step.",
                last.slowest_rank() as f64,
            ),
        ];
        for (name, help, value) in gauges {
            text.series(name, "gauge", help);
            text.value(name, None, value);
        }
        let name = "rank_busy_seconds";
        let help = "How long a rank was busy in the last step, waiting for averages left out.";
        text.of_ranks(name, help, last.ranks.iter().map(|rank| rank.busy));
        let name = "rank_wait_seconds";
        let help = "How long a rank waited for averages in the last step.";
        text.of_ranks(name, help, last.ranks.iter().map(|rank| rank.wait));
        let help = "1 for a rank that has held the others up for many steps.";
        text.of_ranks(
            "straggler",
            help,
            self.stragglers.iter().map(|is| u8::from(*is)),
        );
    }
}

/// The lines of the format. Nothing that is put in needs to be escaped. Writing to a string can't fail.
#[derive(Default)]
struct Text(String);

impl Text {
    fn series(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP burn_dist_{name} {help}");
        let _ = writeln!(self.0, "# TYPE burn_dist_{name} {kind}");
    }

    /// A gauge of each rank.
    fn of_ranks(&mut self, name: &str, help: &str, values: impl Iterator<Item = impl Display>) {
        self.series(name, "gauge", help);
        for (rank, value) in values.enumerate() {
            self.value(name, Some(rank), value);
        }
    }

    fn value(&mut self, name: &str, rank: Option<usize>, value: impl Display) {
        let _ = match rank {
            Some(rank) => writeln!(self.0, "burn_dist_{name}{{rank=\"{rank}\"}} {value}"),
            None => writeln!(self.0, "burn_dist_{name} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::RankFigures;
    use std::collections::HashSet;

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
        let metrics = Metrics::default();
        for number in 0..3 {
            let ranks = vec![figures(0.125), figures(0.375)];
            let summary = StepSummary { number, ranks };
            metrics.step(&summary, [false, true].into_iter());
        }
        let text = metrics.text();
        for line in [
            "burn_dist_steps_total 3",
            "burn_dist_samples_total 192",
            "burn_dist_step_seconds_sum 1.5",
            "burn_dist_step_seconds_count 3",
            "burn_dist_last_step_seconds 0.5",
            "burn_dist_samples_per_second 128",
            "burn_dist_wait_seconds 0.25",
            "burn_dist_gradient_bytes_total 6000",
            "burn_dist_sent_bytes_total 7",
            "burn_dist_slowest_rank 1",
            "burn_dist_rank_busy_seconds{rank=\"1\"} 0.375",
            "burn_dist_rank_wait_seconds{rank=\"0\"} 0.25",
            "burn_dist_straggler{rank=\"0\"} 0",
            "burn_dist_straggler{rank=\"1\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_value_follows_its_series_and_every_series_is_there_once() {
        let ranks = vec![RankFigures::decode(&[f64::NAN; 7]); 3];
        let metrics = Metrics::default();
        let summary = StepSummary { number: 0, ranks };
        metrics.step(&summary, [false; 3].into_iter());
        let text = metrics.text();
        let (mut seen, mut series) = (HashSet::new(), "");
        for line in text.lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                series = typed.split(' ').next().unwrap();
                assert!(seen.insert(series), "{line}");
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(series), "{line}");
                value.parse::<f64>().unwrap();
            }
        }
    }
}
