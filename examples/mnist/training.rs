//! The loop of one replica: the part of this example that trains.

use crate::options::Options;
use crate::progress::Progress;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use burn::tensor::{Int, Tensor};
use burn_dist::ProcessGroup;
use burn_dist::ReduceOp;
use burn_dist::data::{ShardedLoader, ShardedLoaderBuilder};
use burn_dist::ddp::{Ddp, DdpConfig};
use burn_dist::launch::Worker;
use burn_dist::observe::{self, Outputs, StepMonitor};
use burn_dist::random;
use datasets::{MnistBatch, MnistBatcher, MnistDataset};
use models::{MnistCnn, MnistCnnConfig};
use std::error::Error;
use std::f64::consts::PI;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What to train and test on.
pub(crate) struct Digits {
    pub(crate) train: MnistDataset,
    pub(crate) test: MnistDataset,
}

/// Whether to stop.
#[derive(Default)]
pub(crate) struct Stop {
    /// The user asked.
    pub(crate) asked: AtomicBool,
    /// There is training to end in good order.
    pub(crate) training: AtomicBool,
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
}

/// The figures of one epoch, over all ranks.
#[derive(Clone, Copy, Debug, Default)]
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
    stop: &Stop,
) -> Result<Outcome, Failure> {
    let (group, device) = (worker.group(), worker.device());
    random::seed(options.seed, worker.rank());
    let loader = loader(worker, options, &digits.train, Some(options.seed))?;
    let model = random::init(options.seed, device, |device| {
        MnistCnnConfig::new().init(device)
    });
    let ddp = DdpConfig::new().init(group)?;
    let mut model = ddp.attach(model)?;
    let momentum = MomentumConfig::new().with_momentum(0.9);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let criterion = CrossEntropyLossConfig::new().init(device);

    let steps_per_epoch = loader.num_batches();
    let total = steps_per_epoch * options.epochs as usize;
    let progress = Progress::new(worker.rank() == 0, total as u64);
    let mut epochs = Vec::new();
    let mut monitor = StepMonitor::new(group)?.outputs(outputs);
    let mut interrupted = false;
    stop.training.store(true, Ordering::Relaxed);
    let start = Instant::now();
    for epoch in 0..options.epochs as usize {
        let mut tally = Tally::start(&ddp, device);
        for (step, batch) in loader.batches().enumerate() {
            let batch = batch?;
            // All ranks must stop in the same step: they ask one another while they compute.
            let asked = u8::from(stop.asked.load(Ordering::Relaxed));
            let asked = group.all_reduce_async(vec![asked], ReduceOp::Max);

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
            let done = (epoch * steps_per_epoch + step) as f64 / total as f64;
            let rate = options.lr * 0.5 * (1.0 + (PI * done).cos());
            model = observe::optimizer(|| optimizer.step(rate, model, gradients));

            monitor.step(batch.real, ddp.stats())?;
            progress.step();
            if asked.wait()?[0] > 0 {
                interrupted = true;
                break;
            }
        }
        let figures = tally.finish(group, &ddp)?;
        monitor.scalar("train/loss", figures.loss);
        monitor.scalar("train/accuracy", figures.accuracy);
        progress.epoch(epoch, options.epochs as usize, &figures);
        epochs.push(figures);
        if interrupted {
            break;
        }
    }
    progress.finish();
    monitor.finish()?;

    let train_seconds = start.elapsed().as_secs_f64();
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
        interrupted,
    })
}

fn loader(
    worker: &Worker,
    options: &Options,
    digits: &MnistDataset,
    shuffle: Option<u64>,
) -> Result<Arc<ShardedLoader<MnistBatch>>, Failure> {
    let builder = ShardedLoaderBuilder::new(MnistBatcher)
        .batch_size(options.batch_size as usize)
        .num_workers(1)
        .set_device(worker.device().clone())
        .shard(worker.rank(), worker.world_size());
    let builder = match shuffle {
        Some(seed) => builder.shuffle(seed),
        None => builder,
    };
    Ok(builder.build(digits.clone())?)
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
    samples: usize,
    start: Instant,
    waited: f64,
}

impl Tally {
    fn start(ddp: &Ddp, device: &burn::tensor::Device) -> Self {
        let device = device.clone().without_autodiff();
        Self {
            loss: Tensor::zeros([1], &device),
            correct: Tensor::zeros([1], &device),
            samples: 0,
            start: Instant::now(),
            waited: ddp.stats().wait.as_secs_f64(),
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

    /// Adds up over all ranks.
    fn finish(self, group: &ProcessGroup, ddp: &Ddp) -> Result<Epoch, Failure> {
        let seconds = self.start.elapsed().as_secs_f64();
        let mut figures = [
            self.samples as f64,
            f64::from(self.loss.try_into_scalar::<f32>()?),
            self.correct.try_into_scalar::<i64>()? as f64,
            ddp.stats().wait.as_secs_f64() - self.waited,
        ];
        group.all_reduce(&mut figures, ReduceOp::Sum)?;
        let [samples, loss, correct, waited] = figures;
        Ok(Epoch {
            samples,
            loss: loss / samples.max(1.0),
            accuracy: correct / samples.max(1.0),
            seconds,
            sync_wait_fraction: waited / group.world_size() as f64 / seconds,
        })
    }
}
