//! The order of an epoch: a permutation of the dataset that depends on seed and epoch alone.
//!
//! The order is part of what a saved training state means: a run resumed by a later build must skip
//! the samples it has seen, so the permutation may never change. The `rand` crate reserves the right
//! to change the output of `shuffle` and of its standard generator between versions. So the two
//! algorithms stand here, over a published generator (SplitMix64: Steele, Lea and Flood, "Fast splittable
//! pseudorandom number generators", 2014), pinned by golden tests:
//!
//! - bounded draws without bias (Lemire, "Fast random integer generation in an interval", 2019),
//! - the Fisher–Yates shuffle, from the last position down.
//!
//! A list of more than 2^24 samples (128 MiB) is not made: there, `feistel` computes each index on its own.

use super::feistel::Feistel;
use crate::error::{Error, Result};
use crate::random::mix;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use std::sync::Arc;

/// The longest permutation that is listed. Changing it would change the order of longer data sets, and with it
/// what saved positions mean.
const LONGEST_LIST: usize = 1 << 24;

/// Maps the positions `0..len` of an epoch to indices of the dataset. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// Position and index are the same.
    Natural,
    /// `indices[position]`.
    Listed(Arc<Vec<usize>>),
    /// Each index is computed when it is asked for.
    Computed(Feistel),
}

impl Order {
    /// The order of `len` samples in `epoch`: shuffled if there is a seed.
    pub(super) fn new(len: usize, seed: Option<u64>, epoch: u64) -> Result<Self> {
        match seed {
            None => Ok(Self::Natural),
            Some(seed) if len > LONGEST_LIST => Ok(Self::Computed(Feistel::new(len, seed, epoch))),
            Some(seed) => permutation(len, seed, epoch).map(|indices| Self::Listed(indices.into())),
        }
    }

    /// The index at `position`, which must be below the length that the order was made with.
    pub(super) fn index(&self, position: usize) -> usize {
        match self {
            Self::Natural => position,
            Self::Listed(indices) => indices[position],
            Self::Computed(permutation) => permutation.index(position),
        }
    }
}

fn permutation(len: usize, seed: u64, epoch: u64) -> Result<Vec<usize>> {
    let mut indices = Vec::new();
    // The length is what a user's dataset claims: too large a claim is their error, not an abort.
    indices
        .try_reserve_exact(len)
        .map_err(|error| Error::Data {
            message: format!("no memory for a permutation of {len} samples: {error}"),
        })?;
    indices.extend(0..len);

    let mut random = generator(seed, epoch);
    for last in (1..len).rev() {
        // `last` fits in both types, so neither cast loses anything.
        let chosen = below(&mut random, last as u64 + 1) as usize;
        indices.swap(last, chosen);
    }
    Ok(indices)
}

/// Returns the generator of one epoch. Seed and epoch are mixed one after the other, so that epoch 1 of
/// seed 1 is unrelated to epoch 0 of seed 2, and all epochs of one seed start at different states.
pub(super) fn generator(seed: u64, epoch: u64) -> SplitMix64 {
    SplitMix64::seed_from_u64(mix(mix(seed) ^ epoch))
}

/// Draws a number in `0..bound`, each equally likely. `bound` must not be 0.
fn below(random: &mut SplitMix64, bound: u64) -> u64 {
    let mut product = u128::from(random.next_u64()) * u128::from(bound);
    // The low half tells whether this draw falls into the part of the range that would make some
    // numbers likelier than others; it does so rarely, and then another number is drawn.
    if (product as u64) < bound {
        let biased = bound.wrapping_neg() % bound;
        while (product as u64) < biased {
            product = u128::from(random.next_u64()) * u128::from(bound);
        }
    }
    (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_published_sequence() {
        let mut random = SplitMix64::seed_from_u64(1_234_567);
        let numbers: Vec<u64> = (0..5).map(|_| random.next_u64()).collect();
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
    }

    /// With this bound almost half of all draws are rejected, so the test covers the rejection.
    #[test]
    fn bounded_draws_reject_what_would_be_biased() {
        let mut random = SplitMix64::seed_from_u64(7);
        let numbers: Vec<u64> = (0..4).map(|_| below(&mut random, (1 << 63) + 1)).collect();
        assert_eq!(
            numbers,
            [
                3_595_544_800_446_187_243,
                8_308_050_873_407_804_673,
                2_300_599_727_732_774_152,
                1_238_314_238_945_538_992
            ]
        );
    }

    /// If this fails, saved states of earlier builds no longer resume where they stopped. The
    /// expected values were computed by an independent implementation in Python.
    #[test]
    fn permutations_never_change() {
        let golden: [(usize, u64, u64, &[usize]); 6] = [
            (0, 42, 0, &[]),
            (1, 42, 0, &[0]),
            (10, 42, 0, &[5, 1, 9, 6, 7, 2, 4, 0, 8, 3]),
            (10, 42, 1, &[8, 9, 1, 7, 6, 4, 3, 2, 0, 5]),
            (10, 43, 0, &[9, 7, 1, 3, 2, 8, 5, 0, 4, 6]),
            (
                16,
                u64::MAX,
                u64::MAX,
                &[14, 13, 2, 3, 11, 8, 9, 0, 4, 10, 7, 1, 12, 5, 6, 15],
            ),
        ];
        for (len, seed, epoch, expected) in golden {
            assert_eq!(permutation(len, seed, epoch).unwrap(), expected);
        }
    }

    /// All 24 orders of four samples, drawn 24,000 times: each is expected 1,000 times with a standard
    /// deviation of 31; a bound of 5 deviations leaves a fault nowhere to hide (the draw is fixed).
    #[test]
    fn every_order_is_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..24_000 {
            *counts
                .entry(permutation(4, 9, epoch).unwrap())
                .or_insert(0_i32) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(
            counts.values().all(|count| (count - 1000).abs() < 155),
            "{counts:?}"
        );
    }

    /// The order of a data set, of the two there are, is part of the meaning of its saved positions.
    #[test]
    fn only_long_orders_are_computed() {
        let order = |len| Order::new(len, Some(1), 0).unwrap();
        assert!(matches!(order(1 << 10), Order::Listed(_)));
        assert!(matches!(order((1 << 24) + 1), Order::Computed(_)));
        assert!(matches!(order(usize::MAX), Order::Computed(_)));
        assert_eq!(LONGEST_LIST, 1 << 24);
    }

    #[test]
    fn a_length_that_no_memory_holds_is_an_error() {
        let error = permutation(usize::MAX, 0, 0).unwrap_err();
        assert!(
            error.to_string().contains("no memory for a permutation"),
            "{error}"
        );
    }
}
