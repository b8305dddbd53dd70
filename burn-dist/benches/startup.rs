//! Times how long the processes of a job on this machine take to come together.
//!
//! Prints two lines of JSON, the medians of some rounds: `startup`, the slowest process's time from its
//! call of the launcher to the end of the first barrier of all; and `startup-processes`, the time from
//! before the first process was started to the same end, which is of the operating system for a part.
//!
//! With `--launched`, this program is one process of a job that a launcher has started: rank 0 prints one line,
//! `launch`, the time from `--began` to the end of the first barrier, and, as `counts`, the most threads and memory of
//! all processes after it.

mod processes;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use burn::tensor::Device;
use burn_dist::launch::{Launcher, Worker};
use burn_dist::{JobConfig, ReduceOp};
use clap::Parser;
use processes::{Layout, Result, Stop};
use report::{Measurement, median};

#[derive(Debug, Parser)]
struct Options {
    /// Number of processes.
    #[arg(long, default_value_t = 8)]
    ranks: usize,
    /// Number of rounds.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Start of the round, given to each of its processes: nanoseconds since 1970.
    #[arg(long, hide = true)]
    began: Option<u64>,
    /// Print a measurement, as a process of a job that a launcher has started.
    #[arg(long, requires = "began")]
    launched: bool,
    /// Flag that `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    match (options.began, JobConfig::from_env()?) {
        (Some(began), Some(job)) => take_part(job, Duration::from_nanos(began), options.launched),
        (Some(_), None) if options.launched => Err("--launched needs a launcher".into()),
        _ => measure(&options),
    }
}

/// Since 1970: a clock that all processes share.
fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// One process of a round. The first one tells the slowest times.
fn take_part(job: JobConfig, began: Duration, launched: bool) -> Result<()> {
    let called = Instant::now();
    let launcher = Launcher::new(vec![Device::flex()])
        .with_job(job)
        .with_threads_per_replica(1);
    launcher.run(|worker: Worker| -> Result<()> {
        worker.group().barrier()?;
        let mut times = [
            called.elapsed().as_secs_f64(),
            now()?.saturating_sub(began).as_secs_f64(),
        ];
        worker.group().all_reduce(&mut times, ReduceOp::Max)?;
        if launched {
            let mut counts = footprint();
            for count in counts.values_mut() {
                let mut most = [*count];
                worker.group().all_reduce(&mut most, ReduceOp::Max)?;
                *count = most[0];
            }
            if worker.rank() == 0 {
                measurement("launch", worker.world_size(), times[1]).print_with(&counts)?;
            }
        } else if worker.rank() == 0 {
            println!("{} {}", times[0], times[1]);
        }
        Ok(())
    })?;
    Ok(())
}

/// Threads and memory of this process, of which 0 is not known on this system.
fn footprint() -> BTreeMap<&'static str, f64> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        let number = value.and_then(|value| value.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap_or(0.0)
    };
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    // The system cuts names off after 15 bytes.
    let replicas = names.filter(|name| name.starts_with("burn-dist-rank-"));
    let threads = field("Threads:");
    BTreeMap::from([
        ("threads", threads),
        (
            "threads beside the replica",
            threads - replicas.count() as f64,
        ),
        ("VmRSS KiB", field("VmRSS:")),
    ])
}

fn measurement(bench: &str, ranks: usize, seconds: f64) -> Measurement<'_> {
    Measurement {
        bench,
        layout: Layout::Processes.name(),
        ranks,
        bytes: 0,
        seconds,
        peer: None,
        peer_seconds: None,
    }
}

fn measure(options: &Options) -> Result<()> {
    let stop = Stop::new()?;
    let (mut joining, mut all) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds.max(1) {
        let times = round(options, &stop)?;
        joining.push(times[0]);
        all.push(times[1]);
    }
    let print = |bench, times: &mut [f64]| measurement(bench, options.ranks, median(times)).print();
    print("startup", &mut joining)?;
    print("startup-processes", &mut all)?;
    Ok(())
}

/// Starts all processes once; gives what the first one tells.
fn round(options: &Options, stop: &Stop) -> Result<[f64; 2]> {
    let began = now()?.as_nanos().to_string();
    let prepare = |command: &mut Command| {
        command.args(["--began", &began]).stdout(Stdio::piped());
    };
    let mut processes = processes::start(options.ranks, None, prepare)?;
    let first = processes.0.first_mut();
    let output = first.and_then(|process| process.stdout.take());
    processes.wait(stop)?;
    let mut told = String::new();
    // It has ended, so all that it wrote is there.
    output
        .ok_or("there is no process")?
        .read_to_string(&mut told)?;
    let (joining, all) = told
        .trim()
        .split_once(' ')
        .ok_or("the process told no times")?;
    Ok([joining.parse()?, all.parse()?])
}
