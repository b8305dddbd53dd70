//! `burn-dist bench`: times all_reduce of f32 slices, by size.
//!
//! Alone, the ranks are threads of this process; started by `burn-dist run`, they are those of all its processes.
//!
//! Imports point one way: `bench` > `tune` > `boundaries`.

mod boundaries;
mod tune;

use crate::Failure;
use burn_dist::launch::{Backend, Devices, Launcher, Worker};
use burn_dist::{JobConfig, ProcessGroup, ReduceOp};
use clap::{Args, Subcommand, value_parser};
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Largest size: a tensor of every rank fits into the memory of a small machine.
const MAX_BYTES: usize = 1 << 30;
/// Fewest and most repetitions of a size.
const REPETITIONS: (usize, usize) = (5, 2000);

/// Ranks, sizes and times of a measurement.
#[derive(Args, Clone, Debug)]
#[command(after_help = ABOUT, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    mode: Option<Mode>,

    /// Ranks of this process, each a thread [default: 2; 1 as a process of a job]
    #[arg(long, alias = "local_ranks", value_name = "N", value_parser = value_parser!(u32).range(1..=256))]
    local_ranks: Option<u32>,

    /// Sizes in bytes, multiples of 4
    #[arg(
        long,
        value_name = "BYTES,...",
        value_delimiter = ',',
        value_parser = size,
        default_value = "1024,65536,1048576,4194304,16777216,67108864"
    )]
    sizes: Vec<usize>,

    /// Seconds that the repetitions of one size take, about
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    budget: f64,

    /// Seconds to wait for the job's other processes, and in an operation for the other ranks
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u32).range(1..=86400))]
    timeout: u32,
}

/// Measurements other than the table of sizes.
#[derive(Subcommand, Clone, Debug)]
enum Mode {
    /// Measure at which sizes collectives should change their algorithm here, and write a file for --crossovers
    Tune(tune::Arguments),
}

const ABOUT: &str = "\
Examples:
  burn-dist bench --local-ranks 4
      four threads of this process
  burn-dist run --nproc-per-node 4 -- burn-dist bench
      four processes of this machine
  burn-dist run --nnodes 2 --node-rank 0 --rdzv 10.0.0.1:29500 -- burn-dist bench
      two machines; on the other one with --node-rank 1

The median is of many repetitions as rank 0 sees them, which begin when all ranks are there. GB/s is the size
divided by the median.";

fn size(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if bytes.is_multiple_of(size_of::<f32>()) && (size_of::<f32>()..=MAX_BYTES).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("not a multiple of 4 from 4 to {MAX_BYTES}"))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.001..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("not from 0.001 to 3600".to_owned())
    }
}

/// Times every size; rank 0 prints the table.
///
/// # Errors
///
/// If the job can't be joined, there is one rank only, or an operation fails.
pub(crate) fn run(options: &Arguments) -> Result<ExitCode, Failure> {
    crate::log_to_stderr();
    if let Some(Mode::Tune(options)) = &options.mode {
        return tune::run(options);
    }
    let timeout = Duration::from_secs(options.timeout.into());
    let job = JobConfig::from_env()?.map(|job| job.with_join_timeout(timeout));
    let processes = job.as_ref().map_or(1, JobConfig::processes);
    let default = if processes > 1 { 1 } else { 2 };
    let local = options.local_ranks.unwrap_or(default) as usize;
    if processes * local < 2 {
        return Err(
            "one rank alone has nothing to add up: give --local-ranks 2, or start several processes with \
             `burn-dist run --nproc-per-node 2 -- burn-dist bench`"
                .into(),
        );
    }
    // The slices lie in host memory; the devices are only what ranks are started on.
    let Devices { devices, .. } = Devices::select(Backend::Cpu, local, false)?;
    let launcher = Launcher::new(devices).with_timeout(timeout).with_job(job);
    launcher.run(|worker| measure(options, processes, &worker))?;
    Ok(ExitCode::SUCCESS)
}

/// The work of each rank.
fn measure(options: &Arguments, processes: usize, worker: &Worker) -> Result<(), Failure> {
    let group = worker.group();
    let mut stdout = std::io::stdout();
    let first = worker.rank() == 0;
    if first {
        let ranks = worker.world_size();
        writeln!(
            stdout,
            "all_reduce of f32, sum: {ranks} ranks in {processes} process(es)"
        )?;
        writeln!(stdout, "{:>12}{:>12}{:>10}", "bytes", "median", "GB/s")?;
    }
    for &bytes in &options.sizes {
        let mut buffer = vec![0.0_f32; bytes / size_of::<f32>()];
        let seconds = median_time(group, options.budget, || {
            group.barrier()?;
            let start = Instant::now();
            group.all_reduce(&mut buffer, ReduceOp::Sum)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        if first {
            let rate = bytes as f64 / seconds / 1e9;
            writeln!(stdout, "{bytes:>12}{:>12}{rate:>10.3}", time(seconds))?;
            stdout.flush()?;
        }
    }
    Ok(())
}

/// Returns the median time of what `once` times, on this rank.
fn median_time(
    group: &ProcessGroup,
    budget: f64,
    mut once: impl FnMut() -> Result<f64, Failure>,
) -> Result<f64, Failure> {
    once()?;
    // All ranks repeat as often as rank 0 finds right.
    let mut often = [budget / once()?.max(1e-6)];
    group.broadcast(&mut often, 0)?;
    let repetitions = (often[0] as usize).clamp(REPETITIONS.0, REPETITIONS.1);
    let times = (0..repetitions).map(|_| once());
    Ok(median_of(times.collect::<Result<_, _>>()?))
}

/// Returns the median of some times; there is one at least.
fn median_of(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A time in the unit that suits it: `12.3 µs`.
fn time(seconds: f64) -> String {
    match seconds {
        small if small < 1e-3 => format!("{:.1} µs", small * 1e6),
        middle if middle < 1.0 => format!("{:.2} ms", middle * 1e3),
        large => format!("{large:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_that_suits_them() {
        let texts = [1.234e-5, 0.0123, 2.5].map(time);
        assert_eq!(texts, ["12.3 µs", "12.30 ms", "2.50 s"]);
    }
}
