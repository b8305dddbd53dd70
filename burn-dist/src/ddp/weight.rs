//! The weight of a rank's loss among those of all ranks.

use super::handle::Ddp;
use crate::error::{Error, Result};
use crate::norm;

impl Ddp {
    /// Returns what to multiply this rank's loss by, a mean over `count` samples, tokens or other units, so
    /// that the mean over ranks of the gradients is that of one mean over the units of all ranks:
    /// `count × ranks ÷ the sum of the counts`. Every rank calls it once for each backward pass; it is 1
    /// where all counts are equal.
    ///
    /// ```no_run
    /// # use burn::{nn::{Linear, loss::{MseLoss, Reduction}}, optim::GradientsParams, tensor::Tensor};
    /// # use burn_dist::{data::ShardedBatch, ddp::Ddp, Result};
    /// # fn example(ddp: &Ddp, model: &Linear, batch: ShardedBatch<(Tensor<2>, Tensor<2>)>) -> Result<GradientsParams> {
    /// let weight = ddp.weight(batch.real as f64)?;
    /// let (x, y) = batch.batch;
    /// let loss = MseLoss::new().forward(model.forward(x), y, Reduction::Mean);
    /// ddp.synchronize((loss * weight).backward(), model)
    /// # }
    /// ```
    ///
    /// Count what the loss is a mean over: the rows of a batch, the tokens that are not padding, or the sum of
    /// the classes' weights. For several passes before one step ([`no_sync`](Self::no_sync)), give the count of
    /// all of them once, and multiply each pass's loss by its part of this rank's count as well. Terms that
    /// count the same on every rank, such as a penalty on the parameters, are added after the multiplication.
    ///
    /// # A count of 0
    /// The weight is 0 for a rank without units, and for all ranks if none has any; the gradients of such a
    /// step are zero. The mean over nothing is no number, and neither are its gradients: from here to the next
    /// [`synchronize`](Self::synchronize), elements of gradients that are not finite count as zero on this rank.
    /// Finite ones count as they are, so those of penalties do.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] on every rank if a count is negative or not finite, or their sum is too
    /// large; the group's own errors.
    pub fn weight(&self, count: f64) -> Result<f64> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        let ranks = self.control.ranks();
        let mut counts = vec![0.0; ranks.len()];
        self.control
            .within("Ddp::weight")
            .all_gather((&[count], &mut counts))?;
        let weight = share(&counts, self.control.rank());
        let weight = weight.map_err(|(rank, message)| Error::InvalidArgument {
            rank: ranks[rank],
            call: "Ddp::weight",
            message,
        })?;
        norm::set_loss_counts(count > 0.0);
        Ok(weight)
    }
}

/// The weight of one rank's count among all, or the first rank whose count can't be, and why.
fn share(counts: &[f64], rank: usize) -> Result<f64, (usize, String)> {
    let wrong = |count: &f64| !count.is_finite() || *count < 0.0;
    if let Some(at) = counts.iter().position(wrong) {
        let message = format!(
            "the count is {}; it counts what this rank's loss is a mean over, and is a finite number, 0 or more",
            counts[at]
        );
        return Err((at, message));
    }
    let sum: f64 = counts.iter().sum();
    if !sum.is_finite() {
        return Err((
            rank,
            format!("the counts {counts:?} of the ranks are too large to add"),
        ));
    }
    if sum > 0.0 {
        Ok(counts[rank] / sum * counts.len() as f64)
    } else {
        Ok(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::share;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_mean_of_weighed_means_is_the_mean_of_all(
            ranks in prop::collection::vec(prop::collection::vec(-10.0..10.0_f64, 0..6), 1..6),
        ) {
            let counts: Vec<f64> = ranks.iter().map(|values| values.len() as f64).collect();
            let all: Vec<f64> = ranks.iter().flatten().copied().collect();
            let weighed = ranks.iter().enumerate().map(|(rank, values)| {
                let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
                mean * share(&counts, rank).unwrap()
            });
            let mean = weighed.sum::<f64>() / ranks.len() as f64;
            let expected = all.iter().sum::<f64>() / all.len().max(1) as f64;
            prop_assert!((mean - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn counts_that_can_not_be_are_refused() {
        for wrong in [-1.0, f64::NAN, f64::INFINITY] {
            let (rank, message) = share(&[1.0, wrong], 0).unwrap_err();
            assert_eq!(rank, 1);
            assert!(
                message.contains(&format!("the count is {wrong};")),
                "{message}"
            );
        }
        assert!(share(&[f64::MAX, f64::MAX], 0).is_err());
        assert_eq!(share(&[f64::MAX, 0.0], 0), Ok(2.0));
        assert_eq!(share(&[0.0, 0.0], 0), Ok(0.0));
        assert_eq!(
            share(&[3.0, 3.0, 3.0], 1).unwrap().to_bits(),
            1.0_f64.to_bits()
        );
    }
}
