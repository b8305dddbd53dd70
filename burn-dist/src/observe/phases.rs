//! Spans around the phases of a step that only the training loop sees.

/// Runs the forward pass inside a span `forward`.
///
/// The three phases of a step have a function each, which does no more than that. A span has the rank of
/// the thread that a [`launch`](crate::launch)er started.
///
/// ```no_run
/// # use burn::{nn::Linear, tensor::Tensor};
/// # use burn_dist::{ddp::Ddp, Result};
/// use burn_dist::observe;
/// # fn example(ddp: &Ddp, model: &Linear, batch: Tensor<2>) -> Result<()> {
/// let loss = observe::forward(|| model.forward(batch).mean());
/// let gradients = ddp.synchronize(observe::backward(|| loss.backward()), model)?;
/// # Ok(())
/// # }
/// ```
pub fn forward<R>(pass: impl FnOnce() -> R) -> R {
    tracing::debug_span!("forward").in_scope(pass)
}

/// Runs the backward pass inside a span `backward`; see [`forward`].
pub fn backward<R>(pass: impl FnOnce() -> R) -> R {
    tracing::debug_span!("backward").in_scope(pass)
}

/// Runs the optimizer's step inside a span `optimizer`; see [`forward`].
pub fn optimizer<R>(step: impl FnOnce() -> R) -> R {
    tracing::debug_span!("optimizer").in_scope(step)
}
