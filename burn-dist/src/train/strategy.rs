//! The strategy: what burn-train calls in place of its own.

use super::agree::failure;
use super::output::GatherOutput;
use super::replica::{self, Trained, TrainingRun};
use super::root::Root;
use super::shares::Shares;
use super::weights::Counters;
use crate::ddp::{DdpConfig, with_own_states};
use crate::error::Error;
use crate::launch::Launcher;
#[cfg(feature = "observe")]
use crate::observe::Outputs;
use burn::tensor::Device;
use burn::train::{
    EventProcessorTraining, InferenceStep, Learner, LearnerModel, LearningResult,
    SupervisedLearningStrategy, SupervisedTrainingEventProcessor, TrainLoader, TrainStep,
    TrainingComponents, TrainingStrategy, ValidLoader,
};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Trains on all ranks: one replica for each device, over all processes of a job. Its
/// [module](super) says what equals what.
///
/// ```no_run
/// use burn::tensor::Device;
/// use burn_dist::{JobConfig, launch::Launcher, train::Distributed};
///
/// // Two replicas in this process:
/// let strategy = Distributed::new(vec![Device::flex().autodiff(); 2]);
/// // Or in every process of a job:
/// let devices = vec![Device::flex().autodiff(); 2];
/// let strategy = Distributed::from(Launcher::new(devices).with_job(JobConfig::from_env()?));
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// For gradient checkpointing, give it devices that have it:
/// `SupervisedTraining::gradient_checkpointing` does not reach strategies other than burn-train's own.
#[derive(Clone, Debug)]
pub struct Distributed {
    launcher: Launcher,
    ddp: DdpConfig,
    seed: u64,
    counters: Counters,
    metrics_every: usize,
    #[cfg(feature = "observe")]
    outputs: Option<Arc<Outputs>>,
    report: Arc<Mutex<Option<Report>>>,
}

/// Figures of a training beside its metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The number of ranks.
    pub world_size: usize,
    /// The checksum of the parameters, which all ranks have: see
    /// [`Ddp::verify_replicas`](crate::ddp::Ddp::verify_replicas).
    pub parameters_sha256: String,
    /// Time of the epochs, validation included.
    pub train_time: Duration,
    /// Time this process's first rank has waited for averages of gradients.
    pub sync_wait: Duration,
}

impl From<Launcher> for Distributed {
    fn from(launcher: Launcher) -> Self {
        Self {
            launcher,
            ddp: DdpConfig::new(),
            seed: 0,
            counters: Counters::default(),
            metrics_every: 1,
            #[cfg(feature = "observe")]
            outputs: None,
            report: Arc::default(),
        }
    }
}

impl Distributed {
    /// One replica for each of these devices, in this process alone. For a job of several processes, and
    /// other settings, make it [from](Self#impl-From<Launcher>-for-Distributed) a [`Launcher`].
    pub fn new(devices: Vec<Device>) -> Self {
        Launcher::new(devices).into()
    }

    /// Sets the configuration of averaging gradients.
    #[must_use]
    pub fn with_ddp(mut self, config: DdpConfig) -> Self {
        self.ddp = config;
        self
    }

    /// The seed of each rank's [`random`](crate::random) stream, 0 unless set.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Weighs each rank's loss by what it counts in a batch of this type, in place of samples: the number of tokens
    /// that are not padding, or the sum of the weights of its targets' classes. Ranks then average to the mean over
    /// the whole batch however unequal their parts are; one whose count is 0 contributes nothing, even if its loss
    /// is NaN. Call it once for each type of batch that the model takes; a batch whose number is not known before
    /// the pass leaves it to [`LossOver::Output`](super::LossOver::Output).
    ///
    /// ```
    /// # use burn::tensor::{Device, Int, Tensor};
    /// # use burn_dist::train::Distributed;
    /// struct Text {
    ///     tokens: Tensor<2, Int>,
    ///     /// Counted by the batcher, before the tensors are made.
    ///     not_padding: usize,
    /// }
    /// let strategy = Distributed::new(vec![Device::flex().autodiff(); 2])
    ///     .with_loss_count(|batch: &Text| batch.not_padding as f64);
    /// ```
    ///
    /// A count that is negative or not finite ends the training with an error.
    #[must_use]
    pub fn with_loss_count<B: 'static>(
        mut self,
        count: impl Fn(&B) -> f64 + Send + Sync + 'static,
    ) -> Self {
        self.counters.add(count);
        self
    }

    /// Gathers the outputs of training passes for metrics after the first of every `passes` passes of an epoch, in
    /// place of after each: for outputs that take long to gather. Metrics of training, and progress, then know of
    /// those passes alone; those of validation are not changed. 0 is 1.
    #[must_use]
    pub fn with_train_metrics_every(mut self, passes: usize) -> Self {
        self.metrics_every = passes.max(1);
        self
    }

    /// Sets the destinations of each step's figures, in the process of rank 0: TensorBoard's files or an
    /// endpoint for Prometheus. (For metrics, see [`TensorBoardLogger`](super::TensorBoardLogger).)
    #[cfg(feature = "observe")]
    #[must_use]
    pub fn with_outputs(mut self, outputs: impl Into<Arc<Outputs>>) -> Self {
        self.outputs = Some(outputs.into());
        self
    }

    /// Returns the figures of the latest training that ended well, `None` before one has. Clones of a strategy
    /// share them.
    pub fn report(&self) -> Option<Report> {
        self.report.lock().clone()
    }
}

