//! The norm of all gradients of a model, and its limit.

use super::gradient::is_queued;
use super::handle::Ddp;
use crate::error::{Error, Result};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};
use std::collections::HashSet;

/// The ranks that hold a model's gradients, for [`clip_grad_norm`]: for a [`Ddp`], each holds all. The trait is
/// sealed.
pub trait GradientScope: sealed::Scope {}

mod sealed {
    pub trait Scope {
        /// The sum over all gradients, of that over those that this rank has.
        fn over_ranks(&self, squares: f64) -> crate::Result<f64>;

        fn global_rank(&self) -> usize;
    }
}

impl GradientScope for Ddp {}

impl sealed::Scope for Ddp {
    fn over_ranks(&self, squares: f64) -> Result<f64> {
        // Averaged gradients are equal on all ranks.
        Ok(squares)
    }

    fn global_rank(&self) -> usize {
        self.group.global_rank()
    }
}

/// Scales the averaged gradients of a model so that their global norm is at most `max`, and returns the norm
/// that they had: the root of the sum of the squares of all elements, as `torch.nn.utils.clip_grad_norm_`.
/// (Burn's own gradient clipping takes the norm of each tensor.)
///
/// It is the same on every rank, and that of one process with the whole batch. Squares are added in f64 on the
/// CPU, and tensor by tensor in f32 on GPUs, so the norm of f16 gradients does not overflow. A parameter that is
/// in several places of the model counts once. With an infinite `max` the norm is only measured.
///
/// If the norm is not finite, gradients stay as they are: look at what is returned, and leave out the step,
/// as all ranks do then.
///
/// ```no_run
/// # use burn::{nn::Linear, optim::GradientsParams, tensor::Tensor};
/// # use burn_dist::{ddp::{Ddp, clip_grad_norm}, Result};
/// # fn example(ddp: &Ddp, model: &Linear, loss: Tensor<1>) -> Result<GradientsParams> {
/// let mut gradients = ddp.synchronize(loss.backward(), model)?;
/// let norm = clip_grad_norm(&mut gradients, model, 1.0, ddp)?;
/// # Ok(gradients)
/// # }
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`] if `max` is negative or no number, or if there are gradients of parameters that
/// the model lacks; [`Error::Tensor`] if a gradient can't be read.
pub fn clip_grad_norm<M: Module, S: GradientScope>(
    grads: &mut GradientsParams,
    model: &M,
    max: f64,
    scope: &S,
) -> Result<f64> {
    let refused = |message: String| Error::InvalidArgument {
        rank: scope.global_rank(),
        call: "clip_grad_norm",
        message,
    };
    if max.is_nan() || max < 0.0 {
        return Err(refused(format!(
            "the largest norm is {max}; give a number, 0 or more"
        )));
    }
    let mut squares = Squares {
        grads,
        seen: HashSet::new(),
        sum: 0.0,
        queued: Vec::new(),
        failed: None,
    };
    model.visit(&mut squares);
    let of_model = squares.seen.len();
    let sum = squares.finish().map_err(|message| Error::Tensor {
        rank: scope.global_rank(),
        operation: "reading the norm of gradients",
        message,
    })?;
    if of_model < grads.len() {
        return Err(refused(format!(
            "{} of {} gradients belong to parameters that this model lacks; give the model that was given to \
             `synchronize`",
            grads.len() - of_model,
            grads.len()
        )));
    }
    let norm = scope.over_ranks(sum)?.sqrt();
    if norm.is_finite() && norm > max {
        let mut scaler = Scaler {
            grads,
            seen: HashSet::new(),
            factor: max / norm,
        };
        model.visit(&mut scaler);
    }
    Ok(norm)
}

/// Adds up the squares of all gradients.
struct Squares<'a> {
    grads: &'a GradientsParams,
    seen: HashSet<ParamId>,
    sum: f64,
    /// The norms of gradients whose devices are not waited for yet.
    queued: Vec<Tensor<1>>,
    failed: Option<String>,
}

impl Squares<'_> {
    /// The sum, once all devices have come to it.
    fn finish(mut self) -> Result<f64, String> {
        if let Some(message) = self.failed {
            return Err(message);
        }
        if !self.queued.is_empty() {
            let norms = Tensor::cat(self.queued, 0).try_into_data();
            let norms = norms.map_err(|error| error.to_string())?;
            self.sum += norms.iter::<f64>().map(|norm| norm * norm).sum::<f64>();
        }
        Ok(self.sum)
    }
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.grads.get::<D>(param.id) else {
            return;
        };
        if !self.seen.insert(param.id) || self.failed.is_some() {
            return;
        }
        if is_queued(gradient.device().without_autodiff().as_dispatch()) {
            self.queued.push(norm_on_device(gradient));
            return;
        }
        match gradient.try_into_data() {
            Ok(data) => self.sum += data.iter::<f64>().map(|value| value * value).sum::<f64>(),
            Err(error) => self.failed = Some(error.to_string()),
        }
    }
}

/// The norm of one gradient, without waiting for its device. Elements are divided by the largest before they
/// are squared, so that squares overflow only where the norm would.
fn norm_on_device<const D: usize>(gradient: Tensor<D>) -> Tensor<1> {
    let gradient = widened(gradient).abs();
    if gradient.shape().num_elements() == 0 {
        return Tensor::zeros([1], &gradient.device());
    }
    // The smallest divisor whose reciprocal is finite.
    let largest = gradient
        .clone()
        .max()
        .clamp_min(f64::from(f32::MIN_POSITIVE));
    let scaled = gradient / largest.clone().reshape([1; D]);
    largest * scaled.square().sum().sqrt()
}

/// As f32 if it is narrower.
fn widened<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::F16 | DType::BF16 => tensor.cast(DType::F32),
        _ => tensor,
    }
}

/// Multiplies all gradients.
struct Scaler<'a> {
    grads: &'a mut GradientsParams,
    seen: HashSet<ParamId>,
    factor: f64,
}

impl ModuleVisitor for Scaler<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.seen.insert(param.id) {
            return;
        }
        if let Some(gradient) = self.grads.remove::<D>(param.id) {
            let dtype = gradient.dtype();
            // The factor may be too small for f16.
            let scaled = widened(gradient).mul_scalar(self.factor);
            let scaled = if scaled.dtype() == dtype {
                scaled
            } else {
                scaled.cast(dtype)
            };
            self.grads.register(param.id, scaled);
        }
    }
}
