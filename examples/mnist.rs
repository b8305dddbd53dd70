//! Trains a CNN on handwritten digits, data-parallel over the devices and processes of a job. `--help` lists the
//! flags. A copy of this file is a start for a program of your own.

use burn::data::dataset::Dataset;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{ModuleOptimizer, SgdConfig, momentum::MomentumConfig};
use burn::tensor::Tensor;
use burn_dist::cli::{BatchArgs, CheckpointArgs, Job, JobArgs, OutputArgs, Report, RunCheckpoints};
use burn_dist::data::{ShardedBatch, ShardedLoader};
use burn_dist::ddp::{Ddp, DdpConfig, SyncStats};
use burn_dist::launch::{Interrupt, Worker};
use burn_dist::observe::{self, History, StepMonitor};
use burn_dist::random;
use clap::{Parser, value_parser};
use datasets::{Mnist, MnistBatch, MnistBatcher, MnistDataset};
use indicatif::ProgressBar;
use models::{MnistCnn, MnistCnnConfig};
use std::f64::consts::PI;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Train a CNN on handwritten digits, data-parallel.
#[derive(Parser)]
#[command(name = "mnist", version, mut_arg("batch_size", |arg| arg.default_value("16")))]
#[command(mut_arg("output", |arg| arg.default_value("runs/mnist")))]
struct Args {
    /// Passes over the training digits
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = value_parser!(u32).range(1..))]
    epochs: u32,
    /// Learning rate at the start; it falls to zero along a cosine
    #[arg(long, value_name = "RATE", default_value_t = 0.03)]
    lr: f64,
    /// Seed of the initial parameters, the order of samples, and dropout
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    seed: u64,
    /// Folder with the four files of MNIST or a set in its format, plain or gzipped [default: the 10,000 digits
    /// that the program holds]
    #[arg(long, value_name = "DIR", conflicts_with = "download")]
    data_dir: Option<PathBuf>,
    /// Train on the full MNIST: download it once into the user's cache folder [default: off]
    #[arg(long)]
    download: bool,
    #[command(flatten)]
    batch: BatchArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    checkpoints: CheckpointArgs,
}

fn main() -> ExitCode {
    let interrupt = Interrupt::listen();
    let run = |interrupt: &Interrupt| run(&Args::parse(), interrupt);
    let outcome = interrupt
        .as_ref()
        .map_err(|error| error.clone().into())
        .and_then(run);
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {error}");
    interrupt.map_or(ExitCode::FAILURE, |interrupt| interrupt.exit_code())
}

/// Prints a line. Training goes on if nobody reads it.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn run(args: &Args, interrupt: &Interrupt) -> Result<()> {
    let job = args.job.init()?;
    if args.download {
        say("looking for the full MNIST in the cache folder, downloading what is missing");
    }
    // Failures that need no training come first, and the job's other processes hear of them.
    let digits = match &args.data_dir {
        None if args.download => Mnist::download(),
        directory => Mnist::open(directory.as_deref()),
    };
    let digits = job.or_abandon(digits)?;
    job.or_abandon(args.output.check(6 << 20))?;
    let checksums = [&digits.train, &digits.test].map(MnistDataset::checksum);
    let [batch_size, global_batch_size] = args.batch.settings();
    let job = job.with_options(args.checkpoints.options()).with_settings([
        ("--epochs", args.epochs.to_string()),
        ("--lr", args.lr.to_string()),
        ("--seed", args.seed.to_string()),
        ("checksums of the digits", format!("{checksums:x?}")),
        batch_size,
        global_batch_size,
    ]);
    let first = job.process() == 0;
    if first {
        let (train, test) = (digits.train.len(), digits.test.len());
        say(format!("{train} training and {test} test digits, {job}"));
    }
    let run = Run {
        args,
        job: &job,
        digits: &digits,
        interrupt,
    };
    // All ranks end with the same.
    let ranks = job.launcher().run(|worker| run.train(&worker))?;
    let (model, history, report, unfinished) = ranks.first().ok_or("no replica was started")?;
    if first {
        say(report);
        args.output.save(model, history, report)?;
        say(format!("results in {}", args.output.output.display()));
    }
    job.finish()?;
    unfinished.clone().map_or(Ok(()), |why| Err(why.into()))
}

