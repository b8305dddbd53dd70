//! Times training steps of the MNIST CNN with synchronised gradients, against the same replicas without.
//!
//! Blocks of steps with and without alternate in one run, so that both meet the same machine. Prints one
//! line of JSON: the median time of a step with synchronisation and, as the peer, without, the slowest
//! rank's; `bytes` are those of the gradients.
//!
//! Callers: `cargo xtask bench`.

mod processes;
mod replica;
mod report;

use burn::module::Module;
use burn::tensor::Device;
use burn_dist::ReduceOp;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::{Launcher, Worker};
use clap::Parser;
use processes::{Ranked, Result};
use replica::Replica;
use report::{Measurement, median};

#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    ranked: Ranked,
    /// Samples a rank and step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// How many blocks of each kind.
    #[arg(long, default_value_t = 8)]
    blocks: usize,
    /// How many steps are in a block.
    #[arg(long, default_value_t = 8)]
    steps: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    options.ranked.run(|here, job| {
        let devices = vec![Device::flex().autodiff(); here];
        let launcher = Launcher::new(devices).job(job).threads_per_replica(1);
        launcher.run(|worker| measure(&options, &worker))?;
        Ok(())
    })
}

fn measure(options: &Options, worker: &Worker) -> Result<()> {
    let group = worker.group();
    let ddp = DdpConfig::new().init(group)?;
    let mut alone = Replica::new(options.batch, worker.device());
    let mut synced = alone.attached(&ddp)?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // The first steps learn the order and warm the caches.
    synced.train(Some(&ddp), group, 2)?;
    alone.train(None, group, 2)?;
    for _ in 0..options.blocks {
        with.extend(synced.train(Some(&ddp), group, options.steps)?);
        without.extend(alone.train(None, group, options.steps)?);
    }
    let mut medians = [median(&mut with), median(&mut without)];
    group.all_reduce(&mut medians, ReduceOp::Max)?;
    if worker.rank() == 0 {
        let [seconds, alone] = medians;
        let measurement = Measurement {
            bench: "ddp-step",
            layout: options.ranked.layout.name(),
            ranks: worker.world_size(),
            bytes: synced.model.num_params() * size_of::<f32>(),
            seconds,
            peer: Some("without synchronisation"),
            peer_seconds: Some(alone),
        };
        measurement.print()?;
    }
    Ok(())
}
