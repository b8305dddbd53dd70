//! Times and counts what grows with the number of processes: barrier, all_reduce of f32 by size, and broadcast.
//!
//! Prints one line of JSON for each operation and size, `BENCH-barrier`, `BENCH-all-reduce` or `BENCH`: the median
//! of many repetitions as rank 0 sees them, and, as `counts`, what one process sends for one operation: the most
//! messages and bytes of all processes, and the bytes of rank 0's. A broadcast ends when all have it, after a
//! barrier: rank 0 alone would only time how fast it sends.

mod processes;
mod repeat;
mod report;

use std::collections::BTreeMap;
use std::time::Instant;

use burn::tensor::Device;
use burn_dist::ReduceOp;
use burn_dist::launch::{Launcher, Worker};
use clap::{Parser, ValueEnum};
use processes::{Layout, Ranked, Result};
use repeat::median_time;
use report::Measurement;

/// Operations over which sent messages and bytes are counted.
const COUNTED: u32 = 8;

#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    ranked: Ranked,
    /// Operations to time.
    #[arg(long, value_enum, default_value = "growth")]
    operations: Operations,
    /// Sizes of all_reduce and broadcast in bytes.
    #[arg(long, value_delimiter = ',', default_value = "1024,65536,1048576")]
    sizes: Vec<usize>,
    /// Seconds that the repetitions of one size take together, about.
    #[arg(long, default_value_t = 0.3)]
    budget: f64,
}

/// Operations that are timed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Operations {
    /// Barrier and all_reduce.
    Growth,
    /// Broadcast from rank 0.
    Broadcast,
}

impl Operations {
    /// Name of the bench in its lines.
    fn name(self) -> &'static str {
        match self {
            Self::Growth => "growth",
            Self::Broadcast => "broadcast",
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut ranked = options.ranked.clone();
    // There is nothing to see of one process.
    ranked.layout = Layout::Processes;
    ranked.run(|here, job| {
        let launcher = Launcher::new(vec![Device::flex(); here])
            .with_job(job)
            .with_threads_per_replica(1);
        launcher.run(|worker| measure(&options, &worker))?;
        Ok(())
    })
}

fn measure(options: &Options, worker: &Worker) -> Result<()> {
    let (group, budget) = (worker.group(), options.budget);
    let name = options.operations.name();
    if options.operations == Operations::Growth {
        let seconds = median_time(group, budget, || {
            group.barrier()?;
            timed(|| Ok(group.barrier()?))
        })?;
        let counts = count(worker, || Ok(group.barrier()?))?;
        print(worker, &format!("{name}-barrier"), 0, seconds, &counts)?;
    }
    for &bytes in &options.sizes {
        let mut buffer = vec![0.0_f32; bytes / size_of::<f32>()];
        match options.operations {
            Operations::Growth => {
                let seconds = median_time(group, budget, || {
                    group.barrier()?;
                    timed(|| Ok(group.all_reduce(&mut buffer, ReduceOp::Sum)?))
                })?;
                let counts = count(worker, || Ok(group.all_reduce(&mut buffer, ReduceOp::Sum)?))?;
                print(
                    worker,
                    &format!("{name}-all-reduce"),
                    bytes,
                    seconds,
                    &counts,
                )?;
            }
            Operations::Broadcast => {
                let seconds = median_time(group, budget, || {
                    group.barrier()?;
                    timed(|| {
                        group.broadcast(&mut buffer, 0)?;
                        Ok(group.barrier()?)
                    })
                })?;
                let counts = count(worker, || Ok(group.broadcast(&mut buffer, 0)?))?;
                print(worker, name, bytes, seconds, &counts)?;
            }
        }
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Returns what one process sends for one operation.
fn count(
    worker: &Worker,
    mut operation: impl FnMut() -> Result<()>,
) -> Result<BTreeMap<&'static str, f64>> {
    let group = worker.group();
    group.barrier()?;
    let before = worker.traffic();
    for _ in 0..COUNTED {
        operation()?;
    }
    let after = worker.traffic();
    let each = |before: u64, after: u64| (after - before) as f64 / f64::from(COUNTED);
    let mut most = [
        each(before.messages, after.messages),
        each(before.bytes, after.bytes),
        after.connections as f64,
    ];
    let mut root = [most[1]];
    group.all_reduce(&mut most, ReduceOp::Max)?;
    group.broadcast(&mut root, 0)?;
    Ok(BTreeMap::from([
        ("messages", most[0]),
        ("bytes sent", most[1]),
        ("bytes sent by rank 0", root[0]),
        ("connections", most[2]),
    ]))
}

/// Prints a measurement, once.
fn print(
    worker: &Worker,
    bench: &str,
    bytes: usize,
    seconds: f64,
    counts: &BTreeMap<&str, f64>,
) -> Result<()> {
    if worker.rank() > 0 {
        return Ok(());
    }
    let measurement = Measurement {
        bench,
        layout: Layout::Processes.name(),
        ranks: worker.world_size(),
        bytes,
        seconds,
        peer: None,
        peer_seconds: None,
    };
    Ok(measurement.print_with(counts)?)
}