impl<M: LearnerModel> From<Distributed> for TrainingStrategy<M>
where
    <M as TrainStep>::Output: GatherOutput,
    <M as InferenceStep>::Output: GatherOutput,
{
    fn from(strategy: Distributed) -> Self {
        Self::Custom(Arc::new(strategy))
    }
}

impl<M: LearnerModel> SupervisedLearningStrategy<M> for Distributed
where
    <M as TrainStep>::Output: GatherOutput,
    <M as InferenceStep>::Output: GatherOutput,
{
    fn train(
        &self,
        learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
        components: TrainingComponents<M>,
    ) -> LearningResult<M> {
        if self.launcher.process() == 0 {
            return Fit(self).train(learner, train, valid, components);
        }
        // The other processes have no metrics: nothing is rendered there, nor summed up.
        let interrupter = components.interrupter.clone();
        let first_epoch = components.checkpoint.unwrap_or(0) + 1;
        let (model, mut processor) = self.fit(components, learner, train, valid, first_epoch);
        interrupter.fail_on_error(processor.flush());
        LearningResult {
            model: model.valid(),
            renderer: processor.renderer(),
            interrupted: interrupter.interruption(),
            error: interrupter.error(),
        }
    }

    fn fit(
        &self,
        components: TrainingComponents<M>,
        learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
        first_epoch: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        // Training moves the states that the learner's clones share.
        let untrained = with_own_states(&learner.model());
        let interrupter = components.interrupter;
        if let Err(message) = self.counters.check::<M>() {
            // On every process alike, before any has joined.
            interrupter.fail(failure(0, message));
            return (untrained, components.event_processor);
        }
        let run = TrainingRun {
            learner: Mutex::new(learner),
            train: Shares::new(train),
            valid: Shares::new(valid),
            root: Mutex::new(Root {
                processor: components.event_processor,
                checkpointer: components.checkpointer,
                early_stopping: components.early_stopping,
                store: components.event_store,
                interrupter: interrupter.clone(),
            }),
            interrupter: interrupter.clone(),
            first_epoch,
            epochs: components.num_epochs,
            accumulation: components.grad_accumulation.unwrap_or(1),
            ddp: self.ddp.clone(),
            seed: self.seed,
            counters: self.counters.clone(),
            metrics_every: self.metrics_every,
            #[cfg(feature = "observe")]
            outputs: self.outputs.clone(),
        };
        let launcher = self.launcher.clone();
        let outcome = launcher.run(|worker| replica::train(&worker, &run));
        let model = match outcome.map(|ranks| ranks.into_iter().next()) {
            Ok(Some(Trained { model, report })) => {
                *self.report.lock() = Some(report);
                model
            }
            Ok(None) => untrained,
            Err(error) => {
                if interrupter.error().is_none() {
                    interrupter.fail(failure(rank_of(&error), error.to_string()));
                }
                untrained
            }
        };
        (model, run.root.into_inner().processor)
    }
}

/// Runs [`Distributed`]'s loop with what the trait does around it: the process of rank 0.
struct Fit<'a>(&'a Distributed);

impl<M: LearnerModel> SupervisedLearningStrategy<M> for Fit<'_>
where
    <M as TrainStep>::Output: GatherOutput,
    <M as InferenceStep>::Output: GatherOutput,
{
    fn fit(
        &self,
        components: TrainingComponents<M>,
        learner: Learner<M>,
        train: TrainLoader<M>,
        valid: ValidLoader<M>,
        first_epoch: usize,
    ) -> (M, SupervisedTrainingEventProcessor<M>) {
        self.0.fit(components, learner, train, valid, first_epoch)
    }
}

/// Returns the rank that failed, as far as the error tells.
fn rank_of(error: &Error) -> usize {
    match error {
        Error::Worker { rank, .. } | Error::System { rank, .. } | Error::Aborted { rank, .. } => {
            *rank
        }
        Error::PeerLeft { peer, .. } => *peer,
        _ => 0,
    }
}
