//! A generator per thread: xoshiro256++ (Blackman and Vigna, 2019), seeded from (seed, rank).
//!
//! Invariant: what a thread draws depends on its last [`seed`] or [`restore`] and on how much it drew since, never on
//! other threads.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

thread_local! {
    static STREAM: RefCell<Xoshiro256PlusPlus> = RefCell::new(Xoshiro256PlusPlus::seed_from_u64(0));
}

/// Seeds the calling thread's stream for a replica: equal seeds and ranks give equal draws.
///
/// A [`Launcher`](crate::launch::Launcher) does so with its own seed, 0 by default, and the global rank
/// before it runs a worker, so that ranks draw apart without a call. Call it at the start of a worker for another
/// seed. (A run that resumes goes on with [`restore`].) Another thread that was never seeded, such as one that a
/// worker starts, draws as after `seed(0, 0)`.
pub fn seed(seed: u64, rank: usize) {
    // Seeding spreads each input over the whole state (SplitMix64), so that neighbouring seeds and
    // ranks give unrelated streams; the odd factor keeps (1, 0) and (0, 1) apart.
    let mixed = seed.wrapping_add((rank as u64).wrapping_mul(0xD1B5_4A32_D192_ED03));
    STREAM.with_borrow_mut(|stream| *stream = Xoshiro256PlusPlus::seed_from_u64(mixed));
}

/// State of a thread's stream, as a checkpoint keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamState(Xoshiro256PlusPlus);

/// Returns the state of the calling thread's stream.
pub fn state() -> StreamState {
    STREAM.with_borrow(|stream| StreamState(stream.clone()))
}

/// Lets the calling thread draw what it would have drawn after [`state`] gave this.
pub fn restore(state: &StreamState) {
    STREAM.with_borrow_mut(|stream| *stream = state.0.clone());
}

/// Fills `values` with `kept` at probability `keep / 2^32` and with zero otherwise, from the calling thread's
/// stream.
pub(crate) fn fill_bernoulli(values: &mut [f32], keep: u64, kept: f32) {
    STREAM.with_borrow_mut(|stream| fill_bernoulli_from(stream, values, keep, kept));
}

/// [`fill_bernoulli`] from any generator.
pub(super) fn fill_bernoulli_from(
    generator: &mut Xoshiro256PlusPlus,
    values: &mut [f32],
    keep: u64,
    kept: f32,
) {
    for pair in values.chunks_mut(2) {
        let draw = generator.next_u64();
        for (value, half) in pair.iter_mut().zip([draw & 0xFFFF_FFFF, draw >> 32]) {
            *value = if half < keep { kept } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(seed_: u64, rank: usize) -> Vec<f32> {
        std::thread::spawn(move || {
            seed(seed_, rank);
            let mut values = vec![0.0; 101];
            fill_bernoulli(&mut values, 1 << 31, 1.0);
            values
        })
        .join()
        .unwrap()
    }

    #[test]
    fn a_stream_depends_on_seed_and_rank_alone() {
        assert_eq!(draws(1, 2), draws(1, 2));
        assert_ne!(draws(1, 2), draws(1, 3));
        assert_ne!(draws(1, 0), draws(0, 1));
    }

    #[test]
    fn a_restored_stream_goes_on_where_it_was() {
        let draw = || {
            let mut values = vec![0.0; 101];
            fill_bernoulli(&mut values, 1 << 31, 1.0);
            values
        };
        seed(5, 1);
        draw();
        let kept = serde_json::to_string(&state()).unwrap();
        let expected = draw();
        assert_ne!(draw(), expected);
        restore(&serde_json::from_str(&kept).unwrap());
        assert_eq!(draw(), expected);
    }

    #[test]
    fn the_share_of_ones_is_the_probability() {
        seed(9, 0);
        let mut values = vec![0.0; 100_000];
        fill_bernoulli(&mut values, (0.75 * 4_294_967_296.0) as u64, 1.0);
        let share = f64::from(values.iter().sum::<f32>()) / 100_000.0;
        // Five standard deviations of a binomial share: 5 * sqrt(0.75 * 0.25 / 1e5) = 0.0068.
        assert!((share - 0.75).abs() < 0.0068, "{share}");
    }
}
