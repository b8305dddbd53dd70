//! The most memory that training takes, without and with synchronised gradients.
//!
//! Gradients are most of what the model takes, so that each copy of them shows.

use std::sync::Barrier;

use burn::module::Module;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Tensor};
use burn_dist::ddp::{Ddp, DdpConfig};
use burn_dist::launch::Worker;
use models::{Mlp, MlpConfig};
use peak_alloc::PeakAlloc;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Peaks of memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peaks {
    /// A replica's gradients.
    pub(crate) gradients: usize,
    /// The most that a replica takes that trains alone.
    pub(crate) alone: usize,
    /// The most that a replica takes that is synchronised, on the average of those here.
    pub(crate) synced: usize,
}

impl Peaks {
    /// Returns the memory that synchronisation takes beyond a replica alone, as a multiple of its gradients.
    pub(crate) fn extra(&self) -> f64 {
        (self.synced as f64 - self.alone as f64) / self.gradients as f64
    }
}

/// Measures as one of the replicas of this program, which share `turn`; one of them is `first`. Each
/// layer's weight is 4 MB: with a smaller first bucket it is averaged where it lies, with a larger one
/// it is copied to its bucket.
pub(crate) fn measure(
    worker: &Worker,
    config: &DdpConfig,
    turn: &Barrier,
    replicas: usize,
    first: bool,
) -> Result<Peaks> {
    let device = worker.device();
    let (mut alone, mut gradients) = (0, 0);
    // Twice, because the first run starts the backend's threads.
    for _ in 0..2 {
        alone = peak(turn, first, || {
            if first {
                let model = model(device);
                gradients = model.num_params() * size_of::<f32>();
                train(model, None, device)?;
            }
            Ok(())
        })?;
    }
    let together = peak(turn, first, || {
        let ddp = config.init(worker.group())?;
        train(ddp.attach(model(device))?, Some(&ddp), device)
    })?;
    Ok(Peaks {
        gradients,
        alone,
        synced: together / replicas,
    })
}

/// The most memory that all take during `work`, beyond what they hold before.
fn peak(turn: &Barrier, first: bool, work: impl FnOnce() -> Result<()>) -> Result<usize> {
    turn.wait();
    if first {
        MEMORY.reset_peak_usage();
    }
    let before = MEMORY.current_usage();
    turn.wait();
    work()?;
    turn.wait();
    Ok(MEMORY.peak_usage() - before)
}

fn model(device: &Device) -> Mlp {
    MlpConfig::new(vec![1024; 9]).init(device)
}

fn train(mut model: Mlp, ddp: Option<&Ddp>, device: &Device) -> Result<()> {
    let mut optimizer = SgdConfig::new().init();
    for _ in 0..4 {
        let input = Tensor::ones([8, 1024], device);
        let grads = model.forward(input).mean().backward();
        let grads = match ddp {
            Some(ddp) => ddp.synchronize(grads, &model)?,
            None => GradientsParams::from_grads(grads, &model),
        };
        model = optimizer.step(0.01, model, grads);
    }
    Ok(())
}
