//! burn-train's metrics in TensorBoard's event files.
//!
//! Callers: users; burn-train.

use crate::observe::EventFile;
use burn::train::logger::{InMemoryMetricLogger, MetricLogger};
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use std::collections::HashMap;
use std::path::PathBuf;

/// A metric logger that writes TensorBoard's event files, for
/// `SupervisedTraining::with_metric_logger`: each numeric metric of a split as `train/Loss`, one value a step,
/// and its value over a whole epoch as `epoch/train/Loss`.
///
/// The file is made with the first value, so that only the process that has metrics makes one: beside that of
/// [`Outputs`](crate::observe::Outputs) if both have the same folder, which TensorBoard shows as one run. If it
/// can't be written, a warning of the crate `tracing` says so, and training goes on without it.
///
/// burn-train writes metrics to files of its own only where no logger is given: to keep those, give it a
/// `FileMetricLogger` too.
///
/// ```no_run
/// # use burn::train::{LearnerModel, SupervisedTraining};
/// use burn_dist::train::TensorBoardLogger;
/// # fn example<M: LearnerModel>(training: SupervisedTraining<M>) -> SupervisedTraining<M> {
/// training.with_metric_logger(TensorBoardLogger::new("runs/a"))
/// # }
/// ```
pub struct TensorBoardLogger {
    folder: PathBuf,
    events: Events,
    names: HashMap<MetricId, String>,
    /// How many values of a split's metrics there have been.
    steps: HashMap<(Split, MetricId), u64>,
    /// What early stopping and checkpoint strategies read back.
    memory: InMemoryMetricLogger,
}

enum Events {
    NoneYet,
    Open(EventFile),
    GivenUp,
}

impl TensorBoardLogger {
    /// Writes to this folder, which is made if missing. Look at it with `tensorboard --logdir FOLDER`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            events: Events::NoneYet,
            names: HashMap::new(),
            steps: HashMap::new(),
            memory: InMemoryMetricLogger::default(),
        }
    }

    fn scalar(&mut self, name: &str, value: f64, step: u64) {
        if let Events::NoneYet = self.events {
            self.events = match EventFile::create(&self.folder) {
                Ok(file) => Events::Open(file),
                Err(error) => given_up(&error),
            };
        }
        if let Events::Open(file) = &mut self.events
            && let Err(error) = file.scalar(name, value, step)
        {
            self.events = given_up(&error);
        }
    }
}

fn given_up(error: &crate::Error) -> Events {
    tracing::warn!("{error}; training goes on without it");
    Events::GivenUp
}

impl MetricLogger for TensorBoardLogger {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        for metric in &update.entries_numeric {
            let id = &metric.entry.metric_id;
            let (Some(entry), Some(name)) = (&metric.numeric_entry, self.names.get(id)) else {
                continue;
            };
            let name = format!("{split}/{name}");
            if let NumericEntry::Final(value) = entry {
                self.scalar(&format!("epoch/{name}"), *value, epoch as u64);
            } else {
                let steps = self.steps.entry((split.clone(), id.clone())).or_default();
                let step = *steps;
                *steps += 1;
                self.scalar(&name, entry.current(), step);
            }
        }
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
        self.names
            .insert(definition.metric_id.clone(), definition.name.to_string());
        self.memory.log_metric_definition(definition);
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        if let Events::Open(file) = &mut self.events
            && let Err(error) = file.flush()
        {
            self.events = given_up(&error);
        }
        self.memory.log_epoch_summary(summary);
    }
}
