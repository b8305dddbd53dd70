//! Times all_reduce of f32 over threads or over processes on this machine: of slices, in place; over threads
//! also of tensors that somebody else holds too, whose results the ranks share.
//!
//! Prints one line of JSON for each size: the median of many repetitions as rank 0 sees them, every rank
//! beginning a repetition when all are there. There is no peer in this program.

mod processes;
mod repeat;
mod report;

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use burn_dist::ReduceOp;
use burn_dist::launch::{Launcher, Worker};
use clap::Parser;
use processes::{Layout, Ranked, Result};
use repeat::median_time;
use report::Measurement;

#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    ranked: Ranked,
    /// The sizes to time, in bytes.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1024,65536,1048576,4194304,16777216,67108864"
    )]
    sizes: Vec<usize>,
    /// Seconds that the repetitions of one size take together, about.
    #[arg(long, default_value_t = 1.5)]
    budget: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    options.ranked.run(|here, job| {
        let launcher = Launcher::new(vec![Device::flex(); here]).with_job(job);
        launcher.run(|worker| measure(&options, &worker))?;
        Ok(())
    })
}

fn measure(options: &Options, worker: &Worker) -> Result<()> {
    let (group, layout) = (worker.group(), options.ranked.layout);
    let print = |bench, bytes, seconds| -> Result<()> {
        let measurement = Measurement {
            bench,
            layout: layout.name(),
            ranks: worker.world_size(),
            bytes,
            seconds,
            peer: None,
            peer_seconds: None,
        };
        if worker.rank() == 0 {
            measurement.print()?;
        }
        Ok(())
    };
    for &bytes in &options.sizes {
        let length = bytes / size_of::<f32>();
        let mut buffer = vec![0.0_f32; length];
        let seconds = median_time(group, options.budget, || {
            group.barrier()?;
            let start = Instant::now();
            group.all_reduce(&mut buffer, ReduceOp::Sum)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        print("all-reduce", bytes, seconds)?;
        if layout == Layout::Threads {
            // Memory that was never written to is one page of zeros again and again.
            let tensor = Tensor::<1>::ones([length], worker.device());
            let seconds = median_time(group, options.budget, || {
                let input = tensor.clone();
                group.barrier()?;
                let start = Instant::now();
                let sum = group.all_reduce(input, ReduceOp::Sum)?;
                let time = start.elapsed().as_secs_f64();
                drop(sum);
                Ok(time)
            })?;
            print("all-reduce-tensors", bytes, seconds)?;
        }
    }
    Ok(())
}
