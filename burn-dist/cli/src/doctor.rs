//! `burn-dist doctor`: measures what a job will meet before it starts, with a small CNN. Started as the job itself
//! will be (by `burn-dist run`, `srun`, `torchrun`, ...), it measures that job; a program that calls `Preflight`
//! itself measures another model.
//!
//! The report goes to stdout; the exit code is 1 where a finding is an error or measuring failed, else 0.

use crate::error::Error;
use crate::{Failure, interface};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::cli::LaunchArgs;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::{Devices, Launcher, Worker};
use burn_dist::preflight::{Finding, Preflight, Report, Severity, Topic};
use burn_dist::{JobConfig, random};
use clap::{Args, value_parser};
use models::{MnistCnn, MnistCnnConfig};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Port of a job that is told none.
const PORT: u16 = 29_500;

/// Flags of `burn-dist doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: LaunchArgs,

    /// Samples per replica and step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..=65536))]
    batch_size: u32,

    /// Size of buckets that the job is to train with, in megabytes [default: that of DdpConfig]
    #[arg(long, value_name = "MB", value_parser = megabytes)]
    bucket_cap_mb: Option<f64>,

    /// Seconds to wait for the job's other processes
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u32).range(1..=86400))]
    timeout: u32,

    /// Port at which the job's processes will meet: a doctor that is alone looks whether it is free [default:
    /// MASTER_PORT, else 29500]
    #[arg(long, alias = "master_port", value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    master_port: Option<u16>,

    /// Write the report to this file as JSON, too [default: none]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const ABOUT: &str = "\
Examples:
  burn-dist doctor --gpus 2
      two replicas of this machine
  burn-dist run --nproc-per-node 2 -- burn-dist doctor --gpus 2
      two processes of this machine, with two replicas each
  srun burn-dist doctor --gpus 4 --backend cuda
      the nodes of a Slurm job

The exit code is 1 where something is wrong that the job would fail on, else 0.";

fn megabytes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(size) if size.is_finite() && size > 0.0 => Ok(size),
        Ok(size) => Err(format!("{size} is not a number above 0")),
        Err(cause) => Err(cause.to_string()),
    }
}

/// Measures, writes the report, and returns the exit code.
///
/// # Errors
///
/// If the job can't be joined, measuring fails, or the report can't be written.
pub(crate) fn run(mut options: Arguments) -> Result<ExitCode, Failure> {
    crate::log_to_stderr();
    // A process alone has nobody to reach; the interface and the port can be looked at all the same.
    if JobConfig::from_env()?.is_none() {
        look(&mut options)?;
    } else if options.master_port.is_some() {
        return Err(
            "--master-port is for a doctor that is alone: this one was started as a process of a job, whose port \
             its launcher has chosen"
                .into(),
        );
    }
    let worst = measure(&options)?;
    Ok(if worst < Some(Severity::Error) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Looks at what a process alone can see: cores, interfaces, the port.
fn look(options: &mut Arguments) -> Result<(), Error> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let interfaces = interface::described(&interface::all());
    eprintln!("this machine: {cores} core(s); interfaces: {interfaces}");
    if let Some(name) = options.job.interface.take() {
        let address = interface::find(&name)?;
        eprintln!("--interface {name}: this process would be reached at {address}");
    }
    let chosen = chosen_port(options.master_port, std::env::var_os("MASTER_PORT"))?;
    let port = chosen.unwrap_or(PORT);
    match (try_port(port), chosen) {
        (Ok(()), _) => eprintln!("port {port} is free"),
        (Err(error), Some(_)) => return Err(error),
        // Nobody has asked for this one.
        (Err(error), None) => eprintln!("warning: {error}"),
    }
    Ok(())
}

/// The port that the job is told: by the flag, else by the environment.
fn chosen_port(flag: Option<u16>, variable: Option<OsString>) -> Result<Option<u16>, Error> {
    match (flag, variable) {
        (Some(port), _) => Ok(Some(port)),
        (None, None) => Ok(None),
        (None, Some(value)) => {
            let port = value.to_str().and_then(|text| text.trim().parse().ok());
            let port = port.filter(|&port: &u16| port > 0);
            port.map(Some).ok_or(Error::Variable {
                name: "MASTER_PORT",
                value,
                expected: "a port from 1 to 65535",
            })
        }
    }
}

/// Tries to listen on the port, at every address of this machine.
fn try_port(port: u16) -> Result<(), Error> {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => Err(Error::PortTaken { port }),
        Err(cause) => Err(Error::Port { port, cause }),
    }
}

