//! The flags of both programs, and what comes of them.

#[path = "../job/options.rs"]
mod job_options;
#[path = "../job/observe.rs"]
mod observe;
#[path = "../job/observe_options.rs"]
mod observe_options;
#[path = "../job/place.rs"]
mod place;

use burn::data::dataset::Dataset;
use burn::train::{LearnerModel, SupervisedTraining};
use burn_dist::launch::Launcher;
use burn_dist::train::Distributed;
use clap::value_parser;
use datasets::{MnistDataset, MnistSplit};
use observe::Observation;
use observe_options::ObserveOptions;
use std::error::Error;
use std::path::PathBuf;

type Failure = Box<dyn Error + Send + Sync>;

/// Train a CNN on handwritten digits with burn-train.
#[derive(Clone, Debug, clap::Parser)]
pub(crate) struct Options {
    /// Passes over the training digits
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = value_parser!(u32).range(1..))]
    epochs: u32,

    /// Samples of a step, whatever the number of replicas
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=65536))]
    batch_size: u32,

    /// Learning rate at the start; it falls to zero along a cosine
    #[arg(long, value_name = "RATE", default_value_t = 0.03)]
    pub(crate) lr: f64,

    /// Seed of the initial parameters and the order of samples
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub(crate) seed: u64,

    /// Folder with the four files of MNIST or a set in its format [default: the 10,000 digits that the
    /// program holds]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Folder for burn-train's logs; made if missing
    #[arg(long, value_name = "DIR", default_value = "runs/learner")]
    pub(crate) output: PathBuf,

    /// Write a JSON report of the run to this file [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Keep the checkpoints of burn-train in OUTPUT/checkpoint, one an epoch [default: none]
    #[arg(long)]
    checkpoint: bool,

    /// Go on after this epoch, from the checkpoint of an earlier run with the same OUTPUT
    /// [default: begin anew]
    #[arg(long, value_name = "EPOCH", value_parser = value_parser!(u32).range(1..))]
    resume: Option<u32>,

    /// Where metrics go for TensorBoard: a flag of the distributed program's.
    #[arg(skip)]
    pub(crate) log_dir: Option<PathBuf>,
}

/// What to train and test on.
pub(crate) struct Digits {
    pub(crate) train: MnistDataset,
    pub(crate) test: MnistDataset,
}

impl Digits {
    pub(crate) fn train_len(&self) -> usize {
        self.train.len()
    }
}

impl Options {
    #[allow(dead_code, reason = "the distributed program has more flags")]
    pub(crate) fn parse() -> Self {
        <Self as clap::Parser>::parse()
    }

    #[allow(dead_code, reason = "the plain program is no job")]
    fn declared(&self) -> Vec<(&'static str, String)> {
        let resume = self
            .resume
            .map_or("none".to_owned(), |epoch| epoch.to_string());
        vec![
            ("--epochs", self.epochs.to_string()),
            ("--batch-size", self.batch_size.to_string()),
            ("--lr", self.lr.to_string()),
            ("--seed", self.seed.to_string()),
            ("--checkpoint", self.checkpoint.to_string()),
            ("--resume", resume),
        ]
    }

    pub(crate) fn epochs(&self) -> usize {
        self.epochs as usize
    }

    pub(crate) fn batch_size(&self) -> usize {
        self.batch_size as usize
    }

    /// Has checkpoints written and read.
    pub(crate) fn keep<M: LearnerModel>(
        &self,
        training: SupervisedTraining<M>,
    ) -> Result<SupervisedTraining<M>, Failure> {
        let Some(epoch) = self.resume else {
            return Ok(if self.checkpoint {
                training.with_default_checkpointers()
            } else {
                training
            });
        };
        let folder = self.output.join("checkpoint");
        if !folder.join(format!("model-{epoch}.bpk")).is_file() {
            let folder = folder.display();
            return Err(format!(
                "there is no checkpoint of epoch {epoch} in {folder}: burn-train keeps the last two; choose one of \
                 those, or begin anew without --resume"
            )
            .into());
        }
        if epoch >= self.epochs {
            let epochs = self.epochs;
            return Err(
                format!("--resume {epoch} has nothing left to do of --epochs {epochs}").into(),
            );
        }
        let training = training.with_default_checkpointers();
        Ok(training.checkpoint(epoch as usize))
    }

    pub(crate) fn digits(&self) -> Result<Digits, Failure> {
        let split = |split| match &self.data_dir {
            Some(folder) => MnistDataset::from_dir(folder, split),
            None => MnistDataset::embedded(split),
        };
        Ok(Digits {
            train: split(MnistSplit::Train)?,
            test: split(MnistSplit::Test)?,
        })
    }
}

/// The flags of the distributed program.
#[allow(dead_code, reason = "the plain program has none of a job's")]
#[derive(clap::Parser)]
pub(crate) struct JobFlags {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(flatten)]
    pub(crate) job: Job,
}

/// On which devices, as which process of a job, and what is written down of it.
#[allow(dead_code, reason = "the plain program is no job")]
#[derive(clap::Args)]
pub(crate) struct Job {
    #[command(flatten)]
    options: job_options::JobOptions,
    #[command(flatten)]
    observe: ObserveOptions,
    #[arg(skip)]
    observation: Option<Observation>,
    /// What must be the same in all processes.
    #[arg(skip)]
    declared: Vec<(&'static str, String)>,
}

#[allow(dead_code, reason = "the plain program is no job")]
impl JobFlags {
    /// The flags of this process, which is logged from now on.
    pub(crate) fn parse() -> Self {
        let mut flags = <Self as clap::Parser>::parse();
        let job = &mut flags.job;
        job.declared = flags.options.declared();
        job.observation = Some(Observation::begin(&job.observe));
        flags.options.log_dir.clone_from(&job.observe.log_dir);
        flags
    }
}

#[allow(dead_code, reason = "the plain program is no job")]
impl Job {
    /// What trains on this job's devices.
    pub(crate) fn launcher(&self) -> Result<Launcher, Failure> {
        let job = place::place(&self.options)?;
        let job = job.map(|job| job.with_options(self.declared.iter().cloned()));
        let devices = place::or_abandon(job.as_ref(), place::devices(job.as_ref(), &self.options))?;
        if let Some(note) = devices.note {
            eprintln!("{note}");
        }
        Ok(place::launcher(devices.devices, job, &self.options))
    }

    /// Has the strategy tell what listens.
    pub(crate) fn observe(&mut self, strategy: Distributed) -> Result<Distributed, Failure> {
        let Some(observation) = &mut self.observation else {
            return Ok(strategy);
        };
        observation.open(&self.observe, place::place(&self.options)?.as_ref())?;
        if let Some(address) = observation.outputs.metrics_address() {
            println!("metrics at http://{address}/metrics");
        }
        Ok(strategy.with_outputs(std::mem::take(&mut observation.outputs)))
    }

    /// Completes the trace.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        self.observation.map_or(Ok(()), Observation::finish)
    }
}
