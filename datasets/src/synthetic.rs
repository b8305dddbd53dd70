//! Images computed when they are asked for, so that benches can have any number of them for nothing.

use burn::data::dataset::{Dataset, DatasetError};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::{CLASSES, MnistItem, PIXELS, Result, SIDE};

/// Height and width of the bright block, in pixels.
const BLOCK: [usize; 2] = [10, 4];
/// By how much a block may lie away from its class's place, down and right, in pixels.
const JITTER: [u64; 2] = [5, 2];
/// From one class's place to the next, down and right, in pixels: two rows of five classes.
const STEP: [usize; 2] = [14, 5];

/// A data set of made-up images: noise, and a bright block whose place tells the class.
///
/// An item depends on the seed and its index alone, so every rank, thread and run sees the same
/// images; classes take turns. Nothing is stored. It is learnable, so a falling loss in a bench means
/// something, but its accuracy says nothing about MNIST.
///
/// # Example
/// ```
/// use burn::data::dataset::Dataset;
/// use datasets::SyntheticMnist;
///
/// let images = SyntheticMnist::new(1_000_000, 42);
/// assert_eq!(images.get(123_456)?.label, 6);
/// # Ok::<(), burn::data::dataset::DatasetError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SyntheticMnist {
    len: usize,
    seed: u64,
}

impl SyntheticMnist {
    /// A data set of `len` images drawn with `seed`.
    pub fn new(len: usize, seed: u64) -> Self {
        Self { len, seed }
    }
}

impl Dataset<MnistItem> for SyntheticMnist {
    fn get(&self, index: usize) -> Result<MnistItem, DatasetError> {
        assert!(
            index < self.len,
            "index {index} is not below the length {}",
            self.len
        );
        let class = index % CLASSES;
        // The seed is mixed before the index is added, so that neighbouring seeds share no images.
        let first = SplitMix64::seed_from_u64(self.seed).next_u64();
        let mut random = SplitMix64::seed_from_u64(first.wrapping_add(index as u64));

        let mut image = [0; PIXELS];
        let (chunks, _) = image.as_chunks_mut::<8>();
        for chunk in chunks {
            // A quarter of the range: darker than the block.
            *chunk = random.next_u64().to_le_bytes().map(|byte| byte / 4);
        }
        let places_a_row = CLASSES / 2;
        let top = class / places_a_row * STEP[0] + (random.next_u64() % JITTER[0]) as usize;
        let left = class % places_a_row * STEP[1] + (random.next_u64() % JITTER[1]) as usize;
        for row in image.chunks_exact_mut(SIDE).skip(top).take(BLOCK[0]) {
            for pixel in &mut row[left..left + BLOCK[1]] {
                *pixel += 160;
            }
        }
        Ok(MnistItem {
            image,
            label: class as u8,
        })
    }

    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_depends_on_seed_and_index_alone() {
        let (short, long) = (SyntheticMnist::new(10, 7), SyntheticMnist::new(1_000, 7));
        let other = SyntheticMnist::new(10, 8);
        for index in 0..10 {
            let item = short.get(index).unwrap();
            assert_eq!(item, long.get(index).unwrap());
            assert_ne!(item.image, other.get(index).unwrap().image);
            assert_ne!(item.image, long.get(index + 10).unwrap().image);
        }
    }

    #[test]
    fn the_published_mixing_function_is_used() {
        // First outputs for seed 0, as in the reference implementation of the authors.
        let mut random = SplitMix64::seed_from_u64(0);
        assert_eq!(random.next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.next_u64(), 0x6e78_9e6a_a1b9_65f4);
    }

    /// The nearest class mean, learned from 500 images, names the class of 500 others.
    #[test]
    fn classes_can_be_told_apart() {
        let data = SyntheticMnist::new(1_000, 1);
        let mut means = vec![[0.0f64; PIXELS]; CLASSES];
        for item in data.iter().take(500).map(Result::unwrap) {
            for (mean, &pixel) in means[usize::from(item.label)].iter_mut().zip(&item.image) {
                *mean += f64::from(pixel) / 50.0;
            }
        }
        for item in data.iter().skip(500).map(Result::unwrap) {
            let distance = |class: &usize| -> f64 {
                means[*class]
                    .iter()
                    .zip(&item.image)
                    .map(|(m, &p)| (m - f64::from(p)).powi(2))
                    .sum()
            };
            let nearest = (0..CLASSES).min_by(|a, b| distance(a).total_cmp(&distance(b)));
            assert_eq!(nearest, Some(usize::from(item.label)));
        }
    }

    #[test]
    #[should_panic(expected = "index 3 is not below the length 3")]
    fn an_index_beyond_the_end_panics_as_the_trait_asks() {
        let _ = SyntheticMnist::new(3, 0).get(3);
    }
}
