//! The most memory that a synchronised replica takes, against one that trains alone.
//!
//! Prints one line of JSON: `{"bench", "layout", "ranks", "bytes", "ours_bytes", "peer", "alone_bytes",
//! "extra"}`; `bytes` are those of a replica's gradients, `extra` is what synchronisation takes beyond a
//! replica alone, in gradients.

mod peaks;
mod processes;

use std::sync::Barrier;

use burn::tensor::Device;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::Launcher;
use clap::Parser;
use processes::{Ranked, Result};

#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    ranked: Ranked,
    /// The size of the first bucket: larger gradients are averaged where they lie.
    #[arg(long, default_value_t = DdpConfig::new().first_bucket_mb)]
    first_bucket_mb: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (ranked, config) = (
        options.ranked,
        DdpConfig::new().with_first_bucket_mb(options.first_bucket_mb),
    );
    ranked.run(|here, job| {
        let turn = Barrier::new(here);
        let devices = vec![Device::flex().autodiff(); here];
        let launcher = Launcher::new(devices)
            .with_job(job)
            .with_threads_per_replica(1);
        launcher.run(|worker| {
            let first = worker.rank() % here == 0;
            let peaks = peaks::measure(&worker, &config, &turn, here, first)?;
            if worker.rank() == 0 {
                println!(
                    "{{\"bench\": \"memory\", \"layout\": \"{}\", \"ranks\": {}, \"bytes\": {}, \
                     \"ours_bytes\": {}, \"peer\": \"a replica alone\", \"alone_bytes\": {}, \
                     \"extra\": {:.3}}}",
                    ranked.layout.name(),
                    ranked.ranks,
                    peaks.gradients,
                    peaks.synced,
                    peaks.alone,
                    peaks.extra()
                );
            }
            Result::Ok(())
        })?;
        Ok(())
    })
}
