//! One rank's replica of the MNIST CNN, trained on one batch again and again.
//!
//! Callers: the benches of training steps.

use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_dist::ddp::Ddp;
use burn_dist::{ProcessGroup, ReduceOp, Result};
use models::{MnistCnn, MnistCnnConfig};

use crate::report::median;

/// A model and its data.
pub(crate) struct Replica {
    pub(crate) model: MnistCnn,
    images: Tensor<4>,
    targets: Tensor<1, Int>,
}

impl Replica {
    /// A model of its own, and this many random images.
    pub(crate) fn new(batch: usize, device: &Device) -> Self {
        Self {
            model: MnistCnnConfig::new().init(device),
            images: Tensor::random([batch, 1, 28, 28], Distribution::Default, device),
            targets: Tensor::zeros([batch], device),
        }
    }

    /// The same, with its model attached.
    pub(crate) fn attached(&self, ddp: &Ddp) -> Result<Self> {
        Ok(Self {
            model: ddp.attach(self.model.clone())?,
            images: self.images.clone(),
            targets: self.targets.clone(),
        })
    }

    /// Trains for some steps, which all ranks begin together; gives how long a step takes.
    pub(crate) fn train(
        &mut self,
        meeting: Meeting<'_>,
        group: &ProcessGroup,
        steps: usize,
    ) -> Result<f64> {
        let mut optimizer = SgdConfig::new().init();
        let loss = CrossEntropyLossConfig::new().init(&self.images.device());
        group.barrier()?;
        let start = Instant::now();
        for _ in 0..steps {
            let output = self.model.forward(self.images.clone());
            let grads = loss.forward(output, self.targets.clone()).backward();
            let grads = match meeting {
                Meeting::Average(ddp) => ddp.synchronize(grads, &self.model)?,
                Meeting::Barrier => {
                    group.barrier()?;
                    GradientsParams::from_grads(grads, &self.model)
                }
                Meeting::Never => GradientsParams::from_grads(grads, &self.model),
            };
            self.model = optimizer.step(0.01, self.model.clone(), grads);
        }
        Ok(start.elapsed().as_secs_f64() / steps as f64)
    }
}

/// What the ranks do together in each step.
#[derive(Clone, Copy)]
pub(crate) enum Meeting<'a> {
    /// Nothing.
    Never,
    /// They wait for one another after backward, and exchange nothing.
    Barrier,
    /// They average their gradients.
    Average(&'a Ddp),
}

/// Steps of the MNIST CNN of three kinds, which alternate in one run, so that all meet the same machine.
pub(crate) struct Compared {
    /// Seconds a step, of the slowest rank; the median of the blocks.
    pub(crate) averaged: f64,
    pub(crate) barrier: f64,
    pub(crate) alone: f64,
    /// How long the slowest rank has waited a step for averages.
    pub(crate) waited: f64,
}

impl Compared {
    /// Runs some blocks of each kind, of so many steps; `between` is run as often, with nothing else
    /// going on. All ranks get the same.
    pub(crate) fn time(
        group: &ProcessGroup,
        ddp: &Ddp,
        synced: &mut Replica,
        alone: &mut Replica,
        (blocks, steps): (usize, usize),
        mut between: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        // The first steps learn the order and warm the caches.
        synced.train(Meeting::Average(ddp), group, 3)?;
        alone.train(Meeting::Never, group, 2)?;
        let mut times: [Vec<f64>; 4] = Default::default();
        for _ in 0..blocks {
            let before = ddp.stats().wait;
            let averaged = synced.train(Meeting::Average(ddp), group, steps)?;
            let waited = ddp.stats().wait.saturating_sub(before);
            let waited = waited.as_secs_f64() / steps as f64;
            let without = alone.train(Meeting::Never, group, steps)?;
            let barrier = alone.train(Meeting::Barrier, group, steps)?;
            between()?;
            // The job is as fast as its slowest rank.
            let mut block = [averaged, barrier, without, waited];
            group.all_reduce(&mut block, ReduceOp::Max)?;
            for (times, time) in times.iter_mut().zip(block) {
                times.push(time);
            }
        }
        let [averaged, barrier, alone, waited] = times.map(|mut times| median(&mut times));
        Ok(Self {
            averaged,
            barrier,
            alone,
            waited,
        })
    }
}
