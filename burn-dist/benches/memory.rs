//! The most memory that a synchronised replica takes, against one that trains alone.
//!
//! Prints one line of JSON: `{"bench", "layout", "ranks", "bytes", "ours_bytes", "peer", "alone_bytes",
//! "extra"}`; `bytes` are those of a replica's gradients, `extra` is what synchronisation takes beyond a
//! replica alone, in gradients.
//!
//! Callers: `cargo xtask bench`.

mod peaks;
mod processes;

use std::sync::Barrier;

use burn::tensor::Device;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::Launcher;
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
    /// The size of the first bucket: larger gradients are averaged where they lie.
    #[arg(long, default_value_t = DdpConfig::new().first_bucket_mb)]
    first_bucket_mb: f64,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let config = DdpConfig::new().with_first_bucket_mb(options.first_bucket_mb);
    processes::run(options.layout, options.ranks, |here, job| {
        let turn = Barrier::new(here);
        let devices = vec![Device::flex().autodiff(); here];
        let launcher = Launcher::new(devices).job(job).threads_per_replica(1);
        launcher.run(|worker| {
            let first = worker.rank() % here == 0;
            let peaks = peaks::measure(&worker, &config, &turn, here, first)?;
            if worker.rank() == 0 {
                println!(
                    "{{\"bench\": \"memory\", \"layout\": \"{}\", \"ranks\": {}, \"bytes\": {}, \
                     \"ours_bytes\": {}, \"peer\": \"a replica alone\", \"alone_bytes\": {}, \
                     \"extra\": {:.3}}}",
                    options.layout,
                    options.ranks,
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
