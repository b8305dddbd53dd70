//! f16 to f32 and back without a branch, so that compilers make vector instructions of loops over it on
//! every processor. (The crate `half` has instructions of their own where the processor has them, but one
//! call for each element.)
//!
//! Invariant: the same bits as `half` gives, in any case.
//!
//! Source: Giesen, "Float to half conversions" (2012), the variants that round to nearest even.

use half::f16;

const SIGN: u32 = 0x8000_0000;
/// f32's exponent of infinities and NaNs.
const INFINITE: u32 = 0xff << 23;
/// Bit that makes a NaN a quiet one.
const QUIET: u32 = 1 << 22;
/// The smallest normal f16, as f32.
const NORMAL: u32 = (127 - 14) << 23;
/// The first power of two that is no f16, as f32.
const OVERFLOW: u32 = (127 + 16) << 23;
/// Difference between the biased exponents of f32 and f16.
const BIAS: u32 = (127 - 15) << 23;
/// In sums with this number f32's last bit counts what the last bit of subnormal f16s does.
const ALIGN: u32 = ((127 - 15) + (23 - 10) + 1) << 23;

/// Exact.
#[inline]
pub(super) fn widen(half: f16) -> f32 {
    let bits = u32::from(half.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    let normal = magnitude + BIAS;
    let subnormal = (f32::from_bits(magnitude + NORMAL) - f32::from_bits(NORMAL)).to_bits();
    let infinite = magnitude | INFINITE;
    let nan = infinite | QUIET;
    let mut wide = normal;
    wide = if magnitude < 1 << 23 { subnormal } else { wide };
    wide = if magnitude >= 31 << 23 {
        infinite
    } else {
        wide
    };
    wide = if magnitude > 31 << 23 { nan } else { wide };
    f32::from_bits(wide | (bits & 0x8000) << 16)
}

/// Rounds to the nearest, of two as near to the even one.
#[inline]
pub(super) fn narrow(single: f32) -> f16 {
    let bits = single.to_bits();
    let magnitude = bits & !SIGN;
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(BIAS).wrapping_add(0xfff + odd) >> 13;
    let aligned = f32::from_bits(magnitude) + f32::from_bits(ALIGN);
    let subnormal = aligned.to_bits().wrapping_sub(ALIGN);
    let nan = 0x7e00 | (magnitude >> 13 & 0x3ff);
    let mut short = normal;
    short = if magnitude < NORMAL { subnormal } else { short };
    short = if magnitude >= OVERFLOW { 0x7c00 } else { short };
    short = if magnitude > INFINITE { nan } else { short };
    f16::from_bits((short | (bits & SIGN) >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_half_widens_as_the_crate_has_it() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            let wide = widen(half);
            assert_eq!(wide.to_bits(), half.to_f32().to_bits(), "{bits:#06x}");
            let back = narrow(wide).to_bits();
            assert_eq!(back, f16::from_f32(wide).to_bits(), "{bits:#06x}");
        }
    }

    /// Numbers near those halfway between two halves are where rounding goes wrong.
    #[test]
    fn numbers_around_each_half_are_rounded_as_the_crate_has_it() {
        for bits in 0..=u16::MAX {
            let wide = f16::from_bits(bits).to_f32().to_bits();
            for halfway in [0, 0x1000] {
                for near in 0..=2 {
                    let single =
                        f32::from_bits((wide ^ halfway).wrapping_add(near).wrapping_sub(1));
                    let expected = f16::from_f32(single).to_bits();
                    assert_eq!(
                        narrow(single).to_bits(),
                        expected,
                        "{:#x}",
                        single.to_bits()
                    );
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn any_number_is_rounded_as_the_crate_has_it(bits: u32) {
            let single = f32::from_bits(bits);
            prop_assert_eq!(narrow(single).to_bits(), f16::from_f32(single).to_bits());
        }
    }
}
