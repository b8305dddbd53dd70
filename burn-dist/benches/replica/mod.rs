//! One rank's replica of the MNIST CNN, trained on one batch again and again.
//!
//! Callers: the benches of training steps.

use std::time::Instant;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_dist::ddp::Ddp;
use burn_dist::{ProcessGroup, Result};
use models::{MnistCnn, MnistCnnConfig};

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

    /// Trains for some steps, which all ranks begin together; gives the time of each. Without a `ddp`
    /// nothing is synchronised.
    pub(crate) fn train(
        &mut self,
        ddp: Option<&Ddp>,
        group: &ProcessGroup,
        steps: usize,
    ) -> Result<Vec<f64>> {
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
