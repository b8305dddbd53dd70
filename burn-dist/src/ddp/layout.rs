//! The bucket of each trained parameter, and its place there: pure, and the same on every rank that has the
//! same parameters, order and sizes.
//!
//! A bucket holds parameters of one element type, one behind the other in the given order, and behind
//! them one flag a parameter: 1 if the rank used it, else 0. Averaged along with the gradients, it tells every
//! rank which parameters were used anywhere, at no message of its own.
//!
//! The last bucket, of which there is always one, also holds the status of the rank's part of the step.
//!
//! A parameter that is large enough to travel alone has a bucket of its own without a flag, so that its
//! gradient is averaged in the memory that backward made it in. Its flag is in the next bucket that has
//! any.

use super::parameters::TensorInfo;
use burn::tensor::DType;
use std::ops::Range;

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

    /// The type of the elements.
    pub(super) fn dtype(self) -> DType {
        match self {
            Self::Single => DType::F32,
            Self::Double => DType::F64,
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

/// The status of a rank's part of a step. It travels with the last bucket, which waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// The gradients it handed over are of a pass that was dropped since: the step does not count.
    pub(super) void: bool,
    /// The gradients it gave count, and can't be given again.
    pub(super) spent: bool,
    /// It has late parts.
    pub(super) late: bool,
}

impl Status {
    /// The number of its flags.
    pub(super) const LEN: usize = 3;

    /// Returns it as flags, for the last bucket.
    pub(super) fn flags(self) -> [bool; Self::LEN] {
        [self.void, self.spent, self.late]
    }

    /// The status that [`flags`](Self::flags) came of.
    pub(super) fn of_flags([void, spent, late]: [bool; Self::LEN]) -> Self {
        Self { void, spent, late }
    }
}

/// Pieces of a large parameter begin at multiples of so many elements. Devices can show a part of a
/// tensor that begins there without a copy.
const PIECE_ALIGNMENT: usize = 1024;

/// All buckets of a model, in the order they are averaged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BucketLayout {
    pub(super) buckets: Vec<Bucket>,
}

/// The parameters of one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) precision: Precision,
    /// The parameters whose gradients it holds.
    pub(super) slots: Vec<GradientSlot>,
    /// The parameters whose flags it holds: those of its slots, and lone ones before.
    pub(super) flags: Vec<usize>,
    /// True for the last bucket, which also holds the rank's status of the step.
    pub(super) last: bool,
}

/// A parameter's place in its bucket, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GradientSlot {
    pub(super) parameter: usize,
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// The place of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BucketPlace {
    /// The bucket of its gradient.
    pub(super) bucket: usize,
    /// Its elements there.
    pub(super) range: Range<usize>,
    /// The bucket of its flag, and the element there.
    pub(super) flag: (usize, usize),
}

impl Bucket {
    fn empty(precision: Precision) -> Self {
        Self {
            precision,
            slots: Vec::new(),
            flags: Vec::new(),
            last: false,
        }
    }

    /// The number of gradient elements; the flags lie behind them.
    pub(super) fn gradient_len(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.offset + slot.len)
    }

    /// The first parameter that has elements in it.
    pub(super) fn first(&self) -> Option<usize> {
        let slot = self.slots.iter().find(|slot| slot.len > 0);
        slot.map(|slot| slot.parameter)
    }

    /// The number of elements, flags included.
    pub(super) fn len(&self) -> usize {
        self.status().end
    }

    /// The elements of the status; none but in the last bucket.
    pub(super) fn status(&self) -> Range<usize> {
        let start = self.gradient_len() + self.flags.len();
        start..start + if self.last { Status::LEN } else { 0 }
    }

    /// The number of bytes, flags included.
    pub(super) fn bytes(&self) -> u64 {
        (self.len() * self.precision.size()) as u64
    }

    /// Returns true if it is one large parameter's, without a flag.
    pub(super) fn is_lone(&self) -> bool {
        self.flags.is_empty() && !self.last
    }

    /// The parts that are averaged one after the other, in elements: a large parameter is cut into pieces of
    /// at most `cap` bytes, so that one can be read while another is averaged.
    pub(super) fn pieces(&self, cap: usize) -> Vec<Range<usize>> {
        let whole = 0..self.len();
        if !self.is_lone() {
            return vec![whole];
        }
        let most = (cap / self.precision.size()).max(1);
        // A quarter of all numbers at most, so that this can't overflow.
        let starts = whole.step_by(most.next_multiple_of(PIECE_ALIGNMENT));
        let ends = starts.clone().skip(1).chain([self.len()]);
        starts.zip(ends).map(|(start, end)| start..end).collect()
    }

    /// The number of parameters that write to it, and of statuses.
    pub(super) fn writers(&self) -> usize {
        self.slots.len().max(self.flags.len()) + usize::from(self.last)
    }

    fn push(&mut self, parameter: usize, len: usize) {
        let offset = self.gradient_len();
        self.slots.push(GradientSlot {
            parameter,
            offset,
            len,
        });
    }
}

