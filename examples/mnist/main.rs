//! Trains a CNN on handwritten digits, data-parallel over device threads: what
//! `cargo xtask train-mnist` runs. `--help` lists the flags.
//!
//! One file a concern: [`options`] the flags, [`training`] the loop of one replica, [`progress`] what a
//! person sees meanwhile, [`resume`] its checkpoints, [`results`] what is left on disk; [`job_options`],
//! [`place`], [`report`], [`observe_options`] and [`observe`] are those of all programs.

#[path = "../job/options.rs"]
mod job_options;
#[path = "../job/observe.rs"]
mod observe;
#[path = "../job/observe_options.rs"]
mod observe_options;
mod options;
#[path = "../job/place.rs"]
mod place;
mod plot;
mod progress;
#[path = "../job/report.rs"]
mod report;
mod results;
mod resume;
mod training;

use burn::data::dataset::Dataset;
use burn_dist::JobConfig;
use burn_dist::launch::{Devices, Interrupt};
use clap::Parser;
use datasets::{MnistDataset, MnistSplit};
use observe::Observation;
use options::Options;
use progress::say;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use training::Digits;

/// Train a CNN on handwritten digits, data-parallel.
#[derive(Parser)]
#[command(name = "mnist", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let options = Cli::parse().options;
    let mut observation = Observation::begin(&options.observe);
    let interrupt = match Interrupt::listen() {
        Ok(interrupt) => interrupt,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = run(&options, &mut observation, &interrupt);
    // What happened is on disk before the program says how it ended.
    match outcome.and(observation.finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            interrupt.exit_code()
        }
    }
}

fn run(
    options: &Options,
    observation: &mut Observation,
    interrupt: &Interrupt,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    // Where a launcher started this process as one of several, it says so in the environment.
    let job = place::place(&options.job)?;
    // What can fail without training fails first, and the job's other processes hear of it.
    let digits = place::or_abandon(job.as_ref(), load(options))?;
    place::or_abandon(job.as_ref(), results::prepare(options))?;
    let job = job.map(|job| job.with_options(declared(options, &digits)));
    observation.open(&options.observe, job.as_ref())?;
    let first = job.as_ref().is_none_or(|job| job.process() == 0);
    let processes = job.as_ref().map_or(1, JobConfig::processes);
    let Devices {
        devices,
        backend,
        note,
    } = place::or_abandon(job.as_ref(), place::devices(job.as_ref(), &options.job))?;
    if let Some(note) = note {
        say(note);
    }
    if first {
        if let Some(address) = observation.outputs.metrics_address() {
            say(format_args!("metrics at http://{address}/metrics"));
        }
        say(format_args!(
            "{} training and {} test digits, {processes} process(es) with {} replica(s) on {backend}, global batch {}",
            digits.train.len(),
            digits.test.len(),
            devices.len(),
            options.batch_size as usize * devices.len() * processes,
        ));
    }

    let mut launcher = place::launcher(devices, job, &options.job);
    if let Some(folder) = &options.records {
        launcher = launcher.with_records(folder);
    }
    let outputs = &observation.outputs;
    let train = |worker| training::train(&worker, options, &digits, outputs, interrupt);
    let outcomes = launcher.run(train)?;
    // All ranks end with the same figures.
    let outcome = outcomes.first().ok_or("no replica was started")?;
    if first {
        results::save(options, &backend.to_string(), outcome)?;
    }
    outcome
        .unfinished
        .clone()
        .map_or(Ok(()), |why| Err(why.into()))
}

/// What must be the same in all processes: joining refuses a job in which it is not.
fn declared(options: &Options, digits: &Digits) -> Vec<(&'static str, String)> {
    let kept = options.checkpoint.is_some();
    vec![
        ("--epochs", options.epochs.to_string()),
        ("--batch-size", options.batch_size.to_string()),
        ("--lr", options.lr.to_string()),
        ("--seed", options.seed.to_string()),
        ("--checkpoint is given", kept.to_string()),
        ("--checkpoint-every", options.checkpoint_every.to_string()),
        ("--resume", options.resume.to_string()),
        ("number of training digits", digits.train.len().to_string()),
        ("number of test digits", digits.test.len().to_string()),
    ]
}

fn load(options: &Options) -> Result<Digits, Box<dyn Error + Send + Sync>> {
    let folder = match &options.data_dir {
        Some(folder) => Some(folder.clone()),
        None if options.download => Some(download()?),
        None => None,
    };
    let split = |split| match &folder {
        Some(folder) => MnistDataset::from_dir(folder, split),
        None => MnistDataset::embedded(split),
    };
    Ok(Digits {
        train: split(MnistSplit::Train)?,
        test: split(MnistSplit::Test)?,
    })
}

#[cfg(feature = "download")]
fn download() -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
    say("looking for the full MNIST in the cache folder, downloading what is missing");
    Ok(datasets::download::mnist()?)
}

#[cfg(not(feature = "download"))]
fn download() -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
    Err(
        "this program was built without downloads; build it with the feature `download`, as \
         `cargo xtask train-mnist --download` does"
            .into(),
    )
}
