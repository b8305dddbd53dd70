//! The loop of one rank.
//!
//! The learner holds the model that the optimizer steps; a copy of it, attached to `Ddp`, runs forward and
//! backward, and takes over the learner's parameters after each step. The learner's copies on the ranks of
//! one process share their running statistics, as all clones of a Burn module do; the attached ones have
//! theirs to themselves.
//!
//! Invariant: every rank runs the same passes. One that has no batch while others do runs one that does not
//! count.

use super::agree::{self, Ahead, Setting};
use super::gather::Gather;
use super::output::GatherOutput;
use super::pace::Pace;
use super::place::Place;
use super::root::Root;
use super::shares::{Drawn, LoaderShare, Pass, Shares};
use super::strategy::Report;
use super::weights::Counters;
use crate::ddp::{self, Ddp, DdpConfig};
use crate::error::{Error, Result};
use crate::launch::Worker;
#[cfg(feature = "observe")]
use crate::observe::Outputs;
use crate::observe::StepMonitor;
use crate::random;
use burn::data::dataloader::Progress;
use burn::train::{
    InferenceStep, Interrupter, Learner, LearnerEvent, LearnerModel, TrainStep, TrainingItem,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Instant;

pub(super) type TrainInputOf<M> = <M as TrainStep>::Input;
pub(super) type TrainOutputOf<M> = <M as TrainStep>::Output;

/// State that the ranks of a process share.
pub(super) struct TrainingRun<M: LearnerModel> {
    pub(super) learner: Mutex<Learner<M>>,
    pub(super) train: Shares<<M as TrainStep>::Input>,
    pub(super) valid: Shares<<M as InferenceStep>::Input>,
    /// Held by rank 0 for as long as it runs.
    pub(super) root: Mutex<Root<M>>,
    pub(super) interrupter: Interrupter,
    pub(super) first_epoch: usize,
    pub(super) epochs: usize,
    pub(super) accumulation: usize,
    pub(super) ddp: DdpConfig,
    pub(super) seed: u64,
    pub(super) counters: Counters,
    /// After every how many training passes outputs are gathered.
    pub(super) metrics_every: usize,
    #[cfg(feature = "observe")]
    pub(super) outputs: Option<Arc<Outputs>>,
}

impl<M: LearnerModel> TrainingRun<M> {
    /// Returns what all ranks must have alike.
    fn settings(
        &self,
        train: &LoaderShare<<M as TrainStep>::Input>,
        valid: &LoaderShare<<M as InferenceStep>::Input>,
    ) -> Vec<Setting> {
        let setting = |name: &str, value: String| (name.to_owned(), value);
        vec![
            setting("num_epochs", self.epochs.to_string()),
            setting("seed", self.seed.to_string()),
            setting("first epoch", self.first_epoch.to_string()),
            setting("grads_accumulation", self.accumulation.to_string()),
            setting("train_metrics_every", self.metrics_every.to_string()),
            setting("training data", train.settings()),
            setting("validation data", valid.settings()),
        ]
    }

    /// Returns the seed of an epoch's random numbers: one that resumes draws those of an uninterrupted one.
    fn seed_of(&self, epoch: usize) -> u64 {
        // Odd, so that no two epochs of a run have the same.
        const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;
        let passed = epoch.saturating_sub(1) as u64;
        self.seed.wrapping_add(passed.wrapping_mul(STRIDE))
    }

    /// Gives rank 0's monitor its outputs.
    fn watch(&self, monitor: StepMonitor) -> StepMonitor {
        #[cfg(feature = "observe")]
        if let Some(outputs) = &self.outputs {
            let passed = self.first_epoch.saturating_sub(1);
            return monitor.with_outputs(outputs).after_epochs(passed);
        }
        monitor
    }
}

/// Result of a rank's training.
pub(super) struct Trained<M> {
    pub(super) model: M,
    pub(super) report: Report,
}

/// Trains as one rank.
pub(super) fn train<M: LearnerModel>(worker: &Worker, run: &TrainingRun<M>) -> Result<Trained<M>>
where
    TrainOutputOf<M>: GatherOutput,
    <M as InferenceStep>::Output: GatherOutput,
{
    let mut root = (worker.rank() == 0).then(|| run.root.lock());
    let mut replica = Replica::new(worker, run)?;
    let started = Instant::now();
    for epoch in run.first_epoch..=run.epochs {
        if !replica.run_epoch(epoch, root.as_deref_mut())? {
            break;
        }
    }
    replica.finish(started)
}

/// One rank's models and data.
pub(super) struct Replica<'a, M: LearnerModel> {
    pub(super) worker: &'a Worker,
    pub(super) run: &'a TrainingRun<M>,
    pub(super) learner: Learner<M>,
    /// Taken out while it is replaced.
    pub(super) model: Option<M>,
    pub(super) ddp: Ddp,
    pace: Pace,
    train: Arc<LoaderShare<<M as TrainStep>::Input>>,
    valid: LoaderShare<<M as InferenceStep>::Input>,
}

