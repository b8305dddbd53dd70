//! From items to tensors: one host buffer and one copy to the device a batch.

use burn::Tensor;
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{Device, Int, TensorData};

use crate::{MnistItem, PIXELS, SIDE};

/// Mean of the pixels of MNIST's 60,000 training images, where 0 is background and 1 full ink.
const MEAN: f32 = 0.1307;
/// Their standard deviation.
const STANDARD_DEVIATION: f32 = 0.3081;

/// Normalised value of each grey value.
const NORMALISED: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut grey = 0;
    while grey < table.len() {
        table[grey] = (grey as f32 / 255.0 - MEAN) / STANDARD_DEVIATION;
        grey += 1;
    }
    table
};

/// A batch of images and their classes, on one device.
#[derive(Clone, Debug)]
pub struct MnistBatch {
    /// The images: `[batch, 1, 28, 28]`, normalised with MNIST's mean (0.1307) and standard
    /// deviation (0.3081).
    pub images: Tensor<4>,
    /// The classes, from 0 to 9: `[batch]`.
    pub targets: Tensor<1, Int>,
}

/// Makes an [`MnistBatch`] on the device it is given, plain or with autodiff.
#[derive(Clone, Copy, Debug, Default)]
pub struct MnistBatcher;

impl Batcher<MnistItem, MnistBatch> for MnistBatcher {
    fn batch(&self, items: Vec<MnistItem>, device: &Device) -> MnistBatch {
        let count = items.len();
        let mut pixels = Vec::with_capacity(count * PIXELS);
        for item in &items {
            pixels.extend(item.image.iter().map(|&grey| NORMALISED[usize::from(grey)]));
        }
        let classes: Vec<i32> = items.iter().map(|item| i32::from(item.label)).collect();
        MnistBatch {
            images: Tensor::from_data(TensorData::new(pixels, [count, 1, SIDE, SIDE]), device),
            targets: Tensor::from_data(TensorData::new(classes, [count]), device),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::data::dataset::Dataset;

    use super::*;
    use crate::SyntheticMnist;

    fn items(count: usize) -> Vec<MnistItem> {
        SyntheticMnist::new(count, 3)
            .iter()
            .map(Result::unwrap)
            .collect()
    }

    #[test]
    fn batches_keep_the_order_and_normalise() {
        let items = items(5);
        let batch = MnistBatcher.batch(items.clone(), &Device::default());
        assert_eq!(batch.images.dims(), [5, 1, 28, 28]);
        assert_eq!(batch.targets.dims(), [5]);

        let images = batch.images.into_data().try_to_vec::<f32>().unwrap();
        for (item, image) in items.iter().zip(images.chunks_exact(PIXELS)) {
            for (&grey, &value) in item.image.iter().zip(image) {
                let exact = (f64::from(grey) / 255.0 - 0.1307) / 0.3081;
                // Three roundings of numbers below 3.
                assert!(
                    (f64::from(value) - exact).abs() < 1e-6,
                    "{grey}: {value} against {exact}"
                );
            }
        }
        let targets = batch
            .targets
            .into_data()
            .convert::<i64>()
            .try_to_vec::<i64>()
            .unwrap();
        let labels: Vec<i64> = items.iter().map(|item| i64::from(item.label)).collect();
        assert_eq!(targets, labels);
    }

    #[test]
    fn batches_live_on_the_device_that_was_given() {
        let plain = Device::default();
        for device in [plain.clone(), plain.autodiff()] {
            let batch = MnistBatcher.batch(items(2), &device);
            assert_eq!(batch.images.device(), device);
            assert_eq!(batch.targets.device(), device);
        }
    }

    #[test]
    fn a_batch_of_nothing_has_no_rows() {
        let batch = MnistBatcher.batch(Vec::new(), &Device::default());
        assert_eq!(batch.images.dims(), [0, 1, 28, 28]);
        assert_eq!(batch.targets.dims(), [0]);
    }
}
