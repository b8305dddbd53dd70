//! The figures of a run: what burn-train's metrics came to, and the report.

#[path = "../job/report.rs"]
mod report;

use crate::flags::{Job, Options};
use crate::net::Digits;
use burn::data::dataloader::DataLoader;
use burn::data::dataset::Dataset;
use burn::train::LearningResult;
use burn::train::logger::{InMemoryMetricLogger, MetricLogger};
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use burn_dist::JobConfig;
use burn_dist::ddp::parameters_sha256;
use burn_dist::train::{self, Distributed, TensorBoardLogger};
use datasets::MnistBatch;
use report::Report;
use std::collections::HashMap;
use std::error::Error;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

type Failure = Box<dyn Error + Send + Sync>;

/// What a run came to.
pub(crate) struct Figures {
    options: Options,
    /// Training samples of an epoch.
    samples: usize,
    started: Instant,
    noted: Arc<Mutex<Noted>>,
}

/// Values of metrics.
type Values = HashMap<(Split, MetricId), f64>;

/// What burn-train has logged so far.
#[derive(Default)]
struct Noted {
    /// The epochs whose test is over. One that is cut short in training has none.
    epochs: Vec<Epoch>,
    /// Those of the epoch under way.
    values: Values,
    /// Its test samples.
    tested: usize,
}

/// An epoch, from training to test.
#[derive(Clone)]
struct Epoch {
    /// From 1; a run that goes on from a checkpoint begins with a later one.
    number: usize,
    values: Values,
    tested: usize,
    ended: Instant,
}

impl Figures {
    /// The run begins.
    pub(crate) fn start(options: &Options, train: &Arc<dyn DataLoader<MnistBatch>>) -> Self {
        Self {
            options: options.clone(),
            samples: train.num_items(),
            started: Instant::now(),
            noted: Arc::default(),
        }
    }

    /// Notes the metrics of each epoch.
    pub(crate) fn logger(&self) -> impl MetricLogger + 'static {
        Logger {
            noted: Arc::clone(&self.noted),
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
    ) -> Result<(), Failure> {
        let run = strategy
            .as_ref()
            .and_then(|(strategy, _)| strategy.report());
        let in_job = strategy.is_some();
        if let Some((_, job)) = strategy {
            job.finish()?;
        }
        if let Some(error) = result.error {
            return Err(error.to_string().into());
        }
        if in_job && JobConfig::from_env()?.is_some_and(|job| job.process() > 0) {
            // Process 0 has the metrics.
            return Ok(());
        }
        let interrupted = result.interrupted.is_some();
        let epochs = self.epochs(interrupted)?;
        let Some(last) = epochs.last() else {
            return self.nothing();
        };
        let checksum = parameters_sha256(&result.model)?;
        let report = self.report(last, epochs.len(), run.as_ref(), &checksum, interrupted)?;
        println!(
            "test accuracy {:.2} % after {:.1} s on {} rank(s)",
            report.test_accuracy * 100.0,
            report.train_seconds,
            report.world_size
        );
        match &self.options.report {
            Some(path) => report.write(path),
            None => Ok(()),
        }
    }

    /// The epochs of this run that nothing cut short.
    fn epochs(&self, interrupted: bool) -> Result<Vec<Epoch>, Failure> {
        let mut epochs = lock(&self.noted).epochs.clone();
        if interrupted {
            // A test that was cut short is logged like any other.
            let tests = self.options.digits()?.test.len();
            epochs.retain(|epoch| epoch.tested == tests);
        }
        Ok(epochs)
    }

    /// There are no figures: an error if they were asked for.
    fn nothing(&self) -> Result<(), Failure> {
        let message = "the run ended before a whole epoch, so that it has no figures";
        let Some(path) = &self.options.report else {
            println!("{message}");
            return Ok(());
        };
        Err(format!("{message}: {} was not written", path.display()).into())
    }

    /// The report of a run of so many epochs, with the values of the last.
    fn report<'a>(
        &self,
        last: &Epoch,
        epochs: usize,
        run: Option<&train::Report>,
        parameters_sha256: &'a str,
        interrupted: bool,
    ) -> Result<Report<'a>, Failure> {
        let seconds = self.started.elapsed().as_secs_f64();
        // Without the part of an epoch that may have come after them.
        let whole = last.ended.duration_since(self.started).as_secs_f64();
        Ok(Report {
            backend: "burn-train",
            world_size: run.map_or(1, |run| run.world_size),
            epochs: last.number,
            global_batch_size: self.options.batch_size(),
            learning_rate: self.options.lr,
            seed: self.options.seed,
            train_loss: last.value(Split::Train, "Loss")?,
            train_accuracy: last.value(Split::Train, "Accuracy")? / 100.0,
            test_accuracy: last.value(Split::Valid, "Accuracy")? / 100.0,
            train_seconds: seconds,
            samples_per_second: (self.samples * epochs) as f64 / whole,
            sync_wait_fraction: run.map_or(0.0, |run| run.sync_wait.as_secs_f64() / seconds),
            parameters_sha256,
            // A run whose replicas differ ends with an error.
            replicas_identical: true,
            interrupted,
        })
    }
}

impl Epoch {
    fn value(&self, split: Split, metric: &str) -> Result<f64, Failure> {
        let key = (split, id(metric));
        let value = self.values.get(&key).copied();
        value.ok_or_else(|| {
            let (split, epoch) = (key.0, self.number);
            format!("burn-train logged no {metric} of {split} for epoch {epoch}").into()
        })
    }
}

impl Noted {
    fn note(&mut self, update: &MetricsUpdate, epoch: usize, split: &Split) {
        let testing = *split == Split::Valid;
        let mut over = false;
        for metric in &update.entries_numeric {
            let metric_id = &metric.entry.metric_id;
            match metric.numeric_entry {
                Some(NumericEntry::Final(value)) => {
                    self.values
                        .insert((split.clone(), metric_id.clone()), value);
                    over = true;
                }
                Some(NumericEntry::Aggregated { count, .. })
                    if testing && *metric_id == id("Accuracy") =>
                {
                    self.tested += count;
                }
                _ => {}
            }
        }
        if testing && over {
            self.epochs.push(Epoch {
                number: epoch,
                values: mem::take(&mut self.values),
                tested: mem::take(&mut self.tested),
                ended: Instant::now(),
            });
        }
    }
}

fn id(metric: &str) -> MetricId {
    MetricId::new(Arc::new(metric.to_owned()))
}

fn lock(noted: &Mutex<Noted>) -> MutexGuard<'_, Noted> {
    noted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes down each epoch's values, and leaves all else to another logger.
struct Logger {
    noted: Arc<Mutex<Noted>>,
    other: Box<dyn MetricLogger>,
}

impl MetricLogger for Logger {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        lock(&self.noted).note(&update, epoch, split);
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
