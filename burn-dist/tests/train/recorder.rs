//! A metric logger that a test can read afterwards.

use burn::train::logger::{InMemoryMetricLogger, MetricLogger};
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, NumericEntry};
use std::sync::{Arc, Mutex};

/// A value of a metric, as it was logged.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(crate) split: String,
    pub(crate) epoch: usize,
    pub(crate) metric: String,
    pub(crate) entry: NumericEntry,
}

/// All values of a training; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Logged>>>);

impl Recorder {
    pub(crate) fn values(&self) -> Vec<Logged> {
        self.0.lock().unwrap().clone()
    }

    /// The values from this epoch on.
    pub(crate) fn since_epoch(&self, first: usize) -> Self {
        let mut values = self.values();
        values.retain(|logged| logged.epoch >= first);
        Self(Arc::new(Mutex::new(values)))
    }

    /// The logger, which also answers burn-train's own questions.
    pub(crate) fn logger(&self) -> impl MetricLogger + 'static {
        Logger {
            recorder: self.clone(),
            memory: InMemoryMetricLogger::default(),
        }
    }
}

struct Logger {
    recorder: Recorder,
    memory: InMemoryMetricLogger,
}

impl MetricLogger for Logger {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        let logged = update.entries_numeric.iter().filter_map(|numeric| {
            Some(Logged {
                split: split.to_string(),
                epoch,
                metric: format!("{:?}", numeric.entry.metric_id),
                entry: numeric.numeric_entry.clone()?,
            })
        });
        self.recorder.0.lock().unwrap().extend(logged);
        self.memory.log(update, epoch, split);
    }

    fn read_numeric(
        &mut self,
        name: &str,
        epoch: usize,
        split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        self.memory.read_numeric(name, epoch, split)
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.memory.log_metric_definition(definition);
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        self.memory.log_epoch_summary(summary);
    }
}

/// Compares what two trainings logged, value by value: rounding is all that may differ, which for these
/// metrics stays far below 1e-4.
#[track_caller]
pub(crate) fn assert_same_values(one: &Recorder, other: &Recorder) {
    let (one, other) = (one.values(), other.values());
    assert_eq!(one.len(), other.len());
    assert!(!one.is_empty());
    for (one, other) in one.iter().zip(&other) {
        let place = |logged: &Logged| (logged.split.clone(), logged.epoch, logged.metric.clone());
        assert_eq!(place(one), place(other));
        let close = match (&one.entry, &other.entry) {
            (NumericEntry::Aggregated { count, .. }, NumericEntry::Aggregated { count: n, .. }) => {
                count == n
            }
            (NumericEntry::Value(_), NumericEntry::Value(_))
            | (NumericEntry::Final(_), NumericEntry::Final(_)) => true,
            _ => false,
        };
        let difference = (one.entry.current() - other.entry.current()).abs();
        assert!(close && difference < 1e-4, "{one:?} and {other:?}");
    }
}
