//! The flags of `mnist`, and of `cargo xtask train-mnist`, which shares this file: it needs clap
//! alone, and the flags of all programs.

use crate::job_options::JobOptions;
use crate::observe_options::ObserveOptions;
use clap::{Args, value_parser};
use std::path::PathBuf;

/// What to train, on what, and what to write.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) job: JobOptions,

    /// Passes over the training digits
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = value_parser!(u32).range(1..))]
    pub(crate) epochs: u32,

    /// Samples per replica and step; a step trains on this times the replicas
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..=65536))]
    pub(crate) batch_size: u32,

    /// Learning rate at the start; it falls to zero along a cosine
    #[arg(long, value_name = "RATE", default_value_t = 0.03, value_parser = learning_rate)]
    pub(crate) lr: f64,

    /// Seed of the initial parameters, the order of samples, and dropout
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub(crate) seed: u64,

    /// Folder with the four files of MNIST or a set in its format, plain or gzipped [default: the
    /// 10,000 digits that the program holds]
    #[arg(long, value_name = "DIR", conflicts_with = "download")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Train on the full MNIST: download it once into the user's cache folder [default: off]
    #[arg(long)]
    pub(crate) download: bool,

    /// Folder for the model, metrics.csv and the plot; made if missing
    #[arg(long, value_name = "DIR", default_value = "runs/mnist")]
    pub(crate) output: PathBuf,

    /// Write a JSON report of the run to this file [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Folder for what each rank did last, if ranks wait for one another in vain [default: one among the
    /// system's temporary files, which is told then]
    #[arg(long, value_name = "DIR")]
    pub(crate) records: Option<PathBuf>,

    /// Folder for checkpoints, which only process 0 uses; made if missing [default: none are written]
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint: Option<PathBuf>,

    /// Steps from one checkpoint to the next
    #[arg(long, value_name = "N", default_value_t = 100, requires = "checkpoint", value_parser = value_parser!(u32).range(1..))]
    pub(crate) checkpoint_every: u32,

    /// How many checkpoints to keep
    #[arg(long, value_name = "K", default_value_t = 3, requires = "checkpoint", value_parser = value_parser!(u32).range(1..))]
    pub(crate) keep: u32,

    /// Go on from the last checkpoint, with the same flags; from the beginning if there is none
    /// [default: the folder must have none]
    #[arg(long, requires = "checkpoint")]
    pub(crate) resume: bool,
    #[command(flatten)]
    pub(crate) observe: ObserveOptions,
}

fn learning_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        Ok(rate) => Err(format!("{rate} is not a number above 0")),
        Err(cause) => Err(cause.to_string()),
    }
}