impl<'a, M: LearnerModel> Replica<'a, M>
where
    TrainOutputOf<M>: GatherOutput,
    <M as InferenceStep>::Output: GatherOutput,
{
    fn new(worker: &'a Worker, run: &'a TrainingRun<M>) -> Result<Self> {
        let device = worker.device().clone();
        let device = if device.is_autodiff() {
            device
        } else {
            device.autodiff()
        };
        let mut learner = run.learner.lock().clone();
        learner.fork(&device);
        let plain = ddp::with_own_states(&learner.model()).fork(&device);
        let ddp = run.ddp.init(worker.group())?;
        let model = ddp.attach(plain.clone())?;
        // What all ranks have now: another process may have built another model.
        learner.load_model(ddp::copy_into(&model, plain).into_record());
        let place = Place {
            rank: worker.rank(),
            world_size: worker.world_size(),
            passed: run.first_epoch.saturating_sub(1),
        };
        let (train, valid) = (
            run.train.of(place, &device),
            run.valid.of(place, &device.without_autodiff()),
        );
        agree::same_settings(worker.group(), &run.settings(&train, &valid))?;
        train.check("the training data", worker.world_size())?;
        valid.check("the validation data", worker.world_size())?;
        if train.total == 0 && worker.rank() == 0 {
            tracing::warn!("the training data has no samples: nothing will be trained");
        }
        Ok(Self {
            worker,
            run,
            learner,
            model: Some(model),
            ddp,
            pace: Pace::new(worker.group(), |monitor| run.watch(monitor))?,
            train: Arc::new(train),
            valid,
        })
    }

    /// Runs an epoch. Returns true if training goes on.
    fn run_epoch(&mut self, epoch: usize, mut root: Option<&mut Root<M>>) -> Result<bool> {
        random::seed(self.run.seed_of(epoch), self.worker.rank());
        if let Some(root) = root.as_deref_mut() {
            root.train(LearnerEvent::StartSplit {
                epoch_number: epoch,
                total_items: self.train.total,
            });
        }
        self.train_epoch(root.as_deref_mut())?;
        if let Some(root) = root.as_deref_mut() {
            root.train(LearnerEvent::EndSplit(epoch));
        }
        self.average_buffers()?;
        if self.stopped()? {
            return Ok(false);
        }
        #[cfg(feature = "observe")]
        self.pace.end_epoch(epoch);
        if let Some(root) = root.as_deref_mut() {
            root.valid(LearnerEvent::StartSplit {
                epoch_number: epoch,
                total_items: self.valid.total,
            });
        }
        self.validate(root.as_deref_mut())?;
        if let Some(root) = root.as_deref_mut() {
            root.valid(LearnerEvent::EndSplit(epoch));
            root.train(LearnerEvent::EndEpoch(epoch));
            root.settle();
        }
        if self.stopped()? {
            return Ok(false);
        }
        let over = root.is_some_and(|root| root.end_epoch(&self.learner, epoch));
        Ok(!agree::any(self.worker.group(), over)?)
    }

    fn train_epoch(&mut self, mut root: Option<&mut Root<M>>) -> Result<()> {
        let run = self.run;
        let share = Arc::clone(&self.train);
        let mut pass = share.pass();
        let (mut processed, mut accumulated, mut iteration) = (0, 0, 0);
        self.pace.begin(&self.ddp);
        while let Some((drawn, ahead)) = next(&mut pass, self.worker, run, &mut self.pace)? {
            iteration += 1;
            processed += ahead.samples;
            accumulated += 1;
            let step = accumulated >= run.accumulation || processed >= share.total;
            let samples = drawn.samples;
            let (output, count) = self.pass(drawn, ahead, step)?;
            if step {
                accumulated = 0;
            }
            let outputs = if iteration % run.metrics_every == 1 % run.metrics_every {
                let gather = Gather::new(self.worker.group(), samples, count);
                self.pace.meeting(|| output.gather_parts(&gather))?
            } else {
                Vec::new()
            };
            self.pace.passed(samples, step, &self.ddp)?;
            if let Some(root) = root.as_deref_mut() {
                for output in outputs {
                    root.train(LearnerEvent::ProcessedItem(TrainingItem::new(
                        output,
                        items(processed, share.total),
                        Some(iteration),
                        Some(self.learner.lr_current()),
                    )));
                }
            }
        }
        // As on one device, where an epoch's end forgets them.
        self.ddp.forget_kept()
    }

    fn validate(&mut self, mut root: Option<&mut Root<M>>) -> Result<()> {
        let _span = tracing::debug_span!("validate").entered();
        let model = self.model.as_ref().ok_or_else(|| self.broken())?.valid();
        let mut pass = self.valid.pass();
        let (mut processed, mut iteration) = (0, 0);
        while let Some((drawn, ahead)) = next(&mut pass, self.worker, self.run, &mut self.pace)? {
            iteration += 1;
            processed += ahead.samples;
            let output = InferenceStep::step(&model, drawn.batch);
            let counters = &self.run.counters;
            let count = if counters
                .left_to_output::<<M as InferenceStep>::Input, <M as InferenceStep>::Output>()
            {
                self.counted(&output, drawn.samples)?
            } else {
                drawn.count
            };
            let gather = Gather::new(self.worker.group(), drawn.samples, count);
            let outputs = self.pace.meeting(|| output.gather_parts(&gather))?;
            if let Some(root) = root.as_deref_mut() {
                for output in outputs {
                    root.valid(LearnerEvent::ProcessedItem(TrainingItem::new(
                        output,
                        items(processed, self.valid.total),
                        Some(iteration),
                        None,
                    )));
                }
            }
        }
        Ok(())
    }

    fn average_buffers(&mut self) -> Result<()> {
        let model = self.model.take().ok_or_else(|| self.broken())?;
        self.model = Some(
            self.ddp
                .average_buffers_of_both(model, self.learner.model())?,
        );
        Ok(())
    }

    /// True if any rank has stopped; then all have.
    fn stopped(&self) -> Result<bool> {
        let group = self.worker.group();
        let stop = agree::any(group, self.run.interrupter.should_stop())?;
        if stop {
            agree::stop_all(group, &self.run.interrupter)?;
        }
        Ok(stop)
    }

    fn finish(mut self, started: Instant) -> Result<Trained<M>> {
        let train_time = started.elapsed();
        let model = self.model.take().ok_or_else(|| self.broken())?;
        self.pace.finish()?;
        let report = Report {
            world_size: self.worker.world_size(),
            parameters_sha256: self.ddp.verify_replicas(&model)?,
            train_time,
            sync_wait: self.ddp.stats().wait,
        };
        Ok(Trained {
            model: self.learner.model(),
            report,
        })
    }

    /// A step failed before, which should have ended the rank.
    pub(super) fn broken(&self) -> Error {
        Error::Order {
            rank: self.worker.rank(),
            message: "training went on after a step that failed".to_owned(),
        }
    }
}

