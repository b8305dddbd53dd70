//! Times how much of the synchronisation of gradients is not hidden behind backward.
//!
//! Blocks alternate in one run: training steps of the MNIST CNN with synchronised gradients, the same with
//! a bare barrier after backward, the same with nothing, the same while two plain TCP streams carry as many
//! bytes (for two processes), and all_reduces of the same buckets with nothing else running. Prints one line of JSON: `seconds` is the exposed communication, that is, how much longer a
//! step takes with synchronisation than with a barrier, for the slowest rank; `peer_seconds` is the median
//! time of the all_reduces of a step. On standard error, what it was computed from.

mod processes;
mod replica;
mod report;
mod streams;

use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::{Launcher, Worker};
use burn_dist::{ProcessGroup, ReduceOp};
use clap::Parser;
use processes::{Ranked, Result};
use replica::{Compared, Replica};
use report::{Measurement, median};
use streams::Streams;

#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    ranked: Ranked,
    /// Samples a rank and step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Number of blocks of each kind.
    #[arg(long, default_value_t = 150)]
    blocks: usize,
    /// Number of steps in a block. With few, the kinds meet the same machine.
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// The size of a bucket, in megabytes; the library's own unless given.
    #[arg(long)]
    bucket_mb: Option<f64>,
    /// The size of the first bucket, in megabytes; the library's own unless given.
    #[arg(long)]
    first_bucket_mb: Option<f64>,
}

impl Options {
    fn ddp(&self) -> DdpConfig {
        let own = DdpConfig::new();
        let (cap, first) = (own.bucket_cap_mb, own.first_bucket_mb);
        own.with_bucket_cap_mb(self.bucket_mb.unwrap_or(cap))
            .with_first_bucket_mb(self.first_bucket_mb.unwrap_or(first))
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    options.ranked.run(|here, job| {
        let devices = vec![Device::flex().autodiff(); here];
        let launcher = Launcher::new(devices)
            .with_job(job)
            .with_threads_per_replica(1);
        launcher.run(|worker| measure(&options, &worker))?;
        Ok(())
    })
}

fn measure(options: &Options, worker: &Worker) -> Result<()> {
    let group = worker.group();
    let config = options.ddp();
    let ddp = config.init(group)?;
    let mut plain = Replica::new(options.batch, worker.device());
    let mut synced = plain.attached(&ddp)?;
    let mut buckets = buckets(&synced, &config);
    let bytes = buckets.iter().map(|bucket| size_of_val(&**bucket)).sum();
    let mut reducing = Vec::new();
    let often = (options.blocks, options.steps);
    let streams = Streams::join(group, &options.ranked, bytes)?;
    let both = (&ddp, streams.as_ref());
    let compared = Compared::time(group, both, (&mut synced, &mut plain), often, || {
        reducing.extend(reduce(&mut buckets, group, options.steps)?);
        Ok(())
    })?;
    let mut reducing = [median(&mut reducing)];
    group.all_reduce(&mut reducing, ReduceOp::Max)?;
    if worker.rank() == 0 {
        let [reducing] = reducing;
        let share = |seconds: f64| format!("{:.0} %", 100.0 * seconds / reducing);
        eprintln!(
            "{}; the all_reduces of a step take {:.2} ms alone, of which {} are exposed and {} waited for",
            compared.describe(),
            reducing * 1e3,
            share(compared.exposed),
            share(compared.waited),
        );
        let measurement = Measurement {
            bench: "overlap",
            layout: options.ranked.layout.name(),
            ranks: worker.world_size(),
            bytes,
            seconds: compared.exposed,
            peer: Some("the all-reduce alone"),
            peer_seconds: Some(reducing),
        };
        measurement.print()?;
    }
    Ok(())
}

/// Reduces all buckets, one after the other, some times; gives how long each time took.
fn reduce(
    buckets: &mut [Vec<f32>],
    group: &ProcessGroup,
    times: usize,
) -> burn_dist::Result<Vec<f64>> {
    let mut once = || -> burn_dist::Result<f64> {
        group.barrier()?;
        let start = Instant::now();
        for bucket in &mut *buckets {
            group.all_reduce(bucket, ReduceOp::Mean)?;
        }
        Ok(start.elapsed().as_secs_f64())
    };
    (0..times).map(|_| once()).collect()
}

/// Memory as large as the buckets of the model's gradients: from the last parameter to the first, as
/// backward finds them.
fn buckets(replica: &Replica, config: &DdpConfig) -> Vec<Vec<f32>> {
    #[derive(Default)]
    struct Lengths(Vec<usize>);
    impl ModuleVisitor for Lengths {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.shape().num_elements());
        }
    }
    let mut lengths = Lengths::default();
    replica.model.visit(&mut lengths);
    let elements = |megabytes: f64| (megabytes * f64::from(1 << 20)) as usize / size_of::<f32>();
    let mut buckets: Vec<usize> = Vec::new();
    for &length in lengths.0.iter().rev() {
        let cap = elements(match buckets.len() {
            0 | 1 => config.first_bucket_mb,
            _ => config.bucket_cap_mb,
        });
        match buckets.last_mut() {
            Some(bucket) if *bucket + length <= cap => *bucket += length,
            _ => buckets.push(length),
        }
    }
    buckets
        .into_iter()
        .map(|length| vec![0.0; length])
        .collect()
}