impl BucketLayout {
    /// Fills buckets with the trained parameters in `order`, up to `first_cap` bytes in the first and
    /// `cap` in the others. Parameters of `first_cap` and more travel alone.
    pub(super) fn new(
        entries: &[TensorInfo],
        order: &[usize],
        first_cap: usize,
        cap: usize,
    ) -> Self {
        let mut buckets: Vec<Bucket> = Vec::new();
        let mut open: Option<Bucket> = None;
        let mut open_cap = first_cap;
        // Lone parameters whose flags lie nowhere yet.
        let mut owed = Vec::new();
        for &parameter in order.iter().filter(|&&i| entries[i].description.trained) {
            let (len, dtype) = (entries[parameter].len(), entries[parameter].dtype);
            let precision = Precision::of(dtype);
            let size = precision.size();
            if len * size >= first_cap.max(1) && dtype == precision.dtype() {
                let mut lone = Bucket::empty(precision);
                lone.push(parameter, len);
                buckets.push(lone);
                owed.push(parameter);
                continue;
            }
            let fits = |bucket: &mut Bucket| {
                bucket.precision == precision && (bucket.gradient_len() + len) * size <= open_cap
            };
            if let Some(mut full) = open.take_if(|bucket| !fits(bucket)) {
                full.flags.append(&mut owed);
                buckets.push(full);
                open_cap = cap;
            }
            let bucket = open.get_or_insert_with(|| Bucket::empty(precision));
            bucket.push(parameter, len);
            bucket.flags.push(parameter);
        }
        // If the last parameter travels alone, its flag is owed.
        let mut last = open.unwrap_or_else(|| Bucket::empty(Precision::Single));
        last.flags.append(&mut owed);
        last.last = true;
        buckets.push(last);
        Self { buckets }
    }

    /// For each of `parameters` parameters, where it is.
    pub(super) fn places(&self, parameters: usize) -> Vec<Option<BucketPlace>> {
        let mut flags = vec![None; parameters];
        for (b, bucket) in self.buckets.iter().enumerate() {
            for (f, &parameter) in bucket.flags.iter().enumerate() {
                flags[parameter] = Some((b, bucket.gradient_len() + f));
            }
        }
        let mut places = vec![None; parameters];
        for (bucket, slots) in self.buckets.iter().map(|bucket| &bucket.slots).enumerate() {
            for slot in slots {
                // Every slot's parameter has a flag somewhere.
                places[slot.parameter] = flags[slot.parameter].map(|flag| BucketPlace {
                    bucket,
                    range: slot.offset..slot.offset + slot.len,
                    flag,
                });
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
    use std::collections::HashSet;

    fn entry(len: usize, dtype: DType, trained: bool) -> TensorInfo {
        TensorInfo {
            description: Description {
                path: String::new(),
                also: Vec::new(),
                shape: vec![len],
                dtype: dtype.name().into(),
                trained,
            },
            dtype,
            device: Device::flex(),
            buffer: false,
            hooked: true,
        }
    }

    proptest! {
        #[test]
        fn every_trained_parameter_has_its_own_place(
            lens in prop::collection::vec((0_usize..200, 0..3, any::<bool>()), 0..40),
            first in 1_usize..300,
            cap in 1_usize..2000,
        ) {
            let dtypes = [DType::F32, DType::F64, DType::F16];
            let entries: Vec<TensorInfo> = lens
                .iter()
                .map(|&(len, dtype, trained)| entry(len, dtypes[dtype as usize], trained))
                .collect();
            let layout = BucketLayout::new(&entries, &reversed(entries.len()), first, cap);
            let places = layout.places(entries.len());
            let mut written: Vec<Vec<bool>> =
                layout.buckets.iter().map(|bucket| vec![false; bucket.len()]).collect();
            let mut writers: Vec<HashSet<usize>> = vec![HashSet::new(); layout.buckets.len()];
            for (i, entry) in entries.iter().enumerate() {
                prop_assert_eq!(places[i].is_some(), entry.description.trained);
                let Some(place) = &places[i] else { continue };
                let (flag_bucket, flag) = place.flag;
                prop_assert_eq!(place.range.len(), entry.len());
                prop_assert_eq!(
                    layout.buckets[place.bucket].precision,
                    Precision::of(entry.dtype)
                );
                // A flag is never averaged before its gradient.
                prop_assert!(flag_bucket >= place.bucket);
                let flag = [(flag_bucket, flag)].into_iter();
                for (bucket, element) in place.range.clone().map(|e| (place.bucket, e)).chain(flag) {
                    prop_assert!(!std::mem::replace(&mut written[bucket][element], true));
                }
                writers[place.bucket].insert(i);
                writers[flag_bucket].insert(i);
            }
            let (last, others) = layout.buckets.split_last().unwrap();
            prop_assert!(last.last && others.iter().all(|bucket| !bucket.last));
            for element in last.status() {
                prop_assert!(!std::mem::replace(&mut written[layout.buckets.len() - 1][element], true));
            }
            prop_assert!(written.iter().flatten().all(|written| *written));
            let mut first_packed = true;
            for (bucket, writers) in layout.buckets.iter().zip(&writers) {
                prop_assert_eq!(bucket.writers(), writers.len() + usize::from(bucket.last));
                let pieces = bucket.pieces(cap);
                let most = (cap / bucket.precision.size()).max(1) + PIECE_ALIGNMENT;
                prop_assert!(pieces.iter().all(|piece| !bucket.is_lone() || piece.len() <= most));
                let all: Vec<usize> = pieces.into_iter().flatten().collect();
                prop_assert_eq!(all, (0..bucket.len()).collect::<Vec<_>>());
                if bucket.is_lone() {
                    prop_assert_eq!(bucket.slots.len(), 1);
                    let entry = &entries[bucket.slots[0].parameter];
                    prop_assert!(entry.len() * bucket.precision.size() >= first);
                    prop_assert_eq!(entry.dtype, bucket.precision.dtype());
                } else {
                    let bytes = bucket.gradient_len() * bucket.precision.size();
                    let cap = if std::mem::take(&mut first_packed) { first } else { cap };
                    prop_assert!(bucket.slots.len() <= 1 || bytes <= cap);
                }
            }
        }

        #[test]
        fn an_observed_order_is_completed(seen in prop::collection::vec(0_usize..20, 0..20)) {
            let unique = seen.iter().collect::<HashSet<_>>().len() == seen.len();
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
