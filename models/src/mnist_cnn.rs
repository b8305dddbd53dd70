//! The reference network for handwritten digits: the CNN of PyTorch's basic MNIST example.

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use burn_dist::random::{Dropout, DropoutConfig};

/// Configuration of an [`MnistCnn`].
#[derive(Config, Debug)]
pub struct MnistCnnConfig {
    /// Dropout after the convolutions, in `[0, 1)`; 0 turns it off.
    #[config(default = 0.25)]
    pub conv_dropout: f64,
    /// Dropout between the linear layers, in `[0, 1)`; 0 turns it off.
    #[config(default = 0.5)]
    pub linear_dropout: f64,
}

impl MnistCnnConfig {
    /// Makes the network.
    ///
    /// # Panics
    ///
    /// Panics when a dropout rate is not in `[0, 1)`.
    pub fn init(&self, device: &Device) -> MnistCnn {
        MnistCnn {
            conv1: Conv2dConfig::new([1, 32], [3, 3]).init(device),
            conv2: Conv2dConfig::new([32, 64], [3, 3]).init(device),
            pool: MaxPool2dConfig::new([2, 2]).init(),
            dropout1: DropoutConfig::new(self.conv_dropout).init(),
            linear1: LinearConfig::new(64 * 12 * 12, 128).init(device),
            dropout2: DropoutConfig::new(self.linear_dropout).init(),
            linear2: LinearConfig::new(128, 10).init(device),
        }
    }
}

/// Two 3×3 convolutions, a 2×2 max-pool and two linear layers, with ReLU and dropout: 1,199,882
/// parameters.
///
/// Should be created with [`MnistCnnConfig`].
#[derive(Module, Debug)]
pub struct MnistCnn {
    /// 1 → 32 channels, 28×28 → 26×26.
    pub conv1: Conv2d,
    /// 32 → 64 channels, 26×26 → 24×24.
    pub conv2: Conv2d,
    /// 24×24 → 12×12.
    pub pool: MaxPool2d,
    /// After the pool.
    pub dropout1: Dropout,
    /// 9216 → 128.
    pub linear1: Linear,
    /// After the first linear layer.
    pub dropout2: Dropout,
    /// 128 → 10.
    pub linear2: Linear,
}

impl MnistCnn {
    /// Gives the logits of the ten digits.
    ///
    /// # Shapes
    ///
    /// - images: `[batch, 1, 28, 28]`
    /// - output: `[batch, 10]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = relu(self.conv1.forward(images));
        let x = relu(self.conv2.forward(x));
        let x = self.dropout1.forward(self.pool.forward(x));
        let x = relu(self.linear1.forward(x.flatten(1, 3)));
        self.linear2.forward(self.dropout2.forward(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Step, bits, device, numbers};

    #[test]
    fn shapes_and_parameters() {
        let device = device();
        let model = MnistCnnConfig::new().init(&device);
        assert_eq!(
            model.forward(numbers([2, 1, 28, 28], &device)).dims(),
            [2, 10]
        );
        assert_eq!(model.num_params(), 1_199_882);
    }

    #[test]
    fn each_dropout_acts_in_training_and_never_in_validation() {
        let device = device().autodiff();
        let input = numbers([1, 1, 28, 28], &device);
        for (conv, linear) in [(0.25, 0.0), (0.0, 0.5)] {
            let model = MnistCnnConfig::new()
                .with_conv_dropout(conv)
                .with_linear_dropout(linear)
                .init(&device);
            let train = || bits(model.forward(input.clone()));
            assert_ne!(train(), train(), "{conv} {linear}");
            let valid = model.valid();
            let valid = || bits(valid.forward(input.clone().inner()));
            assert_eq!(valid(), valid(), "{conv} {linear}");
        }
    }

    #[test]
    fn a_step_without_dropout_lowers_the_loss() {
        let device = device().autodiff();
        let config = MnistCnnConfig::new()
            .with_conv_dropout(0.0)
            .with_linear_dropout(0.0);
        let input = numbers([4, 1, 28, 28], &device);
        Step::new(&device, 10).check(|d| config.init(d), |model| model.forward(input.clone()));

        let model = config.init(&device);
        let forward = || bits(model.forward(input.clone()));
        assert_eq!(forward(), forward());
    }
}
