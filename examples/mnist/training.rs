//! The loop of one replica: the part of this example that trains.

use crate::options::Options;
use crate::progress::Progress;
use crate::resume::{Counts, Figures, Keeper, Start};
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use burn::tensor::{Int, Tensor};
use burn_dist::ProcessGroup;
use burn_dist::ReduceOp;
use burn_dist::data::{ShardedLoader, ShardedLoaderConfig};
use burn_dist::ddp::{Ddp, DdpConfig};
use burn_dist::launch::{Interrupt, Worker};
use burn_dist::observe::{self, Outputs, StepMonitor};
use burn_dist::random;
use datasets::{MnistBatch, MnistBatcher, MnistDataset};
use models::{MnistCnn, MnistCnnConfig};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::f64::consts::PI;
use std::sync::Arc;
use std::time::Instant;

/// What to train and test on.
pub(crate) struct Digits {
    pub(crate) train: MnistDataset,
    pub(crate) test: MnistDataset,
}

/// What a replica ends with; equal on all ranks, but for its own model (equal if all is well).
pub(crate) struct Outcome {
    pub(crate) model: MnistCnn,
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) world_size: usize,
    pub(crate) test_accuracy: f64,
    pub(crate) train_seconds: f64,
    pub(crate) samples_per_second: f64,
    pub(crate) sync_wait_fraction: f64,
    pub(crate) parameters_sha256: String,
    pub(crate) replicas_identical: bool,
    pub(crate) interrupted: bool,
    /// Why the run is not a whole one, if it is not.
    pub(crate) unfinished: Option<String>,
}

/// The figures of one epoch, over all ranks.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Epoch {
    pub(crate) samples: f64,
    pub(crate) loss: f64,
    pub(crate) accuracy: f64,
    pub(crate) seconds: f64,
    pub(crate) sync_wait_fraction: f64,
}

type Failure = Box<dyn Error + Send + Sync>;

