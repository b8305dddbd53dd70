//! Times all_reduce of f32 over threads or over processes on this machine.
//!
//! Prints one line of JSON for each size: `{"bench", "layout", "ranks", "bytes", "seconds", "peer",
//! "peer_seconds"}`, the median of many repetitions as rank 0 sees them, every rank beginning a repetition
//! when all are there. There is no peer in this program.
//!
//! Callers: `cargo xtask bench`, which runs the peers in alternation.

mod processes;

use std::time::Instant;

use burn::tensor::Device;
use burn_dist::launch::{Launcher, Worker};
use burn_dist::{ProcessGroup, ReduceOp};
use clap::Parser;
use processes::{Layout, Result};

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
    /// How many seconds the repetitions of one size take together, about.
    #[arg(long, default_value_t = 1.5)]
    budget: f64,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    processes::run(options.layout, options.ranks, |here, job| {
        let launcher = Launcher::new(vec![Device::flex(); here]).job(job);
        launcher.run(|worker| measure(&options, &worker))?;
        Ok(())
    })
}

fn measure(options: &Options, worker: &Worker) -> Result<()> {
    for &bytes in &options.sizes {
        let seconds = time(worker.group(), bytes, options.budget)?;
        if worker.rank() == 0 {
            println!(
                "{{\"bench\": \"all-reduce\", \"layout\": \"{}\", \"ranks\": {}, \
                 \"bytes\": {bytes}, \"seconds\": {seconds:e}, \"peer\": null, \
                 \"peer_seconds\": null}}",
                options.layout,
                worker.world_size()
            );
        }
    }
    Ok(())
}

/// The median time of one all_reduce.
fn time(group: &ProcessGroup, bytes: usize, budget: f64) -> Result<f64> {
    let mut buffer = vec![0.0_f32; bytes / size_of::<f32>()];
    let mut once = || -> Result<f64> {
        group.barrier()?;
        let start = Instant::now();
        group.all_reduce(&mut buffer, ReduceOp::Sum)?;
        Ok(start.elapsed().as_secs_f64())
    };
    once()?;
    // All ranks repeat as often as rank 0 finds right.
    let mut often = [budget / once()?.max(1e-5)];
    group.broadcast(&mut often, 0)?;
    let repetitions = (often[0] as usize).clamp(5, 2000);
    let times: Result<Vec<f64>> = (0..repetitions).map(|_| once()).collect();
    let mut times = times?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
