//! Times all_reduce of f32 over threads or over processes on this machine.
//!
//! Prints one line of JSON for each size: `{"bench", "layout", "ranks", "bytes", "seconds"}`, the median
//! of many repetitions as rank 0 sees them, every rank beginning a repetition when all are there.
//!
//! Callers: `cargo xtask bench`, which runs the peers in alternation.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use burn_dist::{JobConfig, ProcessGroup, ReduceOp, launch::Launcher};
use clap::{Parser, ValueEnum};

/// How long the repetitions of one size take together, about.
const BUDGET: Duration = Duration::from_millis(1500);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// All ranks are threads of one process.
    Threads,
    /// Every rank is a process of its own.
    Processes,
}

#[derive(Debug, Parser)]
struct Options {
    /// How the ranks lie.
    #[arg(long, value_enum, default_value = "threads")]
    layout: Layout,
    /// How many there are.
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// The sizes to time, in bytes.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1024,65536,1048576,4194304,16777216,67108864"
    )]
    sizes: Vec<usize>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    match (options.layout, JobConfig::from_env()?) {
        (Layout::Threads, _) => run(&options, options.ranks, None),
        (Layout::Processes, Some(job)) => run(&options, 1, Some(job)),
        (Layout::Processes, None) => start_processes(options.ranks),
    }
}

/// Starts this program once for each process, and waits for all.
fn start_processes(processes: usize) -> Result<()> {
    let program = std::env::current_exe()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let start = |process: usize| -> std::io::Result<Child> {
        Command::new(&program)
            .args(std::env::args_os().skip(1))
            .env("RANK", process.to_string())
            .env("WORLD_SIZE", processes.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .spawn()
    };
    let children: Vec<Child> = (0..processes).map(start).collect::<std::io::Result<_>>()?;
    for mut child in children {
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("a process ended with {status}").into());
        }
    }
    Ok(())
}

fn run(options: &Options, here: usize, job: Option<JobConfig>) -> Result<()> {
    let devices = vec![Device::flex(); here];
    Launcher::new(devices)
        .job(job)
        .run(|worker| -> Result<()> {
            for &bytes in &options.sizes {
                let seconds = time(worker.group(), bytes)?;
                if worker.rank() == 0 {
                    let layout = format!("{:?}", options.layout).to_lowercase();
                    println!(
                        "{{\"bench\": \"all-reduce\", \"layout\": \"{layout}\", \"ranks\": {}, \
                     \"bytes\": {bytes}, \"seconds\": {seconds:e}}}",
                        worker.world_size()
                    );
                }
            }
            Ok(())
        })?;
    Ok(())
}

/// The median time of one all_reduce.
fn time(group: &ProcessGroup, bytes: usize) -> Result<f64> {
    let mut buffer = vec![0.0_f32; bytes / size_of::<f32>()];
    let mut once = || -> Result<f64> {
        group.barrier()?;
        let start = Instant::now();
        group.all_reduce(&mut buffer, ReduceOp::Sum)?;
        Ok(start.elapsed().as_secs_f64())
    };
    once()?;
    // All ranks repeat as often as rank 0 finds right.
    let mut often = [BUDGET.as_secs_f64() / once()?.max(1e-5)];
    group.broadcast(&mut often, 0)?;
    let repetitions = (often[0] as usize).clamp(5, 2000);
    let times: Result<Vec<f64>> = (0..repetitions).map(|_| once()).collect();
    let mut times = times?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
