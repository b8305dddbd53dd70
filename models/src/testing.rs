//! What the tests of several networks need.

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The CPU backend, without gradients.
pub(crate) fn device() -> Device {
    Device::flex()
}

/// The same numbers in `[-1, 1)` in every run, spread without a pattern that a layer could cancel.
pub(crate) fn numbers<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let numbers: Vec<f32> = (0..count)
        .map(|at| (at * 7919 % 1009) as f32 / 504.5 - 1.0)
        .collect();
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

/// The exact values, for tests of equality to the last bit.
pub(crate) fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    let values = tensor.into_data().try_to_vec::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// One step of gradient descent on a batch whose targets go round the classes.
pub(crate) struct Step {
    device: Device,
    classes: usize,
}

impl Step {
    pub(crate) fn new(device: &Device, classes: usize) -> Self {
        Self {
            device: device.clone(),
            classes,
        }
    }

    /// Checks that a step lowers the loss, and that every parameter has a gradient.
    pub(crate) fn check<M: Module>(
        &self,
        build: impl FnOnce(&Device) -> M,
        forward: impl Fn(&M) -> Tensor<2>,
    ) {
        let model = burn_dist::random::init(1, &self.device, build);
        let before = self.loss(forward(&model));
        let grads = GradientsParams::from_grads(before.backward(), &model);
        assert_eq!(grads.len(), burn::module::list_param_ids(&model).len());
        // Small enough for the loss to fall as its gradient says.
        let model = SgdConfig::new().init().step(0.01, model, grads);
        let after = self.loss(forward(&model));
        let (before, after) = (before.into_scalar::<f32>(), after.into_scalar::<f32>());
        assert!(after < before, "{before} became {after}");
    }

    pub(crate) fn loss(&self, logits: Tensor<2>) -> Tensor<1> {
        let [batch, classes] = logits.dims();
        assert_eq!(classes, self.classes);
        let targets = Tensor::<1, Int>::arange(0..batch as i64, &self.device)
            .remainder_scalar(self.classes as i64);
        CrossEntropyLossConfig::new()
            .init(&self.device)
            .forward(logits, targets)
    }
}
