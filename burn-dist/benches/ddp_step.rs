//! Times training steps of the MNIST CNN with synchronised gradients, against the same replicas without.
//!
//! Blocks of steps with and without alternate in one run, so that both meet the same machine. Prints one
//! line of JSON: `{"bench", "layout", "ranks", "bytes", "seconds", "peer", "peer_seconds"}`, the median time
//! of a step with synchronisation and, as the peer, without, the slowest rank's; `bytes` are those of the
//! gradients.
//!
//! Callers: `cargo xtask bench`.

mod processes;

use std::time::Instant;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_dist::ddp::{Ddp, DdpConfig};
use burn_dist::launch::{Launcher, Worker};
use burn_dist::{ProcessGroup, ReduceOp};
use clap::Parser;
use models::{MnistCnn, MnistCnnConfig};
use processes::{Layout, Result};

#[derive(Debug, Parser)]
struct Options {
    /// How the ranks lie.
    #[arg(long, value_enum, default_value = "threads")]
    layout: Layout,
    /// How many there are.
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// Samples a rank and step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// How many blocks of each kind.
    #[arg(long, default_value_t = 8)]
    blocks: usize,
    /// How many steps are in a block.
    #[arg(long, default_value_t = 8)]
    steps: usize,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    processes::run(options.layout, options.ranks, |here, job| {
        let devices = vec![Device::flex().autodiff(); here];
        let launcher = Launcher::new(devices).job(job).threads_per_replica(1);
        launcher.run(|worker| measure(&options, &worker))?;
        Ok(())
    })
}

/// One rank's model, data and times.
struct Replica {
    model: MnistCnn,
    images: Tensor<4>,
    targets: Tensor<1, Int>,
}

impl Replica {
    /// Trains for some steps; gives the median time of one. Without a `ddp` nothing is synchronised.
    fn train(&mut self, ddp: Option<&Ddp>, group: &ProcessGroup, steps: usize) -> Result<Vec<f64>> {
        let mut optimizer = SgdConfig::new().init();
        let loss = CrossEntropyLossConfig::new().init(&self.images.device());
        let mut times = Vec::with_capacity(steps);
        group.barrier()?;
        for _ in 0..steps {
            let start = Instant::now();
            let output = self.model.forward(self.images.clone());
            let grads = loss.forward(output, self.targets.clone()).backward();
            let grads = match ddp {
                Some(ddp) => ddp.synchronize(grads, &self.model)?,
                None => GradientsParams::from_grads(grads, &self.model),
            };
            self.model = optimizer.step(0.01, self.model.clone(), grads);
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(times)
    }
}

fn measure(options: &Options, worker: &Worker) -> Result<()> {
    let (device, group) = (worker.device(), worker.group());
    let shape = [options.batch, 1, 28, 28];
    let plain = Replica {
        model: MnistCnnConfig::new().init(device),
        images: Tensor::random(shape, Distribution::Default, device),
        targets: Tensor::zeros([options.batch], device),
    };
    let ddp = DdpConfig::new().init(group)?;
    let mut synced = Replica {
        model: ddp.attach(plain.model.clone())?,
        images: plain.images.clone(),
        targets: plain.targets.clone(),
    };
    let mut alone = plain;
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
        let bytes = synced.model.num_params() * size_of::<f32>();
        let [seconds, alone] = medians;
        println!(
            "{{\"bench\": \"ddp-step\", \"layout\": \"{}\", \"ranks\": {}, \"bytes\": {bytes}, \
             \"seconds\": {seconds:e}, \"peer\": \"without synchronisation\", \
             \"peer_seconds\": {alone:e}}}",
            options.layout,
            worker.world_size()
        );
    }
    Ok(())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
