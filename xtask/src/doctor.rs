//! `cargo xtask doctor`: looks at what needs no Burn (port, interfaces, GPUs, cores), and then starts
//! `doctor` of the examples, which measures the rest; with `--nodes`, several processes of it.
//!
//! What can be seen to be wrong before the build is told before it.

#[path = "../../examples/doctor/options.rs"]
mod options;

use crate::error::Error;
use crate::interface;
use crate::job_options::JobOptions;
use crate::machine::{Backend, Machine};
use crate::program::{Program, to_build};
use clap::{Args, value_parser};
use options::Options;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;

/// The port of a job that is told none.
const PORT: u16 = 29_500;

/// The flags of `doctor`, and what to try on this machine.
#[derive(Args, Clone, Debug)]
#[command(after_help = ABOUT)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,

    /// Processes to measure, each with --gpus replicas, as if each had a machine of its own
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1024))]
    nodes: u32,

    /// Port at which the job's processes will meet: whether it is free [default: MASTER_PORT, else 29500]
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    master_port: Option<u16>,
}

const ABOUT: &str = "\
It measures this machine. To measure a cluster, start the program itself as the job will be started, with
the same flags: `srun target/release/doctor --gpus 4 --backend cuda`, for one.

The exit code is 1 where something is wrong that the job would fail on, else 0.";

/// Looks, builds the program, and lets it measure.
///
/// # Errors
///
/// When the port or the interface is of no use, or cargo or the program can't be started.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    let Arguments {
        options,
        nodes,
        master_port,
    } = arguments;
    look(&options.job, *nodes);
    let chosen = chosen_port(*master_port, std::env::var_os("MASTER_PORT"))?;
    let port = chosen.unwrap_or(PORT);
    match (try_port(port), chosen) {
        (Ok(()), _) => eprintln!("port {port} is free"),
        (Err(error), Some(_)) => return Err(error),
        // Nobody has asked for this one.
        (Err(error), None) => eprintln!("warning: {error}"),
    }
    let mut job = options.job.clone();
    if *nodes == 1 {
        // There is nobody to reach; whether the interface is there can be told all the same.
        if let Some(name) = job.interface.take() {
            let address = interface::find(&name)?;
            eprintln!("--interface {name}: this process would be reached at {address}");
        }
    }
    let program = Program {
        name: "doctor",
        job: &job,
        features: &[],
        flags: flags(options),
    };
    program.run(*nodes, chosen)
}

/// Says what this machine has.
fn look(job: &JobOptions, nodes: u32) {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let machine = Machine::observe();
    let gpus = match machine.best_backend() {
        Backend::Cuda => "an NVIDIA GPU with its driver",
        Backend::Wgpu => "a GPU without CUDA",
        Backend::Cpu => "no GPU that a backend could use",
    };
    let built = match to_build(job.backend, || machine) {
        Backend::Cuda => "cuda",
        Backend::Wgpu => "wgpu",
        Backend::Cpu => "cpu",
    };
    eprintln!("this machine: {cores} core(s), {gpus} (backend {built} is built)");
    eprintln!("interfaces: {}", interface::described(&interface::all()));
    eprintln!("{nodes} process(es) of {} replica(s)", job.gpus);
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

/// Whether a program could listen on the port, at whatever address of this machine.
fn try_port(port: u16) -> Result<(), Error> {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => Err(Error::PortTaken { port }),
        Err(cause) => Err(Error::Port { port, cause }),
    }
}

/// The flags for the program beside those of all programs.
fn flags(options: &Options) -> Vec<OsString> {
    let mut flags = Vec::new();
    let mut pair = |flag: &str, value: OsString| flags.extend([flag.into(), value]);
    pair("--batch-size", options.batch_size.to_string().into());
    pair("--timeout", options.timeout.to_string().into());
    if let Some(size) = options.bucket_cap_mb {
        pair("--bucket-cap-mb", size.to_string().into());
    }
    if let Some(file) = &options.json {
        pair("--json", file.into());
    }
    flags
}

#[cfg(test)]
mod tests;
