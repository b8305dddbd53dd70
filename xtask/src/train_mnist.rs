//! `cargo xtask train-mnist`: chooses the features that the backend needs and starts `mnist` of the
//! examples crate, which has the same training flags and does the work.

use crate::cargo::{Call, Error};
use crate::machine::{Backend, Machine};
use clap::ValueEnum;
use std::path::PathBuf;
use std::process::ExitCode;

/// The flags, all of them passed on to the program.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Replicas to train, each on a device of its own (for the CPU backend: a share of the cores)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one())]
    gpus: u32,

    /// What to train on; `auto` takes NVIDIA GPUs if there are any, else other GPUs, else the CPU
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    backend: Choice,

    /// Passes over the training digits
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = at_least_one())]
    epochs: u32,

    /// Samples per replica and step; a step trains on this times the replicas
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one())]
    batch_size: u32,

    /// Learning rate, above 0
    #[arg(long, value_name = "RATE", default_value_t = 0.01, value_parser = learning_rate)]
    lr: f64,

    /// Seed of the initial parameters, the order of samples and dropout
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    seed: u64,

    /// Folder with the four files of MNIST or a set in its format, plain or gzipped [default: the
    /// 10,000 digits that the program holds]
    #[arg(long, value_name = "DIR", conflicts_with = "download")]
    data_dir: Option<PathBuf>,

    /// Train on the full MNIST: download it once into the user's cache folder [default: off]
    #[arg(long)]
    download: bool,

    /// Folder for the model, metrics.csv and the plot; made if missing
    #[arg(long, value_name = "DIR", default_value = "runs/mnist")]
    output: PathBuf,

    /// Write a JSON report of the run to this file [default: none]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Let replicas share a GPU where there are fewer GPUs than replicas [default: off]
    #[arg(long)]
    oversubscribe: bool,
}

/// The values of `--backend`.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The best that this machine has
    Auto,
    /// NVIDIA GPUs
    Cuda,
    /// GPUs through Vulkan, Metal or Direct3D
    Wgpu,
    /// The CPU, each replica with its share of the cores
    Cpu,
}

impl Choice {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::Cpu => "cpu",
        }
    }

    /// The backend to build. `auto` looks at the machine.
    fn to_build(self, machine: impl FnOnce() -> Machine) -> Backend {
        match self {
            Self::Auto => machine().best_backend(),
            Self::Cuda => Backend::Cuda,
            Self::Wgpu => Backend::Wgpu,
            Self::Cpu => Backend::Cpu,
        }
    }
}

/// Builds the program and lets it take over.
///
/// # Errors
///
/// When cargo cannot be started.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let call = call(args, args.backend.to_build(Machine::observe));
    eprintln!("{call}");
    call.hand_over()
}

/// The call of cargo that builds the program for `backend` and runs it with the flags.
fn call(args: &Args, backend: Backend) -> Call {
    // The CPU backend is always built: replicas fall back to it.
    let mut features = String::from("flex");
    match backend {
        Backend::Cuda => features.push_str(",cuda"),
        Backend::Wgpu => features.push_str(",wgpu"),
        Backend::Cpu => {}
    }
    if args.download {
        features.push_str(",download");
    }

    let mut call = Call::new([
        "run",
        "--release",
        "--package",
        "examples",
        "--bin",
        "mnist",
    ]);
    call.arg("--no-default-features")
        .arg("--features")
        .arg(features)
        .arg("--");
    // `auto` stays `auto`: the program knows better which devices it can use than a look at the
    // machine's files.
    call.arg("--backend").arg(args.backend.name());
    call.arg("--gpus").arg(args.gpus.to_string());
    call.arg("--epochs").arg(args.epochs.to_string());
    call.arg("--batch-size").arg(args.batch_size.to_string());
    call.arg("--lr").arg(args.lr.to_string());
    call.arg("--seed").arg(args.seed.to_string());
    call.arg("--output").arg(&args.output);
    if let Some(folder) = &args.data_dir {
        call.arg("--data-dir").arg(folder);
    }
    if let Some(file) = &args.report {
        call.arg("--report").arg(file);
    }
    for (set, flag) in [
        (args.download, "--download"),
        (args.oversubscribe, "--oversubscribe"),
    ] {
        if set {
            call.arg(flag);
        }
    }
    call
}

fn at_least_one() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

fn learning_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        Ok(rate) => Err(format!("{rate} is not a number above 0")),
        Err(cause) => Err(cause.to_string()),
    }
}

#[cfg(test)]
mod tests;
