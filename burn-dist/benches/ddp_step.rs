//! Times training steps of the MNIST CNN with synchronised gradients, against the same replicas without, and
//! against the same with a bare barrier after backward: what that costs is waiting for the slower replica,
//! which is no matter of gradients.
//!
//! Blocks of steps of the three kinds alternate in one run, so that all meet the same machine. Prints a line
//! of JSON for each comparison: how long a step takes with synchronisation and, as the peer, otherwise, the
//! slowest rank's, medians of the blocks; `bytes` are those of the gradients. On standard error, how long a
//! step waits for averages.

mod processes;
mod replica;
mod report;
mod streams;

use burn::module::Module;
use burn::tensor::Device;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::{Launcher, Worker};
use clap::Parser;
use processes::{Ranked, Result};
use replica::{Compared, Replica};
use report::Measurement;
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
    let ddp = DdpConfig::new().init(group)?;
    let mut plain = Replica::new(options.batch, worker.device());
    let mut synced = plain.attached(&ddp)?;
    let bytes = plain.model.num_params() * size_of::<f32>();
    let streams = Streams::join(group, &options.ranked, bytes)?;
    let often = (options.blocks, options.steps);
    let replicas = (&mut synced, &mut plain);
    let compared = Compared::time(group, (&ddp, streams.as_ref()), replicas, often, || Ok(()))?;
    if worker.rank() > 0 {
        return Ok(());
    }
    eprintln!("{}", compared.describe());
    for (peer, seconds) in [
        ("without synchronisation", compared.alone),
        ("a bare barrier a step", compared.barrier),
    ] {
        let measurement = Measurement {
            bench: "ddp-step",
            layout: options.ranked.layout.name(),
            ranks: worker.world_size(),
            bytes,
            seconds: compared.averaged,
            peer: Some(peer),
            peer_seconds: Some(seconds),
        };
        measurement.print()?;
    }
    Ok(())
}