/// Settings and data that every rank trains with.
struct Run<'a> {
    args: &'a Args,
    job: &'a Job,
    digits: &'a Mnist,
    interrupt: &'a Interrupt,
}

/// A replica after a step of its training, and what belongs to it.
struct Replica {
    model: MnistCnn,
    optimizer: ModuleOptimizer,
    step: u64,
    history: History<2>,
    loader: Arc<ShardedLoader<MnistBatch>>,
    checkpoints: RunCheckpoints,
}

impl Replica {
    /// Trains on a batch, together with the other replicas.
    fn step(mut self, ddp: &Ddp, batch: ShardedBatch<MnistBatch>, rate: f64) -> Result<Self> {
        let (batch, real, all) = (batch.batch, batch.real, batch.total_real);
        let [loss, accuracy] = observe::forward(|| forward(&self.model, batch, real));
        self.history.add([loss.clone(), accuracy], real);
        // The mean over ranks is that over samples, also where ranks have unequal numbers of them.
        let weight = (real * self.loader.sampler().world_size()) as f64 / all as f64;
        let gradients = observe::backward(|| loss.mul_scalar(weight).backward());
        let gradients = ddp.synchronize(gradients, &self.model)?;
        self.model = observe::optimizer(|| self.optimizer.step(rate, self.model, gradients));
        self.step += 1;
        Ok(self)
    }

    fn save(&mut self, ddp: &Ddp) -> Result<()> {
        let state = self.history.state(ddp.stats())?;
        self.checkpoints.save(self.step, |snapshot| {
            snapshot
                .with_model("model", &self.model)
                .with_optimizer("optimizer", &self.optimizer)
                .with_sampler(self.loader.state())
                .with_own("history", &state)
        })?;
        Ok(())
    }
}

