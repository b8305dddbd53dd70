//! A multi-layer perceptron.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

/// Configuration of an [`Mlp`].
#[derive(Config, Debug)]
pub struct MlpConfig {
    /// The width of the input, of each hidden layer, and of the output: at least two numbers.
    pub sizes: Vec<usize>,
    /// True if the layers have a bias.
    #[config(default = true)]
    pub bias: bool,
}

impl MlpConfig {
    /// Makes the network.
    ///
    /// # Panics
    ///
    /// Panics when `sizes` has fewer than two numbers.
    pub fn init(&self, device: &Device) -> Mlp {
        assert!(
            self.sizes.len() >= 2,
            "an MLP needs the sizes of its input and output, got {:?}",
            self.sizes
        );
        let layer = |sizes: &[usize]| {
            LinearConfig::new(sizes[0], sizes[1])
                .with_bias(self.bias)
                .init(device)
        };
        Mlp {
            layers: self.sizes.windows(2).map(layer).collect(),
        }
    }
}

/// Linear layers with ReLU between them.
///
/// Should be created with [`MlpConfig`].
#[derive(Module, Debug)]
pub struct Mlp {
    /// The layers, from input to output.
    pub layers: Vec<Linear>,
}

impl Mlp {
    /// Applies the network.
    ///
    /// # Shapes
    ///
    /// - input: `[batch, first size]`
    /// - output: `[batch, last size]`
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let last = self.layers.len() - 1;
        self.layers
            .iter()
            .enumerate()
            .fold(input, |x, (at, layer)| {
                let x = layer.forward(x);
                if at < last { relu(x) } else { x }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Step, device, numbers};

    #[test]
    fn shapes_and_parameters() {
        let device = device();
        let model = MlpConfig::new(vec![5, 7, 3]).init(&device);
        assert_eq!(model.forward(numbers([2, 5], &device)).dims(), [2, 3]);
        assert_eq!(model.num_params(), 5 * 7 + 7 + 7 * 3 + 3);

        let plain = MlpConfig::new(vec![5, 7, 3]).with_bias(false).init(&device);
        assert_eq!(plain.num_params(), 5 * 7 + 7 * 3);
    }

    #[test]
    fn relu_stands_between_layers_and_not_at_the_end() {
        let device = device();
        let layer = |weight: [[f32; 1]; 1]| {
            let mut layer = LinearConfig::new(1, 1).with_bias(false).init(&device);
            layer.weight = burn::module::Param::from_data(weight, &device);
            layer
        };
        let model = Mlp {
            layers: vec![layer([[-1.0]]), layer([[-2.0]])],
        };
        let output = model.forward(Tensor::from_data([[3.0], [-3.0]], &device));
        // 3 becomes -3, which ReLU stops; -3 becomes 3, and -6 leaves as it is.
        assert_eq!(output.into_data().try_to_vec::<f32>().unwrap(), [0.0, -6.0]);
    }

    #[test]
    fn a_step_lowers_the_loss() {
        let device = device().autodiff();
        let config = MlpConfig::new(vec![5, 7, 3]);
        let input = numbers([6, 5], &device);
        Step::new(&device, 3).check(|d| config.init(d), |model| model.forward(input.clone()));
    }

    #[test]
    #[should_panic(expected = "an MLP needs the sizes of its input and output, got [5]")]
    fn too_few_sizes() {
        MlpConfig::new(vec![5]).init(&device());
    }
}
