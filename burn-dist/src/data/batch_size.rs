//! The rule of `batch_size` and `global_batch_size`: exactly one is given. The module `data` documents both.

use super::sampler::invalid;
use crate::error::Result;

/// A checked batch size, as the user gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchSize {
    /// The samples of one rank in a step.
    Rank(usize),
    /// The samples of all ranks in a step.
    Global(usize),
}

impl BatchSize {
    /// Takes the one of two settings that is given.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if both are given or neither is, or if the given one is 0.
    pub(crate) fn of(batch_size: Option<usize>, global_batch_size: Option<usize>) -> Result<Self> {
        let (size, name, samples) = match (batch_size, global_batch_size) {
            (Some(size), None) => (Self::Rank(size), "batch_size", size),
            (None, Some(size)) => (Self::Global(size), "global_batch_size", size),
            (None, None) => {
                return Err(invalid(
                    "no batch size: expected `batch_size` (the samples of a rank in a step) or \
                     `global_batch_size` (those of all ranks), got neither; give one of them",
                ));
            }
            (Some(rank), Some(global)) => {
                return Err(invalid(format!(
                    "two batch sizes: expected one of `batch_size` and `global_batch_size`, got {rank} and \
                     {global}; give only one of them"
                )));
            }
        };
        if samples == 0 {
            return Err(invalid(format!(
                "{name}: expected at least 1 sample, got 0; give the samples of a step"
            )));
        }
        Ok(size)
    }

    /// Returns the samples of each of `ranks` ranks in a step, the same for all.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if a global batch does not divide evenly.
    pub(crate) fn of_rank(self, ranks: usize) -> Result<usize> {
        match self {
            Self::Rank(size) => Ok(size),
            Self::Global(size) if size.is_multiple_of(ranks) => Ok(size / ranks),
            Self::Global(size) => Err(invalid(format!(
                "global_batch_size: expected a multiple of the {ranks} ranks, got {size}; give a multiple, or \
                 the `batch_size` of a rank"
            ))),
        }
    }

    /// Returns the samples of all of `ranks` ranks in a step.
    ///
    /// # Errors
    /// [`Error::Data`](crate::Error::Data) if the number exceeds `usize`.
    pub(crate) fn of_step(self, ranks: usize) -> Result<usize> {
        match self {
            Self::Global(size) => Ok(size),
            Self::Rank(size) => size.checked_mul(ranks).ok_or_else(|| {
                invalid(format!(
                    "batch_size: {ranks} ranks with {size} samples each exceed a usize; give fewer"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_size_is_given() {
        let of = BatchSize::of;
        assert_eq!(of(Some(4), None).unwrap(), BatchSize::Rank(4));
        assert_eq!(of(None, Some(4)).unwrap(), BatchSize::Global(4));
        for (rank, global, said) in [
            (None, None, "got neither"),
            (Some(4), Some(8), "got 4 and 8"),
            (Some(0), None, "batch_size: expected at least 1"),
            (None, Some(0), "global_batch_size: expected at least 1"),
        ] {
            let error = of(rank, global).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn sizes_of_a_rank_and_of_a_step_follow_from_one_another() {
        for (size, ranks, rank, step) in [
            (BatchSize::Rank(4), 3, 4, 12),
            (BatchSize::Global(12), 3, 4, 12),
            (BatchSize::Global(5), 1, 5, 5),
        ] {
            let sizes = (size.of_rank(ranks).unwrap(), size.of_step(ranks).unwrap());
            assert_eq!(sizes, (rank, step));
        }
        let uneven = BatchSize::Global(10).of_rank(3).unwrap_err().to_string();
        assert!(
            uneven.contains("a multiple of the 3 ranks, got 10"),
            "{uneven}"
        );
        let huge = BatchSize::Rank(2).of_step(usize::MAX).unwrap_err();
        assert!(huge.to_string().contains("exceed a usize"));
    }
}