/// The next batch, if any rank has one and none wants to stop.
fn next<M: LearnerModel, I: 'static>(
    pass: &mut Pass<'_, I>,
    worker: &Worker,
    run: &TrainingRun<M>,
    pace: &mut Pace,
) -> Result<Option<(Drawn<I>, Ahead)>> {
    let (group, interrupter) = (worker.group(), &run.interrupter);
    let span = tracing::debug_span!("next batch").entered();
    let mut drawn = pass.draw().map_err(|error| {
        let message = format!("rank {}: {error}", worker.rank());
        interrupter.fail(error);
        Error::Data { message }
    })?;
    if let Some(drawn) = &mut drawn {
        drawn.count = run.counters.count(drawn, worker.rank())?;
    }
    drop(span);
    let next = drawn.as_ref().map(|drawn| (drawn.samples, drawn.count));
    let ahead = pace.meeting(|| agree::look_ahead(group, next, interrupter))?;
    if ahead.stop || !ahead.batches {
        return Ok(None);
    }
    let drawn = match drawn {
        Some(drawn) => drawn,
        None => pass.spare()?,
    };
    Ok(Some((drawn, ahead)))
}

fn items(processed: usize, total: usize) -> Progress {
    Progress::new(processed, total, Some("items".to_owned()))
}