/// Measures, and returns the severity of the worst finding.
fn measure(options: &Arguments) -> Result<Option<Severity>, Failure> {
    let timeout = Duration::from_secs(options.timeout.into());
    let join_timeout = options.job.join_timeout.unwrap_or(timeout);
    let job = options.job.place()?.map(|job| {
        let declared = [("--batch-size", options.batch_size.to_string())];
        job.with_join_timeout(join_timeout).with_options(declared)
    });
    let first = job.as_ref().is_none_or(|job| job.process() == 0);
    // A report that can't be written is an error before the measurement.
    let json = match &options.json {
        Some(path) if first => Some(create(path)?),
        _ => None,
    };
    let devices = options.job.devices(job.as_ref()).inspect_err(|error| {
        if let Some(job) = &job {
            // A process that can't be told waits until its deadline.
            let _ = job.abandon(error);
        }
    });
    let Devices { devices, note, .. } = devices?;
    let preflight = preflight(options, note);

    let timeout = options.job.collective_timeout.unwrap_or(timeout);
    let launcher = Launcher::new(devices).with_timeout(timeout).with_job(job);
    let reports = launcher.run(|worker| examine(&worker, options, &preflight))?;
    // All ranks have the same one.
    let report = reports.first().ok_or("no replica was started")?;
    if first {
        // Nobody may read it; the exit code says the worst all the same.
        let _ = write!(io::stdout(), "{report}");
    }
    if let (Some(file), Some(path)) = (json, &options.json) {
        write_json(file, report)
            .map_err(|cause| format!("can't write the report to {}: {cause}", path.display()))?;
    }
    Ok(report.worst())
}

fn preflight(options: &Arguments, note: Option<String>) -> Preflight {
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

/// The work of each replica.
fn examine(worker: &Worker, options: &Arguments, preflight: &Preflight) -> Result<Report, Failure> {
    let device = worker.device();
    random::seed(0, worker.rank());
    let model = random::init(0, device, |device| MnistCnnConfig::new().init(device));
    let (images, targets) = batch(options.batch_size as usize, device);
    let criterion = CrossEntropyLossConfig::new().init(device);
    Ok(preflight.run(worker, &model, |model: &MnistCnn| {
        criterion.forward(model.forward(images.clone()), targets.clone())
    })?)
}

/// Images of 28×28 grey values and their classes: a pattern, for only the time counts.
fn batch(size: usize, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let pixels: Vec<f32> = (0..size * 28 * 28)
        .map(|i| (i * 37 % 256) as f32 / 255.0)
        .collect();
    let classes: Vec<i64> = (0..size as i64).map(|i| i % 10).collect();
    (
        Tensor::from_data(TensorData::new(pixels, [size, 1, 28, 28]), device),
        Tensor::from_data(TensorData::new(classes, [size]), device),
    )
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path)
        .map_err(|cause| format!("can't write the report to {}: {cause}", path.display()))
}

fn write_json(file: File, report: &Report) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    serde_json::to_writer_pretty(&mut file, report)?;
    writeln!(file)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_goes_before_the_variable() {
        let variable = |text: &str| Some(OsString::from(text));
        assert_eq!(chosen_port(None, None).unwrap(), None);
        assert_eq!(chosen_port(None, variable("29600")).unwrap(), Some(29600));
        assert_eq!(chosen_port(Some(1), variable("odd")).unwrap(), Some(1));
        for odd in ["", "0", "-1", "65536", "http"] {
            let error = chosen_port(None, variable(odd)).unwrap_err().to_string();
            assert!(
                error.contains("MASTER_PORT") && error.contains("1 to 65535"),
                "{error}"
            );
        }
    }
}