impl Run<'_> {
    /// Makes a replica, as new or as its last checkpoint has it.
    fn start(&self, worker: &Worker) -> Result<Replica> {
        let (args, group, device) = (self.args, worker.group(), worker.device());
        random::seed(args.seed, worker.rank());
        let config = args.batch.loader().with_num_workers(1);
        let config = config.with_seed(Some(args.seed));
        let loader = config.init(group, device, MnistBatcher, self.digits.train.clone())?;
        let momentum = MomentumConfig::new().with_momentum(0.9);
        let (checkpoints, restored) = args.checkpoints.init(group, self.job.settings())?;
        let news = match &restored {
            Some(it) => format!(
                "going on after step {}, from {}",
                it.step(),
                it.path().display()
            ),
            None => "there is no checkpoint yet".into(),
        };
        if worker.rank() == 0 && args.checkpoints.resume {
            say(news);
        }
        let mut replica = Replica {
            model: random::init(args.seed, device, |it| MnistCnnConfig::new().init(it)),
            optimizer: SgdConfig::new().with_momentum(Some(momentum)).init(),
            step: 0,
            history: History::new(group, ["loss", "accuracy"]),
            loader,
            checkpoints,
        };
        if let Some(mut restored) = restored {
            replica.loader.resume(&restored.sampler()?)?;
            restored.random();
            replica.model = restored.model("model", replica.model)?;
            replica.optimizer = restored.optimizer("optimizer", replica.optimizer)?;
            let history = restored.own("history")?;
            replica.history.resume(history, device)?;
            replica.step = restored.step();
        }
        Ok(replica)
    }

    /// Trains this rank's replica together with the others. Returns the model, its history, a report, and why the
    /// run is not whole, if it is not.
    fn train(&self, worker: &Worker) -> Result<(MnistCnn, History<2>, Report, Option<String>)> {
        let (args, group) = (self.args, worker.group());
        let interrupt = self.interrupt.watch(group);
        let mut replica = self.start(worker)?;
        let ddp = DdpConfig::new().init(group)?;
        replica.model = ddp.attach(replica.model)?;
        let mut monitor = StepMonitor::new(group)?
            .with_outputs(&self.job.outputs())
            .with_first_step(replica.step);
        let total = replica.loader.num_batches() as u64 * u64::from(args.epochs);
        let bar = (worker.rank() == 0).then(|| ProgressBar::new(total));
        let mut stopped = None;
        'training: for epoch in replica.history.epochs().len()..args.epochs as usize {
            for batch in replica.loader.batches() {
                let (real, batch) = batch.map(|it| (it.real, it))?;
                let done = replica.step as f64 / total as f64;
                let rate = args.lr * 0.5 * (1.0 + (PI * done).cos());
                replica = replica.step(&ddp, batch, rate)?;
                monitor.step(real, ddp.stats())?;
                let step = replica.step;
                bar.as_ref().inspect(|bar| bar.set_position(step));
                // After the last step there is nothing left to interrupt.
                let why = interrupt.requested()?.filter(|_| step < total);
                stopped = why.map(|why| format!("interrupted at step {step} of {total}: {why}"));
                let over = replica.loader.state().epoch > epoch as u64;
                if over {
                    let figures = replica.history.end_epoch(ddp.stats())?;
                    monitor.scalars("train", &figures.means);
                    let line = || say(format!("epoch {:>2}/{}  {figures}", epoch + 1, args.epochs));
                    bar.as_ref().inspect(|bar| bar.suspend(line));
                }
                let save = replica.checkpoints.is_due(step) || step == total || stopped.is_some();
                if save {
                    replica.save(&ddp)?;
                }
                if save || over {
                    monitor.begin(ddp.stats());
                }
                if stopped.is_some() {
                    break 'training;
                }
            }
        }
        bar.iter().for_each(ProgressBar::finish_and_clear);
        monitor.finish()?;
        if replica.loader.state().consumed > 0 {
            replica.history.end_epoch(ddp.stats())?;
        }
        let global_batch_size = replica.loader.sampler().global_batch_size();
        let report = Report::new(&ddp, &replica.model, &replica.history)?
            .with_value("backend", self.job.devices().backend.to_string())
            .with_value("global_batch_size", global_batch_size)
            .with_value("learning_rate", args.lr)
            .with_value("seed", args.seed)
            .with_value("test_accuracy", self.test(worker, &replica.model)?)
            .with_value("interrupted", stopped.is_some());
        let unfinished = replica.checkpoints.finish(stopped)?;
        Ok((replica.model, replica.history, report, unfinished))
    }

    /// Returns the share of the held-out digits that the model names rightly, over all ranks.
    fn test(&self, worker: &Worker, model: &MnistCnn) -> Result<f64> {
        let (group, device) = (worker.group(), worker.device().clone().without_autodiff());
        let (model, digits) = (model.valid(), self.digits.test.clone());
        let config = self.args.batch.loader();
        let loader = config.init(group, &device, MnistBatcher, digits)?;
        let mut history = History::new(group, ["loss", "accuracy"]);
        for batch in loader.batches() {
            let batch = batch?;
            history.add(forward(&model, batch.batch, batch.real), batch.real);
        }
        Ok(history.end_epoch(SyncStats::default())?.means[1].1)
    }
}

/// Returns the mean loss of the first `real` digits of a batch, and the share that the model names rightly.
fn forward(model: &MnistCnn, batch: MnistBatch, real: usize) -> [Tensor<1>; 2] {
    // Padding comes last. A rank without samples has padding alone, which counts for nothing.
    let rows = real.max(1);
    let output = model.forward(batch.images).narrow(0, 0, rows);
    let targets = batch.targets.narrow(0, 0, rows);
    let named = output.clone().detach().without_autodiff();
    let named = named.argmax(1).flatten::<1>(0, 1);
    let accuracy = named.equal(targets.clone()).float().mean();
    let criterion = CrossEntropyLossConfig::new().init(&output.device());
    [criterion.forward(output, targets), accuracy]
}