/// Trains this rank's replica together with the others.
pub(crate) fn train(
    worker: &Worker,
    options: &Options,
    digits: &Digits,
    outputs: &Outputs,
    interrupt: &Interrupt,
) -> Result<Outcome, Failure> {
    let (group, device) = (worker.group(), worker.device());
    let interrupt = interrupt.watch(group);
    random::seed(options.seed, worker.rank());
    let loader = loader(worker, options, &digits.train, Some(options.seed))?;
    let model = random::init(options.seed, device, |device| {
        MnistCnnConfig::new().init(device)
    });
    let momentum = MomentumConfig::new().with_momentum(0.9);
    let optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let (mut keeper, restored) = Keeper::open(worker, options, &digits.train)?;
    let Start {
        model,
        mut optimizer,
        mut step,
        mut figures,
        mut counts,
    } = keeper.start(restored, model, optimizer, &loader)?;
    let ddp = DdpConfig::new().init(group)?;
    let mut model = ddp.attach(model)?;
    let criterion = CrossEntropyLossConfig::new().init(device);

    let total = loader.num_batches() as u64 * u64::from(options.epochs);
    let progress = Progress::new(worker.rank() == 0, total, step);
    let mut monitor = StepMonitor::new(group)?
        .with_outputs(outputs)
        .with_first_step(step);
    let mut interrupted = None;
    let (start, before) = (Instant::now(), figures.seconds);
    for epoch in figures.epochs.len()..options.epochs as usize {
        let is_over = || loader.state().epoch > epoch as u64;
        let mut tally = Tally::start(&ddp, device, std::mem::take(&mut counts));
        for batch in loader.batches() {
            let batch = batch?;
            let MnistBatch { images, targets } = batch.batch;
            let output = observe::forward(|| model.forward(images));
            // Padding, at the end of a last batch, counts for nothing; and where ranks have unequal
            // numbers of real samples, the mean over ranks must be that over samples.
            let rows = batch.real.max(1);
            let output = output.narrow(0, 0, rows);
            let targets = targets.narrow(0, 0, rows);
            let loss = criterion.forward(output.clone(), targets.clone());
            tally.add(output.detach(), loss.clone().detach(), targets, batch.real);
            let share = batch.real * worker.world_size();
            let loss = loss.mul_scalar(share as f64 / batch.total_real as f64);
            let gradients = observe::backward(|| loss.backward());
            let gradients = ddp.synchronize(gradients, &model)?;
            let done = step as f64 / total as f64;
            let rate = options.lr * 0.5 * (1.0 + (PI * done).cos());
            model = observe::optimizer(|| optimizer.step(rate, model, gradients));

            monitor.step(batch.real, ddp.stats())?;
            step += 1;
            progress.step();
            // After the last step there is nothing left to interrupt.
            interrupted = interrupt.requested()?.filter(|_| step < total);
            if keeper.is_due(step, interrupted.is_some()) && !is_over() {
                let counts = tally.counts(&ddp)?;
                figures.seconds = before + start.elapsed().as_secs_f64();
                keeper.save(step, (&model, &optimizer), &loader, &figures, counts)?;
                monitor.begin(ddp.stats());
            }
            if interrupted.is_some() {
                break;
            }
        }
        let counted = tally.finish(group, &ddp)?;
        monitor.scalar("train/loss", counted.loss);
        monitor.scalar("train/accuracy", counted.accuracy);
        progress.epoch(epoch, options.epochs as usize, &counted);
        figures.epochs.push(counted);
        figures.seconds = before + start.elapsed().as_secs_f64();
        if keeper.is_due(step, interrupted.is_some() || step == total) && is_over() {
            // With the figures of the epoch, which the next one does not change.
            let counts = Counts::default();
            keeper.save(step, (&model, &optimizer), &loader, &figures, counts)?;
        }
        if interrupted.is_some() {
            break;
        }
        monitor.begin(ddp.stats());
    }
    progress.finish();
    monitor.finish()?;

    let outcome = conclude(worker, options, digits, &ddp, model, figures)?;
    let interrupted =
        interrupted.map(|why| format!("interrupted at step {step} of {total}: {why}"));
    Ok(Outcome {
        interrupted: interrupted.is_some(),
        unfinished: keeper.finish(interrupted)?,
        ..outcome
    })
}

/// Checks the replicas, tests the model, and sums the run up.
fn conclude(
    worker: &Worker,
    options: &Options,
    digits: &Digits,
    ddp: &Ddp,
    model: MnistCnn,
    figures: Figures,
) -> Result<Outcome, Failure> {
    let Figures {
        epochs,
        seconds: train_seconds,
    } = figures;
    let samples: f64 = epochs.iter().map(|epoch| epoch.samples).sum();
    let waited: f64 = epochs
        .iter()
        .map(|epoch| epoch.sync_wait_fraction * epoch.seconds)
        .sum();
    let verified = ddp.verify_replicas(&model);
    let replicas_identical = match &verified {
        Ok(_) => true,
        Err(burn_dist::Error::ReplicasDiffer { .. }) => false,
        Err(error) => return Err(error.clone().into()),
    };
    Ok(Outcome {
        test_accuracy: test(worker, options, &model, &digits.test)?,
        parameters_sha256: burn_dist::ddp::parameters_sha256(&model)?,
        model,
        epochs,
        world_size: worker.world_size(),
        train_seconds,
        samples_per_second: samples / train_seconds,
        sync_wait_fraction: waited / train_seconds,
        replicas_identical,
        interrupted: false,
        unfinished: None,
    })
}

fn loader(
    worker: &Worker,
    options: &Options,
    digits: &MnistDataset,
    shuffle: Option<u64>,
) -> Result<Arc<ShardedLoader<MnistBatch>>, Failure> {
    let config = ShardedLoaderConfig::new()
        .with_batch_size(Some(options.batch_size as usize))
        .with_num_workers(1)
        .with_seed(shuffle);
    let (group, device) = (worker.group(), worker.device());
    Ok(config.init(group, device, MnistBatcher, digits.clone())?)
}

