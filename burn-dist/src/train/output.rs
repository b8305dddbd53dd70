//! From the outputs of all ranks to one output, as if one device had run the whole batch: what metrics see.
//!
//! Metrics keep states of their own that burn-train does not show, so it is not their results that are put
//! together but their inputs, in the order of ranks, which is that of the samples.
//!
//! Users implement [`GatherOutput`] for outputs of their own.

use super::gather::Gather;
use crate::error::Result;
use burn::train::{
    ClassificationOutput, ItemLazy, MultiLabelClassificationOutput, RegressionOutput,
    SequenceOutput,
};

/// An output of a step that can be put together from those of all ranks. burn-train's own outputs are.
///
/// For an output of your own, gather what its metrics read; tensors that no metric reads may stay.
///
/// ```
/// use burn::{tensor::{ExecutionError, Tensor}, train::ItemLazy};
/// use burn_dist::{Result, train::{Gather, GatherOutput}};
///
/// struct Output {
///     loss: Tensor<1>,
///     distances: Tensor<1>,
/// }
/// # impl ItemLazy for Output {
/// #     fn sync(self) -> Result<Self, ExecutionError> { Ok(self) }
/// # }
///
/// impl GatherOutput for Output {
///     fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
///         Ok(Self {
///             loss: ranks.mean(self.loss)?,
///             distances: ranks.samples(self.distances)?,
///         })
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "metrics over all ranks need to know how outputs `{Self}` are put together",
    note = "implement `burn_dist::train::GatherOutput` for it"
)]
pub trait GatherOutput: ItemLazy {
    /// Source of the number that the loss is a mean over. Ranks weigh by it, in their gradients and in
    /// [`Gather::mean`].
    ///
    /// With [`LossOver::Samples`], which is the default, a loss that is a mean over anything else (tokens that are
    /// not padding, weights of classes) needs [`Distributed::with_loss_count`](super::Distributed::with_loss_count).
    const LOSS_OVER: LossOver = LossOver::Samples;

    /// Returns what this output's loss is a mean over, as its number of tokens: asked where
    /// [`LOSS_OVER`](Self::LOSS_OVER) is [`LossOver::Output`]. After 0 the rank contributes nothing, even if its
    /// loss is NaN.
    ///
    /// # Errors
    /// Those of reading it.
    fn loss_count(&self) -> Result<f64> {
        Ok(1.0)
    }

    /// Gathers the tensors, with the same calls on every rank. What it gives counts on rank 0 alone.
    ///
    /// # Errors
    /// Those of [`Gather`].
    fn gather(self, ranks: &Gather<'_>) -> Result<Self>;

    /// Gathers the tensors as several outputs, for metrics to see one after the other, where they can't be one: those
    /// of sequences whose lengths differ between ranks, by [`Gather::parts`]. As one, unless it says otherwise.
    ///
    /// # Errors
    /// Those of [`Gather`].
    fn gather_parts(self, ranks: &Gather<'_>) -> Result<Vec<Self>> {
        Ok(vec![self.gather(ranks)?])
    }
}

/// Source of the number that the loss in an output is a mean over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossOver {
    /// Nobody has to say: it is a mean over samples.
    Samples,
    /// The batch, by [`Distributed::with_loss_count`](super::Distributed::with_loss_count); a training without is refused.
    Batch,
    /// The output, by [`GatherOutput::loss_count`]. It knows only after backward, so gradients are averaged after
    /// the pass and not during it; a batch that can be counted is faster.
    Output,
}

impl GatherOutput for () {
    fn gather(self, _ranks: &Gather<'_>) -> Result<Self> {
        Ok(())
    }
}

impl GatherOutput for ClassificationOutput {
    fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
        Ok(Self {
            loss: ranks.mean(self.loss)?,
            output: ranks.samples(self.output)?,
            targets: ranks.samples(self.targets)?,
        })
    }
}

impl GatherOutput for MultiLabelClassificationOutput {
    fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
        Ok(Self {
            loss: ranks.mean(self.loss)?,
            output: ranks.samples(self.output)?,
            targets: ranks.samples(self.targets)?,
        })
    }
}

impl GatherOutput for RegressionOutput {
    fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
        Ok(Self {
            loss: ranks.mean(self.loss)?,
            output: ranks.samples(self.output)?,
            targets: ranks.samples(self.targets)?,
        })
    }
}

impl GatherOutput for SequenceOutput {
    const LOSS_OVER: LossOver = LossOver::Batch;

    fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
        let predictions = self.predictions;
        Ok(Self {
            loss: ranks.mean(self.loss)?,
            logits: ranks.samples(self.logits)?,
            predictions: predictions
                .map(|tokens| ranks.samples(tokens))
                .transpose()?,
            targets: ranks.samples(self.targets)?,
        })
    }

    fn gather_parts(self, ranks: &Gather<'_>) -> Result<Vec<Self>> {
        let loss = ranks.mean(self.loss)?;
        let logits = ranks.parts(self.logits)?;
        let targets = ranks.parts(self.targets)?;
        let predictions = match self.predictions {
            Some(predictions) => ranks.parts(predictions)?.into_iter().map(Some).collect(),
            None => vec![None; logits.len()],
        };
        if logits.len() != targets.len() || logits.len() != predictions.len() {
            let message = "logits, targets and predictions have sequences of unequal lengths";
            return Err(ranks.failed(message.to_owned()));
        }
        let parts = logits.into_iter().zip(predictions).zip(targets);
        let output = |((logits, predictions), targets)| Self {
            loss: loss.clone(),
            logits,
            predictions,
            targets,
        };
        Ok(parts.map(output).collect())
    }
}
