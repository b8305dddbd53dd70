//! The figures of a run: what burn-train's metrics came to, and the report.

#[path = "../job/report.rs"]
mod report;

use crate::flags::{Job, Options};
use crate::net::Digits;
use burn::data::dataloader::DataLoader;
use burn::train::LearningResult;
use burn::train::logger::{InMemoryMetricLogger, MetricLogger};
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use burn_dist::ddp::parameters_sha256;
use burn_dist::train::{Distributed, TensorBoardLogger};
use datasets::MnistBatch;
use report::Report;
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What a run came to.
pub(crate) struct Figures {
    options: Options,
    /// Training samples of an epoch.
    samples: usize,
    started: Instant,
    finals: Finals,
}

/// The latest epoch's value of each metric, and how many epochs ended.
type Finals = Arc<Mutex<(HashMap<(String, MetricId), f64>, usize)>>;

impl Figures {
    /// The run begins.
    pub(crate) fn start(options: &Options, train: &Arc<dyn DataLoader<MnistBatch>>) -> Self {
        Self {
            options: options.clone(),
            samples: train.num_items(),
            started: Instant::now(),
            finals: Arc::default(),
        }
    }

    /// Notes the metrics of each epoch.
    pub(crate) fn logger(&self) -> impl MetricLogger + 'static {
        Logger {
            finals: Arc::clone(&self.finals),
            other: match &self.options.log_dir {
                Some(folder) => Box::new(TensorBoardLogger::new(folder)),
                None => Box::new(InMemoryMetricLogger::default()),
            },
        }
    }

    /// The run is over: says what it came to, and writes the report. `strategy` is the one that ran it, in a job,
    /// if not burn-train's own.
    pub(crate) fn save(
        &self,
        result: LearningResult<Digits>,
        strategy: Option<(&Distributed, Job)>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let run = strategy
            .as_ref()
            .and_then(|(strategy, _)| strategy.report());
        if let Some((_, job)) = strategy {
            job.finish()?;
        }
        if let Some(error) = result.error {
            return Err(error.to_string().into());
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let (values, epochs) = self
            .finals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if epochs == 0 {
            // Another process of the job has the metrics.
            return Ok(());
        }
        let value = |split: &str, metric: &str| {
            let id = MetricId::new(Arc::new(metric.to_owned()));
            values.get(&(split.to_owned(), id)).copied().unwrap_or(0.0)
        };
        let report = Report {
            backend: "burn-train",
            world_size: run.as_ref().map_or(1, |run| run.world_size),
            epochs,
            global_batch_size: self.options.batch_size(),
            learning_rate: self.options.lr,
            seed: self.options.seed,
            train_loss: value("train", "Loss"),
            train_accuracy: value("train", "Accuracy") / 100.0,
            test_accuracy: value("valid", "Accuracy") / 100.0,
            train_seconds: seconds,
            samples_per_second: (self.samples * epochs) as f64 / seconds,
            sync_wait_fraction: run
                .as_ref()
                .map_or(0.0, |run| run.sync_wait.as_secs_f64() / seconds),
            parameters_sha256: &parameters_sha256(&result.model)?,
            // A run whose replicas differ ends with an error.
            replicas_identical: true,
            interrupted: result.interrupted.is_some(),
        };
        println!(
            "test accuracy {:.2} % after {seconds:.1} s on {} rank(s)",
            report.test_accuracy * 100.0,
            report.world_size
        );
        match &self.options.report {
            Some(path) => report.write(path),
            None => Ok(()),
        }
    }
}

/// Writes down each epoch's values, and leaves all else to another logger.
struct Logger {
    finals: Finals,
    other: Box<dyn MetricLogger>,
}

impl MetricLogger for Logger {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        for metric in &update.entries_numeric {
            if let Some(NumericEntry::Final(value)) = metric.numeric_entry {
                let key = (split.to_string(), metric.entry.metric_id.clone());
                let mut finals = self.finals.lock().unwrap_or_else(PoisonError::into_inner);
                finals.0.insert(key, value);
                finals.1 = epoch;
            }
        }
        self.other.log(update, epoch, split);
    }

    fn read_numeric(
        &mut self,
        name: &str,
        epoch: usize,
        split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        self.other.read_numeric(name, epoch, split)
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.other.log_metric_definition(definition);
    }

    fn log_epoch_summary(&mut self, summary: EpochSummary) {
        self.other.log_epoch_summary(summary);
    }
}
