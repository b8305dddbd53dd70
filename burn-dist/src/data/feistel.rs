//! A permutation that is computed index by index, in memory that does not depend on its length.
//!
//! A Feistel network (Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom
//! functions", 1988) permutes the numbers of a whole number of bits. Cycle walking (Black and Rogaway,
//! "Ciphers with arbitrary finite domains", 2002) applies it until the result is below the length: at most
//! twice on average, because the domain is less than twice the length.
//!
//! Invariant: as the permutations of `permutation`, these never change, because saved positions are
//! positions in them.

use super::permutation::generator;
use crate::random::mix;
use rand_xoshiro::rand_core::Rng;

/// Even, so that the halves end in the places in which they began. Four rounds of a random function are
/// provably good; this one is a mixing function, so there are twice as many.
const ROUNDS: usize = 8;

/// Number that SplitMix64 adds before it mixes. Keys are less by it, so that rounds mix the number itself.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// A permutation of `0..len`.
#[derive(Clone, Debug)]
pub(super) struct Feistel {
    len: u64,
    /// Bits of the upper half of a number, and of its lower half.
    bits: [u32; 2],
    keys: [u64; ROUNDS],
}

impl Feistel {
    /// The permutation of `len` numbers, at least 2, in `epoch`.
    pub(super) fn new(len: usize, seed: u64, epoch: u64) -> Self {
        let len = len as u64;
        let bits = u64::BITS - (len - 1).leading_zeros();
        let mut random = generator(seed, epoch);
        Self {
            len,
            bits: [bits - bits / 2, bits / 2],
            keys: std::array::from_fn(|_| random.next_u64().wrapping_sub(INCREMENT)),
        }
    }

    /// The number at `position`, which is below the length, as is the number.
    pub(super) fn index(&self, position: usize) -> usize {
        let mut number = self.permute(position as u64);
        // The walk ends: at the latest, the cycle comes back to the position.
        while number >= self.len {
            number = self.permute(number);
        }
        // It is below the length, which came from a usize.
        number as usize
    }

    fn permute(&self, number: u64) -> u64 {
        let [mut upper_bits, mut lower_bits] = self.bits;
        let (mut upper, mut lower) = (number >> lower_bits, number & ones(lower_bits));
        for key in self.keys {
            let mixed = mix(lower.wrapping_add(key)) & ones(upper_bits);
            (upper, lower) = (lower, upper ^ mixed);
            (upper_bits, lower_bits) = (lower_bits, upper_bits);
        }
        upper << lower_bits | lower
    }
}

/// The number whose lowest `bits` bits are set; fewer than 64.
fn ones(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(len: usize, seed: u64, epoch: u64) -> Vec<usize> {
        let order = Feistel::new(len, seed, epoch);
        (0..len).map(|position| order.index(position)).collect()
    }

    proptest! {
        #[test]
        fn every_number_has_one_position(len in 2..3_000_usize, seed: u64, epoch: u64) {
            let mut numbers = numbers(len, seed, epoch);
            numbers.sort_unstable();
            prop_assert!(numbers.into_iter().eq(0..len));
        }

        #[test]
        fn numbers_of_any_length_are_below_it(
            len in 2..=usize::MAX, position: usize, seed: u64, epoch: u64,
        ) {
            prop_assert!(Feistel::new(len, seed, epoch).index(position % len) < len);
        }
    }

    /// If this fails, saved positions of earlier builds no longer resume where they stopped. The expected
    /// values were computed by an independent implementation in Python.
    #[test]
    fn permutations_never_change() {
        let all = |len, seed, epoch| numbers(len, seed, epoch);
        assert_eq!(all(10, 42, 0), [7, 1, 2, 8, 6, 9, 4, 0, 5, 3]);
        assert_eq!(
            all(16, u64::MAX, u64::MAX),
            [13, 11, 0, 9, 5, 1, 4, 12, 10, 7, 8, 15, 14, 3, 6, 2]
        );
        let some = |len, seed, epoch, positions: [usize; 3]| {
            let order = Feistel::new(len, seed, epoch);
            positions.map(|position| order.index(position))
        };
        assert_eq!(
            some(100_000_000, 42, 1, [0, 1, 99_999_999]),
            [25_830_999, 86_971_196, 52_716_544]
        );
        assert_eq!(
            some((1 << 24) + 1, 7, 0, [0, 1, 1 << 24]),
            [13_468_967, 14_030_652, 10_510_496]
        );
    }

    /// Of 2,000 epochs, the share of each tenth of the numbers at a position: 200 with a standard deviation
    /// of 13. Of neighbours, which is larger: half, with a deviation of 22. The draws are fixed; a fault
    /// has five deviations to hide in.
    #[test]
    fn any_number_is_anywhere_and_neighbours_are_unrelated() {
        for len in [1_000, 1_025, 2_040] {
            for position in [0, 1, len / 2, len - 2] {
                let (mut tenths, mut rising) = ([0_i32; 10], 0_i32);
                for epoch in 0..2_000 {
                    let order = Feistel::new(len, 3, epoch);
                    let (here, next) = (order.index(position), order.index(position + 1));
                    tenths[here * 10 / len] += 1;
                    rising += i32::from(next > here);
                }
                assert!(
                    tenths.iter().all(|count| (count - 200).abs() < 66),
                    "{len}: {tenths:?}"
                );
                assert!((rising - 1_000).abs() < 112, "{len}: {rising}");
            }
        }
    }

    /// Over one epoch of many samples, positions and numbers are uncorrelated: the sum of products of
    /// both, centred and scaled, is normal with deviation 1.
    #[test]
    fn the_order_is_unrelated_to_that_of_the_data_set() {
        let len = 100_000;
        for seed in 0..5 {
            let half = (len as f64 - 1.0) / 2.0;
            let products = numbers(len, seed, 0).into_iter().enumerate();
            let sum: f64 = products
                .map(|(position, number)| (position as f64 - half) * (number as f64 - half))
                .sum();
            let variance = (len as f64 * len as f64 - 1.0) / 12.0;
            let normal = sum / variance / (len as f64 - 1.0).sqrt();
            assert!(normal.abs() < 5.0, "{normal}");
        }
    }
}
