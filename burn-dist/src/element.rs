//! What can be sent and reduced: the element types, the operations that combine them, and the exact
//! arithmetic of each.
//!
//! The arithmetic is part of the crate's promise that a reduction gives the same bits however ranks
//! are laid over threads and machines, so every operation is defined on two elements and rounded to
//! the element type (or, for the mean, to its wide type) each time; the order in which they are
//! applied is fixed by `collective::tree`.

mod halves;

use half::{bf16, f16};

/// Reduction of the elements of all ranks to one.
///
/// | | floats | integers |
/// |---|---|---|
/// | `Sum`, `Product` | each step of the tree is rounded to the type (f16 and bf16: computed in f32, then rounded) | wraps on overflow |
/// | `Mean` | summed in a wide type (f16, bf16: f32), divided once, rounded once | summed in a wide type, so it can't overflow; truncated towards zero |
/// | `Min`, `Max` | NaN wins; of equal values (such as 0 and -0) that of the lower rank | |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// The sum over ranks.
    Sum,
    /// The sum over ranks divided by their number.
    Mean,
    /// The smallest of the ranks' values.
    Min,
    /// The largest of the ranks' values.
    Max,
    /// The product over ranks.
    Product,
}

impl ReduceOp {
    /// The name that error messages use.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Product => "product",
        }
    }
}

/// A type that collectives carry: `f32`, `f64`, [`half::f16`], [`half::bf16`], `i32`, `i64` or `u8`.
///
/// The trait is sealed: all ranks must agree on each type's arithmetic to the bit.
pub trait Element: bytemuck::Pod + Send + Sync + sealed::Arithmetic {
    /// The name of the type, as error messages and signatures write it.
    const NAME: &'static str;
}

mod sealed {
    /// Operations of a type that reductions need. `self` is always the lower rank's value.
    pub trait Arithmetic: Copy {
        /// Type of the sum of a mean, wide enough that neither range nor precision is lost.
        type Wide: bytemuck::Pod + Default;
        fn plus(self, other: Self) -> Self;
        fn times(self, other: Self) -> Self;
        fn smaller(self, other: Self) -> Self;
        fn larger(self, other: Self) -> Self;
        fn widen(self) -> Self::Wide;
        fn wide_plus(left: Self::Wide, right: Self::Wide) -> Self::Wide;
        /// The wide sum over `ranks` ranks, divided and brought back to the type.
        fn mean(sum: Self::Wide, ranks: usize) -> Self;
    }
}

/// Implements [`Element`] for floats that compute in themselves.
macro_rules! native_float {
    ($($float:ident),*) => {$(
        impl Element for $float {
            const NAME: &'static str = stringify!($float);
        }

        impl sealed::Arithmetic for $float {
            type Wide = $float;

            #[inline]
            fn plus(self, other: Self) -> Self {
                self + other
            }

            #[inline]
            fn times(self, other: Self) -> Self {
                self * other
            }

            #[inline]
            fn smaller(self, other: Self) -> Self {
                if self <= other || self.is_nan() { self } else { other }
            }

            #[inline]
            fn larger(self, other: Self) -> Self {
                if self >= other || self.is_nan() { self } else { other }
            }

            #[inline]
            fn widen(self) -> Self {
                self
            }

            #[inline]
            fn wide_plus(left: Self, right: Self) -> Self {
                left + right
            }

            #[inline]
            fn mean(sum: Self, ranks: usize) -> Self {
                sum / ranks as $float
            }
        }
    )*};
}

/// Implements [`Element`] for the 16-bit floats, which compute in f32, with the two conversions.
macro_rules! half_float {
    ($($float:ident by $widen:path, $narrow:path;)*) => {$(
        impl Element for $float {
            const NAME: &'static str = stringify!($float);
        }

        impl sealed::Arithmetic for $float {
            type Wide = f32;

            #[inline]
            fn plus(self, other: Self) -> Self {
                $narrow($widen(self) + $widen(other))
            }

            #[inline]
            fn times(self, other: Self) -> Self {
                $narrow($widen(self) * $widen(other))
            }

            #[inline]
            fn smaller(self, other: Self) -> Self {
                if self <= other || self.is_nan() { self } else { other }
            }

            #[inline]
            fn larger(self, other: Self) -> Self {
                if self >= other || self.is_nan() { self } else { other }
            }

            #[inline]
            fn widen(self) -> f32 {
                $widen(self)
            }

            #[inline]
            fn wide_plus(left: f32, right: f32) -> f32 {
                left + right
            }

            #[inline]
            fn mean(sum: f32, ranks: usize) -> Self {
                $narrow(sum / ranks as f32)
            }
        }
    )*};
}

/// Implements [`Element`] for integers, with the type that their means are summed in.
macro_rules! integer {
    ($($integer:ident in $wide:ident),*) => {$(
        impl Element for $integer {
            const NAME: &'static str = stringify!($integer);
        }

        impl sealed::Arithmetic for $integer {
            type Wide = $wide;

            #[inline]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline]
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            #[inline]
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }

            #[inline]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }

            #[inline]
            fn widen(self) -> $wide {
                $wide::from(self)
            }

            #[inline]
            fn wide_plus(left: $wide, right: $wide) -> $wide {
                left.wrapping_add(right)
            }

            #[inline]
            fn mean(sum: $wide, ranks: usize) -> Self {
                // A mean lies between the smallest and the largest value, so it fits the type.
                (sum / ranks as $wide) as $integer
            }
        }
    )*};
}

native_float!(f32, f64);
half_float! {
    f16 by halves::widen, halves::narrow;
    bf16 by bf16::to_f32, bf16::from_f32;
}
integer!(u8 in i64, i32 in i64, i64 in i128);

#[cfg(test)]
mod tests {
    use super::sealed::Arithmetic;
    use super::*;

    #[test]
    fn a_nan_wins_on_either_side() {
        for (left, right) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            assert!(left.smaller(right).is_nan());
            assert!(left.larger(right).is_nan());
        }
        assert!(f16::ONE.smaller(f16::NAN).is_nan());
        assert!(bf16::NAN.larger(bf16::ONE).is_nan());
    }

    #[test]
    fn ties_keep_the_lower_ranks_value() {
        assert!((-0.0_f64).larger(0.0).is_sign_negative());
        assert!(0.0_f64.smaller(-0.0).is_sign_positive());
    }

    #[test]
    fn integers_wrap_in_sums_and_not_in_means() {
        assert_eq!(200_u8.plus(100), 44);
        assert_eq!(i32::MAX.times(2), -2);
        let sum = i64::wide_plus(i64::MAX.widen(), i64::MAX.widen());
        assert_eq!(i64::mean(sum, 2), i64::MAX);
        assert_eq!(i32::mean(-7, 2), -3, "truncated towards zero");
    }

    #[test]
    fn a_half_mean_neither_overflows_nor_rounds_twice() {
        let sum = f16::wide_plus(f16::MAX.widen(), f16::MAX.widen());
        assert_eq!(f16::mean(sum, 2), f16::MAX);
        assert_eq!(f16::MAX.plus(f16::MAX), f16::INFINITY);
    }
}
