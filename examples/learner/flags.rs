//! The flags of both programs, and what comes of them.

#[path = "../job/options.rs"]
mod job_options;
#[path = "../job/place.rs"]
mod place;

use burn::data::dataset::Dataset;
use burn_dist::launch::Launcher;
use clap::{Parser, value_parser};
use datasets::{MnistDataset, MnistSplit};
use std::error::Error;
use std::path::PathBuf;

type Failure = Box<dyn Error + Send + Sync>;

/// Train a CNN on handwritten digits with burn-train.
#[derive(Clone, Debug, Parser)]
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
    pub(crate) fn epochs(&self) -> usize {
        self.epochs as usize
    }

    pub(crate) fn batch_size(&self) -> usize {
        self.batch_size as usize
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
#[derive(Debug, Parser)]
pub(crate) struct JobFlags {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(flatten)]
    pub(crate) job: Job,
}

/// On which devices, as which process of a job.
#[allow(dead_code, reason = "the plain program is no job")]
#[derive(Debug, clap::Args)]
pub(crate) struct Job {
    #[command(flatten)]
    options: job_options::JobOptions,
}

#[allow(dead_code, reason = "the plain program is no job")]
impl Job {
    pub(crate) fn launcher(&self) -> Result<Launcher, Failure> {
        let job = place::place(&self.options)?;
        let devices = place::devices(job.as_ref(), &self.options)?;
        Ok(Launcher::new(devices.devices).job(job))
    }
}
