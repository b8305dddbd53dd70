//! Dropout with masks from the replica's own stream.

use super::key::Key;
use super::stream;
use burn::config::Config;
use burn::module::{Flag, Module, Param};
use burn::tensor::{Tensor, TensorData};

/// Configuration of a [`Dropout`] layer.
#[derive(Config, Debug)]
pub struct DropoutConfig {
    /// The probability of zeroing an element, in `[0, 1)`.
    pub prob: f64,
}

impl DropoutConfig {
    /// Makes the layer.
    ///
    /// # Panics
    ///
    /// Panics when `prob` is not in `[0, 1)`, as `burn::nn::Dropout` does.
    pub fn init(&self) -> Dropout {
        assert!(
            (0.0..1.0).contains(&self.prob),
            "dropout probability must be in [0, 1), got {}",
            self.prob
        );
        Dropout {
            prob: self.prob,
            training: Param::from_bool(true),
        }
    }
}

/// Zeroes elements at random during training and scales the others by `1 / (1 - prob)`
/// (Srivastava et al., 2014), as `burn::nn::Dropout` does.
///
/// The masks come from the calling thread's stream (see [`seed`](super::seed)) instead of Burn's
/// generator, which all replica threads of a process share; so a run can be repeated, and gives the
/// same result however its ranks are laid over threads and processes. Ranks of one launch draw
/// different masks. With [`forward_keyed`](Self::forward_keyed), masks do not depend on the number of ranks either.
#[derive(Module, Debug)]
pub struct Dropout {
    /// The probability of zeroing an element.
    pub prob: f64,
    /// True to behave as during training; cleared by `freeze` and `valid`.
    pub training: Param<Flag>,
}

impl Dropout {
    /// Applies dropout where the input is on an autodiff device and the layer is not frozen; returns
    /// the input unchanged otherwise.
    ///
    /// # Shapes
    ///
    /// Input and output `[..., any]`.
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        self.masked(input, stream::fill_bernoulli)
    }

    /// As [`forward`](Self::forward), with the mask of each row of dimension 0 drawn from its key, which `key`
    /// gives for the number of the row.
    ///
    /// # Shapes
    ///
    /// Input and output `[rows, any]`.
    pub fn forward_keyed<const D: usize>(
        &self,
        input: Tensor<D>,
        key: impl Fn(usize) -> Key,
    ) -> Tensor<D> {
        let rows = input.dims()[0];
        self.masked(input, |mask, keep, kept| {
            let row = (mask.len() / rows.max(1)).max(1);
            for (number, mask) in mask.chunks_mut(row).enumerate() {
                let mut generator = key(number).generator();
                stream::fill_bernoulli_from(&mut generator, mask, keep, kept);
            }
        })
    }

    /// Multiplies with a mask where the layer trains.
    fn masked<const D: usize>(
        &self,
        input: Tensor<D>,
        fill: impl FnOnce(&mut [f32], u64, f32),
    ) -> Tensor<D> {
        let device = input.device();
        if !self.training.is_enabled() || !device.is_autodiff() || self.prob == 0.0 {
            return input;
        }
        let keep = 1.0 - self.prob;
        let mut mask = vec![0.0; input.shape().num_elements()];
        let threshold = (keep * 4_294_967_296.0) as u64;
        fill(&mut mask, threshold, (1.0 / keep) as f32);
        let data = TensorData::new(mask, input.shape());
        let mask = Tensor::from_data(data, (&device, input.dtype()));
        input * mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn training_drops_and_scales_and_validation_does_nothing() {
        let device = Device::flex().autodiff();
        let dropout = DropoutConfig::new(0.25).init();
        crate::random::seed(1, 0);
        let output = dropout.forward(Tensor::<2>::ones([64, 64], &device));
        let values: Vec<f32> = output.into_data().try_to_vec().unwrap();
        let kept = 1.0 / 0.75;
        assert!(values.iter().all(|v| *v == 0.0 || (*v - kept).abs() < 1e-6));
        let dropped = values.iter().filter(|v| **v == 0.0).count();
        // 4096 draws at 0.25: 1024, five standard deviations are 139.
        assert!(dropped.abs_diff(1024) < 139, "{dropped}");

        let input = Tensor::<2>::ones([4, 4], &device);
        let frozen = dropout.clone().freeze().forward(input.clone());
        frozen
            .into_data()
            .assert_eq(&input.clone().into_data(), true);
        let plain = Tensor::<2>::ones([4, 4], &Device::flex());
        let valid = dropout.valid().forward(plain.clone());
        valid.into_data().assert_eq(&plain.into_data(), true);
    }

    #[test]
    fn keyed_masks_of_a_batch_are_those_of_its_parts() {
        let device = Device::flex().autodiff();
        let dropout = DropoutConfig::new(0.5).init();
        let key = |sample: usize| Key {
            seed: 1,
            step: 2,
            sample: sample as u64,
            layer: 3,
        };
        let mask = |first: usize, rows: usize| -> Vec<f32> {
            let ones = Tensor::<3>::ones([rows, 5, 3], &device);
            let output = dropout.forward_keyed(ones, |row| key(first + row));
            output.into_data().try_to_vec().unwrap()
        };
        let whole = mask(0, 8);
        assert_eq!([mask(0, 3), mask(3, 5)].concat(), whole);
        assert_ne!(whole[..15], whole[15..30]);
        // 120 draws at 0.5: 60, five standard deviations are 27.
        let kept = whole.iter().filter(|value| **value > 1.0).count();
        assert!(kept.abs_diff(60) < 27, "{kept}");
    }
}
