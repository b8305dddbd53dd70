//! The backward step: the adjoint map, run on the gradients of all ranks while backward runs.
//!
//! The output of the forward call is behind an identity (`autodiff`) whose backward step waits for the other ranks. Burn holds the lock of the graph meanwhile; each rank has a
//! graph of its own, so no rank waits for a lock that another holds.

use std::cell::Cell;
use std::time::{Duration, Instant};

use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, TensorMetadata,
    ops::FloatTensorOps,
};
use burn::tensor::{Shape, Tensor};

use super::map::Map;
use crate::autodiff::{BackwardStep, GradientOps};
use crate::error::{Error, Result};
use crate::group::ProcessGroup;

thread_local! {
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Runs `wait`, which waits for other ranks inside a forward or backward pass.
pub(crate) fn waiting<R>(wait: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = wait();
    WAITED.set(WAITED.get() + start.elapsed());
    result
}

/// Returns how long the passes of this thread have waited for other ranks so far. It tells a slow rank from those
/// that wait for it.
pub(crate) fn waited() -> Duration {
    WAITED.get()
}

/// Runs a map in forward, with another for backward.
pub(super) fn run<const D: usize>(
    group: &ProcessGroup,
    name: &'static str,
    forward: Map,
    backward: Map,
    tensor: Tensor<D>,
) -> Result<Tensor<D>> {
    if D == 0 {
        let message = "tensor: expected one dimension or more, got 0; reshape it".to_owned();
        return Err(group.refuse(name, message));
    }
    let name = group.caller().unwrap_or(name.into());
    let step = Adjoint {
        group: group.within(format!("{name} #{} backward", group.next_functional())),
        map: backward,
        shape: tensor.shape(),
    };
    let group = group.within(name);
    if !tensor.device().is_autodiff() {
        return waiting(|| forward.apply(&group, tensor));
    }
    let own = tensor.clone().detach();
    let output = waiting(|| forward.apply(&group, own))?;
    // The ranks that a root's tensor goes to wait for one another in backward, so each of them needs the step.
    let must = matches!(backward, Map::Reduce(_));
    let (input, output) = (tensor.into_dispatch(), output.into_dispatch());
    Ok(Tensor::from_dispatch(Dispatch::mapped(
        input, output, step, must,
    )))
}

/// State of a backward step.
#[derive(Clone, Debug)]
pub(super) struct Adjoint {
    group: ProcessGroup,
    map: Map,
    /// Shape of the input, and so of its gradient.
    shape: Shape,
}

impl Adjoint {
    /// Returns the gradient of the input for that of the output.
    fn apply(&self, gradient: FloatTensor<Dispatch>) -> Result<FloatTensor<Dispatch>> {
        let shape = gradient.shape();
        let row = shape.iter().skip(1).product();
        let rows = Shape::new([shape[0], row]);
        let gradient = Tensor::<2>::from_dispatch(Dispatch::float_reshape(gradient, rows));
        let gradient = waiting(|| self.map.apply(&self.group, gradient))?;
        Ok(Dispatch::float_reshape(
            gradient.into_dispatch(),
            self.shape.clone(),
        ))
    }

    /// Fails the groups of this rank with an error that backward can't return, and the job if this rank makes no
    /// further call.
    fn fail(&self, error: &Error) {
        tracing::warn!("a collective in backward failed, its gradient is zero: {error}");
        self.group.fail(error);
        self.group.fault(error.clone());
    }
}

impl BackwardStep for Adjoint {
    fn map<B: Backend>(&self, gradient: FloatTensor<B>) -> FloatTensor<B>
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        let (device, dtype) = (gradient.device(), gradient.dtype());
        let gradient = DispatchTensor::from_backend(BackendTensor::Float(gradient));
        let mapped = self.apply(gradient).inspect_err(|error| self.fail(error));
        match mapped.map(DispatchTensor::try_into_backend) {
            Ok(Ok(BackendTensor::Float(gradient))) => gradient,
            // The call failed. (What it returns is of this backend, as a tensor of floats.)
            _ => B::float_zeros(self.shape.clone(), &device, dtype.into()),
        }
    }
}
