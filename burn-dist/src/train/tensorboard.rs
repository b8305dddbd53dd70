//! burn-train's metrics in TensorBoard's event files.

use crate::observe::{Beginning, EventFile, MARKS};
use burn::train::logger::{InMemoryMetricLogger, MetricLogger};
use burn::train::metric::store::{EpochSummary, MetricsUpdate, NumericMetricUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricId, NumericEntry};
use std::collections::HashMap;
use std::path::PathBuf;

/// A metric logger that writes TensorBoard's event files, for
/// `SupervisedTraining::with_metric_logger`: each numeric metric of a split as `train/Loss`, one value a pass,
/// and its value over a whole epoch as `epoch/train/Loss`.
///
/// Steps are passes of the training, whatever the series: the values of a validation begin where its epoch
/// began (as many as the epoch has passes), those of a whole epoch stand at its last pass, and `epoch/number` says
/// which epoch that ends.
///
/// A training that resumes goes on with the step after the checkpoint's epoch, which it finds in the folder's
/// earlier files: give it the folder of the run before. Where there are none, a warning says so, and steps
/// begin at 0 or where [`first_step`](Self::with_first_step) says. What an earlier run wrote of steps that come now is
/// no longer shown.
///
/// The file is made with the first value, so that only the process that has metrics makes one: beside that of
/// [`Outputs`](crate::observe::Outputs) if both have the same folder, which TensorBoard shows as one run. A thread
/// of its own writes it. If it can't be written, or the disk hangs, a warning of the crate `tracing` says so, and
/// training goes on without it.
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
    first_step: Option<u64>,
    events: Events,
    names: HashMap<MetricId, String>,
    steps: Steps,
    /// Values that early stopping and checkpoint strategies read back.
    memory: InMemoryMetricLogger,
}

enum Events {
    NoneYet,
    Open(EventFile),
    GivenUp,
}

/// The passes so far, as steps.
#[derive(Default)]
struct Steps {
    epoch: usize,
    /// Passes of training.
    passes: u64,
    /// The first of them of this epoch.
    epoch_began: u64,
    /// Passes of each other split in this epoch.
    others: HashMap<Split, u64>,
}

impl Steps {
    /// Counts a pass, and returns its step. A validation of more passes than its epoch's training has no steps for
    /// all of them.
    fn pass(&mut self, epoch: usize, split: &Split) -> Option<u64> {
        if *split == Split::Train {
            if epoch != self.epoch {
                self.epoch = epoch;
                self.epoch_began = self.passes;
                self.others.clear();
            }
            self.passes += 1;
            return Some(self.last());
        }
        let passes = self.others.entry(split.clone()).or_default();
        let step = self.epoch_began + *passes;
        *passes += 1;
        (*split != Split::Valid || step <= self.last()).then_some(step)
    }

    /// Returns the last step of the training.
    fn last(&self) -> u64 {
        self.passes.saturating_sub(1)
    }
}

impl TensorBoardLogger {
    /// Writes to this folder, which is made if missing. Look at it with `tensorboard --logdir FOLDER`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            first_step: None,
            events: Events::NoneYet,
            names: HashMap::new(),
            steps: Steps::default(),
            memory: InMemoryMetricLogger::default(),
        }
    }

    /// Begins with this step, in place of the one that the folder's files tell.
    #[must_use]
    pub fn with_first_step(mut self, step: u64) -> Self {
        self.first_step = Some(step);
        self.steps.passes = step;
        self.steps.epoch_began = step;
        self
    }

    /// Opens the file, if none is, for a run that begins with this epoch.
    fn open(&mut self, epoch: usize) {
        if !matches!(self.events, Events::NoneYet) {
            return;
        }
        let beginning = match (self.first_step, epoch) {
            (Some(step), _) => Beginning::At(step),
            (None, 0 | 1) => Beginning::At(0),
            (None, epoch) => Beginning::AfterEpoch(epoch as u64 - 1),
        };
        self.events = match EventFile::open(&self.folder) {
            Ok(file) => Events::Open(file),
            Err(error) => given_up(&error),
        };
        self.write(|file| file.begin(beginning));
    }

    fn write(&mut self, write: impl FnOnce(&mut EventFile) -> crate::Result<()>) {
        if let Events::Open(file) = &mut self.events
            && let Err(error) = write(file)
        {
            self.events = given_up(&error);
        }
    }

    fn scalar(
        &mut self,
        metric: &NumericMetricUpdate,
        whole_epoch: bool,
        split: &Split,
        step: u64,
    ) {
        let name = self.names.get(&metric.entry.metric_id);
        let (Some(entry), Some(name)) = (&metric.numeric_entry, name) else {
            return;
        };
        if matches!(entry, NumericEntry::Aggregated { count: 0, .. }) {
            // A mean over nothing.
            return;
        }
        let name = if whole_epoch {
            format!("epoch/{split}/{name}")
        } else {
            format!("{split}/{name}")
        };
        let value = entry.current();
        self.write(|file| file.scalar(&name, value, step));
    }
}

fn given_up(error: &crate::Error) -> Events {
    tracing::warn!("{error}; training goes on without it");
    Events::GivenUp
}

impl MetricLogger for TensorBoardLogger {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        let is_final = |metric: &NumericMetricUpdate| {
            matches!(metric.numeric_entry, Some(NumericEntry::Final(_)))
        };
        let whole_epoch = update.entries_numeric.iter().any(is_final);
        let step = if whole_epoch {
            Some(self.steps.last())
        } else {
            self.steps.pass(epoch, split)
        };
        if !update.entries_numeric.is_empty() {
            self.open(epoch);
        }
        if let Some(step) = step {
            for metric in &update.entries_numeric {
                self.scalar(metric, whole_epoch, split, step);
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
        // After the validation: the training of an epoch that was interrupted is not whole.
        if summary.split == Split::Valid {
            let (epoch, step) = (summary.epoch_number as f64, self.steps.last());
            self.write(|file| file.scalar(MARKS[1], epoch, step));
        }
        // Before the checkpoint: a run that goes on from there finds the mark.
        self.write(EventFile::flush);
        self.memory.log_epoch_summary(summary);
    }
}
