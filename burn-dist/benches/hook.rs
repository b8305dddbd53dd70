//! What hooks cost: forward and backward of a model alone, with hooks that lead nowhere, and with
//! gradients that are averaged in a group of one rank.
//!
//! Blocks of steps of the three kinds alternate in one run. Prints one line of JSON a model: `{"bench",
//! "model", "backend", "layout", "ranks", "bytes", "parameters", "seconds", "hooked", "peer",
//! "peer_seconds", "hook_us", "queued", "peer_queued"}`: the median time of a step with averaging, with
//! hooks alone, and without; microseconds a parameter that hooks cost; and the time until `backward`
//! returned, with averaging and without, which is less where the device has a queue. A step ends when
//! the device has nothing left to do. `bytes` are those of the gradients.

use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Tensor};
use burn_dist::ProcessGroup;
use burn_dist::ddp::{Ddp, DdpConfig, ReduceOn};
use burn_dist::launch::{Backend, Devices, Launcher};
use clap::{Parser, ValueEnum};
use models::{MlpConfig, MnistCnnConfig};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Debug, Parser)]
struct Options {
    /// Backend of the models.
    #[arg(long, value_enum, default_value = "cpu")]
    backend: Kind,
    /// Place where a GPU's gradients are averaged: on the host, or on the GPU.
    #[arg(long, value_enum, default_value = "host")]
    reduce_on: Place,
    /// Number of blocks of each kind.
    #[arg(long, default_value_t = 8)]
    blocks: usize,
    /// Flag that `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A backend that this bench can be built with.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Cpu,
    Wgpu,
    Cuda,
}

/// As [`ReduceOn`].
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Place {
    Host,
    Device,
}

impl Place {
    fn reduce_on(self) -> ReduceOn {
        match self {
            Self::Host => ReduceOn::Host,
            Self::Device => ReduceOn::Device,
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let backend = match options.backend {
        Kind::Cpu => Backend::Cpu,
        Kind::Wgpu => Backend::Wgpu,
        Kind::Cuda => Backend::Cuda,
    };
    let devices = Devices::select(backend, 1, false)?.devices;
    let launcher = Launcher::new(devices).with_threads_per_replica(1);
    launcher.run(|worker| {
        let (device, group) = (worker.device(), worker.group());
        let images = Tensor::<4>::ones([64, 1, 28, 28], device);
        let cnn = Case {
            name: "mnist-cnn",
            model: MnistCnnConfig::new().init(device),
            steps: 4,
        };
        cnn.measure(&options, group, device, |model| {
            model.forward(images.clone()).mean()
        })?;
        // Many parameters, and little to do for each.
        let input = Tensor::<2>::ones([1, 16], device);
        let mlp = Case {
            name: "mlp-64x16",
            model: MlpConfig::new(vec![16; 65]).init(device),
            steps: 50,
        };
        mlp.measure(&options, group, device, |model| {
            model.forward(input.clone()).mean()
        })
    })?;
    Ok(())
}

/// A model to measure.
struct Case<M> {
    name: &'static str,
    model: M,
    /// Number of steps in a block.
    steps: usize,
}

/// Treatment of gradients.
#[derive(Clone, Copy)]
enum Way<'a> {
    Plain,
    /// Hooks see them and pass them on.
    Hooked(&'a Ddp),
    Averaged(&'a Ddp),
}

/// The times of steps of one kind.
#[derive(Default)]
struct Times {
    queued: Vec<f64>,
    done: Vec<f64>,
}

impl<M: Module> Case<M> {
    fn measure(
        self,
        options: &Options,
        group: &ProcessGroup,
        device: &Device,
        loss: impl Fn(&M) -> Tensor<1>,
    ) -> Result<()> {
        let ddp = DdpConfig::new()
            .with_reduce_on(options.reduce_on.reduce_on())
            .init(group)?;
        let plain = self.model;
        let hooked = ddp.attach(plain.clone())?;
        let ways = [Way::Plain, Way::Hooked(&ddp), Way::Averaged(&ddp)];
        let mut times: [Times; 3] = Default::default();
        // The first block learns the order, compiles kernels and warms caches.
        for block in 0..=options.blocks {
            for (way, times) in ways.iter().zip(&mut times) {
                let model = match way {
                    Way::Plain => &plain,
                    Way::Hooked(_) | Way::Averaged(_) => &hooked,
                };
                for _ in 0..self.steps {
                    let (queued, done) = step(*way, model, device, || loss(model).backward())?;
                    if block > 0 {
                        times.queued.push(queued);
                        times.done.push(done);
                    }
                }
            }
        }
        let [without, passed, averaged] =
            times.map(|mut times| (median(&mut times.queued), median(&mut times.done)));
        let elements = plain.num_params();
        let parameters = ddp.stats().during_backward + ddp.stats().at_end;
        let parameters = parameters / ddp.stats().steps;
        println!(
            "{{\"bench\": \"hook\", \"model\": \"{}\", \"backend\": \"{:?}\", \"layout\": \"threads\", \
             \"ranks\": 1, \"bytes\": {}, \"parameters\": {parameters}, \"seconds\": {:e}, \
             \"hooked\": {:e}, \"peer\": \"without hooks\", \"peer_seconds\": {:e}, \
             \"hook_us\": {:.3}, \"queued\": {:e}, \"peer_queued\": {:e}}}",
            self.name,
            options.backend,
            elements * size_of::<f32>(),
            averaged.1,
            passed.1,
            without.1,
            (passed.1 - without.1) / parameters as f64 * 1e6,
            averaged.0,
            without.0,
        );
        Ok(())
    }
}

/// Gives the time until `backward` returned, and until all was done.
fn step<M: Module>(
    way: Way<'_>,
    model: &M,
    device: &Device,
    backward: impl FnOnce() -> Gradients,
) -> Result<(f64, f64)> {
    let start = Instant::now();
    let gradients = match way {
        Way::Plain | Way::Averaged(_) => backward(),
        Way::Hooked(ddp) => ddp.ignore(backward)?,
    };
    let queued = start.elapsed().as_secs_f64();
    let gradients = match way {
        Way::Plain | Way::Hooked(_) => GradientsParams::from_grads(gradients, model),
        Way::Averaged(ddp) => ddp.synchronize(gradients, model)?,
    };
    device
        .sync()
        .map_err(|error| format!("the device failed: {error:?}"))?;
    let done = start.elapsed().as_secs_f64();
    drop(gradients);
    Ok((queued, done))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
