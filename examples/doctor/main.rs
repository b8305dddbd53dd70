//! Measures what a job will meet before it starts, with the CNN of the `mnist` example: what
//! `cargo xtask doctor` runs. Started as the job itself will be (by `srun`, `torchrun`, ...), it measures
//! that job; for another model, copy this file.
//!
//! The report goes to stdout; the exit code is 1 where a finding is an error or measuring failed, else 0.

#[path = "../job/options.rs"]
mod job_options;
mod options;
#[path = "../job/place.rs"]
mod place;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::Dataset;
use burn::nn::loss::CrossEntropyLossConfig;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::{Devices, Launcher, Worker};
use burn_dist::preflight::{Finding, Preflight, Report, Severity, Topic};
use burn_dist::random;
use clap::Parser;
use datasets::{MnistBatch, MnistBatcher, SyntheticMnist};
use models::{MnistCnn, MnistCnnConfig};
use options::Options;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

type Failure = Box<dyn Error + Send + Sync>;

/// Measure what a job will meet before it starts.
#[derive(Parser)]
#[command(name = "doctor", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let options = Cli::parse().options;
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(&options) {
        Ok(worst) if worst < Some(Severity::Error) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The severity of the worst finding.
fn run(options: &Options) -> Result<Option<Severity>, Failure> {
    let timeout = Duration::from_secs(options.timeout.into());
    let join_timeout = options.job.join_timeout.unwrap_or(timeout);
    let job = place::place(&options.job)?.map(|job| {
        let declared = [("--batch-size", options.batch_size.to_string())];
        job.with_join_timeout(join_timeout).with_options(declared)
    });
    let first = job.as_ref().is_none_or(|job| job.process() == 0);
    // Where the report can't be written is told before it is made.
    let json = match &options.json {
        Some(path) if first => Some(create(path)?),
        _ => None,
    };
    let Devices { devices, note, .. } =
        place::or_abandon(job.as_ref(), place::devices(job.as_ref(), &options.job))?;
    let preflight = preflight(options, note);

    let timeout = options.job.collective_timeout.unwrap_or(timeout);
    let launcher = Launcher::new(devices).with_timeout(timeout).with_job(job);
    let reports = launcher.run(|worker| examine(&worker, options, &preflight))?;
    // All ranks have the same one.
    let report = reports.first().ok_or("no replica was started")?;
    if first {
        // Nobody may read it; the exit code says the worst all the same.
        let _ = write!(std::io::stdout(), "{report}");
    }
    if let (Some(file), Some(path)) = (json, &options.json) {
        write_json(file, report)
            .map_err(|cause| format!("can't write the report to {}: {cause}", path.display()))?;
    }
    Ok(report.worst())
}

fn preflight(options: &Options, note: Option<String>) -> Preflight {
    let mut plan = DdpConfig::new();
    if let Some(size) = options.bucket_cap_mb {
        plan = plan.with_bucket_cap_mb(size);
    }
    let preflight = Preflight::new().with_plan(plan);
    match note {
        Some(message) => preflight.with_known(Finding {
            severity: Severity::Note,
            topic: Topic::Devices,
            message,
        }),
        None => preflight,
    }
}

/// What each replica runs.
fn examine(worker: &Worker, options: &Options, preflight: &Preflight) -> Result<Report, Failure> {
    let device = worker.device();
    random::seed(0, worker.rank());
    let model = random::init(0, device, |device| MnistCnnConfig::new().init(device));
    let digits = SyntheticMnist::new(options.batch_size as usize, 0);
    let digits = digits.iter().collect::<Result<Vec<_>, _>>()?;
    let MnistBatch { images, targets } = MnistBatcher.batch(digits, device);
    let criterion = CrossEntropyLossConfig::new().init(device);
    Ok(preflight.run(worker, &model, |model: &MnistCnn| {
        criterion.forward(model.forward(images.clone()), targets.clone())
    })?)
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path)
        .map_err(|cause| format!("can't write the report to {}: {cause}", path.display()))
}

fn write_json(file: File, report: &Report) -> std::io::Result<()> {
    let mut file = BufWriter::new(file);
    serde_json::to_writer_pretty(&mut file, report)?;
    writeln!(file)?;
    file.flush()
}
