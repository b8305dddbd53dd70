//! Draws that are keyed by what they are for, not by who draws them or when.
//!
//! Invariant: what a key gives never changes, because a run that resumes with another number of ranks must
//! draw what the first would have drawn.

use rand_xoshiro::rand_core::{Rng, SeedableRng};
use rand_xoshiro::{SplitMix64, Xoshiro256PlusPlus};

/// Key of a sequence of random numbers: one layer's treatment of one sample in one step of a run.
///
/// It has no rank in it, so the numbers do not depend on how many ranks share the samples, or on which of them
/// has which. Today's default is another one: without keys, [`Dropout`](super::Dropout) draws from the
/// thread's stream (see [`seed`](super::seed)), and its masks depend on the rank and on the number of ranks.
///
/// ```
/// use burn_dist::random::Key;
///
/// let key = Key { seed: 42, step: 100, sample: 31_337, layer: 2 };
/// let numbers: Vec<f64> = key.uniform().take(3).collect();
/// assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
/// assert_eq!(numbers, key.uniform().take(3).collect::<Vec<_>>());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The seed of the run.
    pub seed: u64,
    /// The step of the run.
    pub step: u64,
    /// The sample's index in the data set, or its place in the global batch.
    pub sample: u64,
    /// The layer, or what else draws: anything that nothing else in the run uses.
    pub layer: u64,
}

impl Key {
    /// Returns the sequence of whole numbers of this key.
    pub fn draws(&self) -> impl Iterator<Item = u64> + use<> {
        let mut random = self.generator();
        std::iter::repeat_with(move || random.next_u64())
    }

    /// Returns the sequence of numbers of this key in `[0, 1)`, of 53 bits each, every one equally likely.
    pub fn uniform(&self) -> impl Iterator<Item = f64> + use<> {
        self.draws()
            .map(|draw| (draw >> 11) as f64 / (1_u64 << 53) as f64)
    }

    pub(super) fn generator(&self) -> Xoshiro256PlusPlus {
        let Self {
            seed,
            step,
            sample,
            layer,
        } = *self;
        // One after the other, each mixed with all before, so that keys which differ anywhere are unrelated.
        let parts = [seed, step, sample, layer];
        let mixed = parts
            .into_iter()
            .fold(0, |state: u64, part| mix(state ^ mix(part)));
        Xoshiro256PlusPlus::seed_from_u64(mixed)
    }
}

/// Returns the first draw of SplitMix64 (Steele, Lea and Flood, 2014) in the state `number`: half of its bits change
/// with each bit of the number.
pub(crate) fn mix(number: u64) -> u64 {
    SplitMix64::seed_from_u64(number).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// If this fails, runs of earlier builds resume with other draws. The expected values were computed by an
    /// independent implementation in Python.
    #[test]
    fn draws_never_change() {
        let key = Key {
            seed: 42,
            step: 1,
            sample: 2,
            layer: 3,
        };
        let draws: Vec<u64> = key.draws().take(3).collect();
        assert_eq!(
            draws,
            [
                15_268_186_878_041_899_947,
                13_240_971_659_841_201_279,
                17_760_348_115_227_335_591
            ]
        );
    }

    #[test]
    fn keys_that_differ_anywhere_draw_apart() {
        let mut seen = HashSet::new();
        for at in 0..10_000_u64 {
            let [seed, step, sample, layer] = [1, 10, 100, 1000].map(|place| at / place % 10);
            let key = Key {
                seed,
                step,
                sample,
                layer,
            };
            assert!(seen.insert(key.draws().next()), "{key:?}");
        }
    }

    /// Of 100,000 keys, the mean of the first draws: 0.5, five standard deviations are 0.0046.
    #[test]
    fn first_draws_of_neighbouring_keys_are_uniform() {
        let first = |sample| {
            Key {
                seed: 0,
                step: 0,
                sample,
                layer: 0,
            }
            .uniform()
            .next()
            .unwrap()
        };
        let mean = (0..100_000).map(first).sum::<f64>() / 100_000.0;
        assert!((mean - 0.5).abs() < 0.0046, "{mean}");
    }
}
