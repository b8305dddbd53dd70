//! What the tests of the collectives share: ranks on threads, seeded values and a naive reference.
#![allow(dead_code, reason = "each test crate uses a part of this")]

pub(crate) mod collectives;
pub(crate) mod failures;
pub(crate) mod mismatches;
pub(crate) mod program;

use burn_dist::{Element, ProcessGroup, ReduceOp};
use half::{bf16, f16};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// Runs `work` as every rank of a group of threads, and returns the results in rank order.
pub(crate) fn on_ranks<R: Send>(ranks: usize, work: impl Fn(ProcessGroup) -> R + Sync) -> Vec<R> {
    on_groups(ProcessGroup::threads(ranks).unwrap(), work)
}

/// Runs `work` with each group on a thread of its own, and returns the results in their order.
pub(crate) fn on_groups<R: Send>(
    groups: Vec<ProcessGroup>,
    work: impl Fn(ProcessGroup) -> R + Sync,
) -> Vec<R> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = groups
            .into_iter()
            .map(|group| scope.spawn(move || work(group)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// A generator of reproducible numbers (SplitMix64), made from its state.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        let mut generator = SplitMix64::seed_from_u64(self.0);
        let number = generator.next_u64();
        self.0 = u64::from_le_bytes(generator.state());
        number
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Between -1 and 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.next() as i64 as f64 / i64::MAX as f64
    }
}

/// An element type with its arithmetic written out plainly, against which the library's is tested.
pub(crate) trait Reference: Element + PartialEq + std::fmt::Debug {
    fn random(random: &mut Random) -> Self;
    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    /// The mean in the canonical tree over the ranks' values.
    fn average(values: &[Self]) -> Self;
}

/// Joins values level by level: stride 1, 2, 4 and so on, a missing partner passed over.
pub(crate) fn tree<A: Copy>(values: &[A], join: impl Fn(A, A) -> A) -> A {
    let mut values = values.to_vec();
    let mut stride = 1;
    while stride < values.len() {
        let mut left = 0;
        while left + stride < values.len() {
            values[left] = join(values[left], values[left + stride]);
            left += 2 * stride;
        }
        stride *= 2;
    }
    values[0]
}

macro_rules! reference {
    (float: $type:ty) => {
        reference!(@ $type, |random: &mut Random| random.unit() as $type,
            |a: $type, b: $type| a + b, |a: $type, b: $type| a * b,
            |values: &[$type]| tree(values, |a, b| a + b) / values.len() as $type);
    };
    (half: $type:ty) => {
        reference!(@ $type, |random: &mut Random| <$type>::from_f64(random.unit()),
            |a: $type, b: $type| <$type>::from_f32(a.to_f32() + b.to_f32()),
            |a: $type, b: $type| <$type>::from_f32(a.to_f32() * b.to_f32()),
            |values: &[$type]| {
                let wide: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
                <$type>::from_f32(tree(&wide, |a, b| a + b) / values.len() as f32)
            });
    };
    (integer: $type:ty) => {
        reference!(@ $type, |random: &mut Random| random.next() as $type,
            |a: $type, b: $type| a.wrapping_add(b), |a: $type, b: $type| a.wrapping_mul(b),
            |values: &[$type]| {
                let sum: i128 = values.iter().map(|&value| i128::from(value)).sum();
                (sum / values.len() as i128) as $type
            });
    };
    (@ $type:ty, $random:expr, $sum:expr, $product:expr, $mean:expr) => {
        impl Reference for $type {
            fn random(random: &mut Random) -> Self {
                ($random)(random)
            }
            fn sum(self, other: Self) -> Self {
                ($sum)(self, other)
            }
            fn product(self, other: Self) -> Self {
                ($product)(self, other)
            }
            fn min(self, other: Self) -> Self {
                if other < self { other } else { self }
            }
            fn max(self, other: Self) -> Self {
                if other > self { other } else { self }
            }
            fn average(values: &[Self]) -> Self {
                ($mean)(values)
            }
        }
    };
}
reference!(float: f32);
reference!(float: f64);
reference!(half: f16);
reference!(half: bf16);
reference!(integer: i32);
reference!(integer: i64);
reference!(integer: u8);

pub(crate) const OPS: [ReduceOp; 5] = [
    ReduceOp::Sum,
    ReduceOp::Mean,
    ReduceOp::Min,
    ReduceOp::Max,
    ReduceOp::Product,
];

/// Returns the values of a rank: reproducible, so that every rank can compute the expected result.
pub(crate) fn values<T: Reference>(seed: u64, rank: usize, length: usize) -> Vec<T> {
    let mut random = Random(seed ^ (rank as u64 + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93));
    (0..length).map(|_| T::random(&mut random)).collect()
}

/// The inputs of all ranks.
pub(crate) fn all_values<T: Reference>(seed: u64, ranks: usize, length: usize) -> Vec<Vec<T>> {
    (0..ranks).map(|rank| values(seed, rank, length)).collect()
}

/// The reduction of all inputs, element by element, from its definition.
pub(crate) fn reduced<T: Reference>(inputs: &[Vec<T>], op: ReduceOp) -> Vec<T> {
    (0..inputs[0].len())
        .map(|place| {
            let column: Vec<T> = inputs.iter().map(|input| input[place]).collect();
            match op {
                ReduceOp::Sum => tree(&column, T::sum),
                ReduceOp::Product => tree(&column, T::product),
                ReduceOp::Min => tree(&column, T::min),
                ReduceOp::Max => tree(&column, T::max),
                ReduceOp::Mean => T::average(&column),
            }
        })
        .collect()
}

/// Compares bits, so that a difference in the last place or in the sign of zero counts.
#[track_caller]
pub(crate) fn assert_same<T: Reference>(found: &[T], expected: &[T], what: &str) {
    assert_eq!(found.len(), expected.len(), "length of {what}");
    let bytes = bytemuck::cast_slice::<T, u8>;
    if bytes(found) != bytes(expected) {
        let place = (0..found.len())
            .find(|&i| bytes(&found[i..=i]) != bytes(&expected[i..=i]))
            .unwrap();
        panic!(
            "{what}: element {place} is {:?}, not {:?}",
            found[place], expected[place]
        );
    }
}
