//! Which bucket each trained parameter lies in, and where: pure, and the same on every rank that
//! has the same parameters, order and sizes.
//!
//! A bucket holds parameters of one element type, one behind the other in the given order, and behind
//! them one element a parameter that says whether a rank used it (1) or not (0): averaged along with
//! the gradients, it tells every rank what was used anywhere, at no message of its own.
//!
//! Callers: `attach` and `reducer`.

use super::parameters::Entry;
use burn::tensor::DType;

/// The element type that a bucket is averaged in. Half-precision gradients travel and are added as
/// f32: a mean in f16 could overflow, and its rounding would grow with the number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    Single,
    Double,
}

impl Precision {
    fn of(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Self::Double,
            _ => Self::Single,
        }
    }

    /// The size of an element in bytes.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Single => 4,
            Self::Double => 8,
        }
    }
}

/// All buckets of a model, in the order they are averaged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) buckets: Vec<Bucket>,
}

/// The parameters of one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) precision: Precision,
    pub(super) slots: Vec<Slot>,
}

/// A parameter's place in its bucket, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) parameter: usize,
    pub(super) offset: usize,
    pub(super) len: usize,
}

impl Bucket {
    /// The number of gradient elements; the flags lie behind them.
    pub(super) fn gradient_len(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.offset + slot.len)
    }

    /// The number of elements, flags included.
    pub(super) fn len(&self) -> usize {
        self.gradient_len() + self.slots.len()
    }
}

impl Layout {
    /// Fills buckets with the trained parameters in `order`, up to `first_cap` bytes in the first and
    /// `cap` in the others. A parameter that is larger than that has a bucket of its own.
    pub(super) fn new(entries: &[Entry], order: &[usize], first_cap: usize, cap: usize) -> Self {
        let mut buckets: Vec<Bucket> = Vec::new();
        for &parameter in order.iter().filter(|&&i| entries[i].description.trained) {
            let len = entries[parameter].len();
            let precision = Precision::of(entries[parameter].dtype);
            let cap = if buckets.len() <= 1 { first_cap } else { cap };
            match buckets.last_mut() {
                Some(bucket)
                    if bucket.precision == precision
                        && (bucket.gradient_len() + len) * precision.size() <= cap =>
                {
                    let offset = bucket.gradient_len();
                    bucket.slots.push(Slot {
                        parameter,
                        offset,
                        len,
                    });
                }
                _ => buckets.push(Bucket {
                    precision,
                    slots: vec![Slot {
                        parameter,
                        offset: 0,
                        len,
                    }],
                }),
            }
        }
        Self { buckets }
    }

    /// For each of `parameters` parameters, its bucket and its slot there.
    pub(super) fn places(&self, parameters: usize) -> Vec<Option<(usize, usize)>> {
        let mut places = vec![None; parameters];
        for (b, bucket) in self.buckets.iter().enumerate() {
            for (s, slot) in bucket.slots.iter().enumerate() {
                places[slot.parameter] = Some((b, s));
            }
        }
        places
    }
}

/// The order to start with: gradients come roughly from the last layer to the first.
pub(super) fn reversed(parameters: usize) -> Vec<usize> {
    (0..parameters).rev().collect()
}

/// Completes an observed order with the parameters that were not seen, at the end; `None` if it is
/// no order of these parameters.
pub(super) fn completed(mut seen: Vec<usize>, parameters: usize) -> Option<Vec<usize>> {
    let mut missing = vec![true; parameters];
    for &parameter in &seen {
        if !std::mem::replace(missing.get_mut(parameter)?, false) {
            return None;
        }
    }
    seen.extend(
        (0..parameters)
            .rev()
            .filter(|&parameter| missing[parameter]),
    );
    Some(seen)
}

#[cfg(test)]
mod tests {
    use super::super::parameters::Description;
    use super::*;
    use burn::tensor::Device;
    use proptest::prelude::*;

    fn entry(len: usize, dtype: DType, trained: bool) -> Entry {
        Entry {
            description: Description {
                path: String::new(),
                shape: vec![len],
                dtype: dtype.name().into(),
                trained,
            },
            dtype,
            device: Device::flex(),
            buffer: false,
        }
    }

    proptest! {
        #[test]
        fn every_trained_parameter_has_its_own_place(
            lens in prop::collection::vec((0_usize..200, any::<bool>(), any::<bool>()), 0..40),
            first in 1_usize..300,
            cap in 1_usize..2000,
        ) {
            let entries: Vec<Entry> = lens
                .iter()
                .map(|&(len, double, trained)| {
                    entry(len, if double { DType::F64 } else { DType::F32 }, trained)
                })
                .collect();
            let layout = Layout::new(&entries, &reversed(entries.len()), first, cap);
            let places = layout.places(entries.len());
            for (i, entry) in entries.iter().enumerate() {
                prop_assert_eq!(places[i].is_some(), entry.description.trained);
            }
            for (b, bucket) in layout.buckets.iter().enumerate() {
                let mut end = 0;
                for slot in &bucket.slots {
                    prop_assert_eq!(slot.offset, end);
                    prop_assert_eq!(slot.len, entries[slot.parameter].len());
                    prop_assert_eq!(Precision::of(entries[slot.parameter].dtype), bucket.precision);
                    end += slot.len;
                }
                let bytes = end * bucket.precision.size();
                let cap = if b == 0 { first } else { cap };
                prop_assert!(bucket.slots.len() == 1 || bytes <= cap);
            }
        }

        #[test]
        fn an_observed_order_is_completed(seen in prop::collection::vec(0_usize..20, 0..20)) {
            let unique = seen.iter().collect::<std::collections::HashSet<_>>().len() == seen.len();
            match completed(seen.clone(), 20) {
                Some(order) => {
                    prop_assert!(unique);
                    prop_assert_eq!(&order[..seen.len()], &seen[..]);
                    let mut sorted = order;
                    sorted.sort_unstable();
                    prop_assert_eq!(sorted, (0..20).collect::<Vec<_>>());
                }
                None => prop_assert!(!unique),
            }
        }
    }

    #[test]
    fn an_order_of_other_parameters_is_refused() {
        assert_eq!(completed(vec![3], 3), None);
    }
}