/// The share of held-out digits that the model names rightly, over all ranks.
fn test(
    worker: &Worker,
    options: &Options,
    model: &MnistCnn,
    digits: &MnistDataset,
) -> Result<f64, Failure> {
    let model = model.valid();
    let mut counts = [0.0, 0.0];
    for batch in loader(worker, options, digits, None)?.batches() {
        let batch = batch?;
        let MnistBatch { images, targets } = batch.batch;
        let output = model.forward(images.without_autodiff());
        counts[0] += correct(output, targets, batch.real).map_or(Ok(0.0), |correct| {
            correct.try_into_scalar::<i64>().map(|n| n as f64)
        })?;
        counts[1] += batch.real as f64;
    }
    worker.group().all_reduce(&mut counts, ReduceOp::Sum)?;
    Ok(counts[0] / counts[1].max(1.0))
}

/// How many of the first `real` outputs name their target; `None` if there are none.
fn correct(output: Tensor<2>, targets: Tensor<1, Int>, real: usize) -> Option<Tensor<1, Int>> {
    (real > 0).then(|| {
        let named = output.argmax(1).flatten::<1>(0, 1);
        named.equal(targets).int().narrow(0, 0, real).sum()
    })
}

/// The running figures of an epoch, kept on the device so that counting does not wait for it.
struct Tally {
    loss: Tensor<1>,
    correct: Tensor<1, Int>,
    start: Instant,
    waited: f64,
    /// What was counted before a resume.
    before: Counts,
    samples: usize,
}

impl Tally {
    fn start(ddp: &Ddp, device: &burn::tensor::Device, before: Counts) -> Self {
        let device = device.clone().without_autodiff();
        Self {
            loss: Tensor::zeros([1], &device).add_scalar(before.loss),
            correct: Tensor::zeros([1], &device).add_scalar(before.correct),
            start: Instant::now(),
            waited: ddp.stats().wait.as_secs_f64(),
            before,
            samples: before.samples,
        }
    }

    /// Counts the real samples of a batch: `real` rows of output and the mean loss over them.
    fn add(&mut self, output: Tensor<2>, loss: Tensor<1>, targets: Tensor<1, Int>, real: usize) {
        let loss = loss.without_autodiff().mul_scalar(real as f64);
        self.loss = self.loss.clone() + loss;
        if let Some(correct) = correct(output.without_autodiff(), targets, real) {
            self.correct = self.correct.clone() + correct;
        }
        self.samples += real;
    }

    /// What this rank has counted.
    fn counts(&self, ddp: &Ddp) -> Result<Counts, Failure> {
        Ok(Counts {
            loss: self.loss.clone().try_into_scalar()?,
            correct: self.correct.clone().try_into_scalar()?,
            samples: self.samples,
            seconds: self.before.seconds + self.start.elapsed().as_secs_f64(),
            waited: self.before.waited + ddp.stats().wait.as_secs_f64() - self.waited,
        })
    }

    /// Adds up over all ranks.
    fn finish(self, group: &ProcessGroup, ddp: &Ddp) -> Result<Epoch, Failure> {
        let counts = self.counts(ddp)?;
        let mut figures = [
            counts.samples as f64,
            f64::from(counts.loss),
            counts.correct as f64,
            counts.waited,
        ];
        group.all_reduce(&mut figures, ReduceOp::Sum)?;
        let [samples, loss, correct, waited] = figures;
        Ok(Epoch {
            samples,
            loss: loss / samples.max(1.0),
            accuracy: correct / samples.max(1.0),
            seconds: counts.seconds,
            sync_wait_fraction: waited / group.world_size() as f64 / counts.seconds,
        })
    }
}
