//! The backward step: the adjoint map, run on the gradients of all ranks while backward runs.
//!
//! It is a backend extension, as the hooks of `ddp` are: a plain identity on the output of the forward call, whose
//! backward step under autodiff waits for the other ranks. Burn holds the lock of the graph meanwhile; each rank has a
//! graph of its own, so no rank waits for a lock that another holds.

use std::cell::Cell;
use std::time::{Duration, Instant};

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    AutodiffBackend, Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor,
    TensorMetadata, backend_extension, ops::FloatTensorOps,
};
use burn::tensor::{Shape, Tensor};

use super::map::Map;
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
    let output = Dispatch::mapped(tensor.into_dispatch(), output.into_dispatch(), step);
    Ok(Tensor::from_dispatch(output))
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

#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    Autodiff
)]
trait Mapped: Backend {
    /// Returns `output`. Under autodiff, the gradient of `own` is what the step makes of that of the output.
    fn mapped(
        own: FloatTensor<Self>,
        output: FloatTensor<Self>,
        step: Adjoint,
    ) -> FloatTensor<Self> {
        let _ = (own, step);
        output
    }
}

#[cfg(feature = "flex")]
impl Mapped for burn::backend::Flex {}

#[cfg(feature = "cube")]
impl Mapped for burn::backend::Cube {}

impl<B: Backend, C: CheckpointStrategy> Mapped for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn mapped(
        own: FloatTensor<Self>,
        output: FloatTensor<Self>,
        step: Adjoint,
    ) -> FloatTensor<Self> {
        let (own, input) = own.into_parts();
        let (output, untracked) = output.into_parts();
        let prepare = |nodes| Step.prepare::<C>(nodes).compute_bound().stateful();
        match (prepare([input, untracked]), step.map) {
            (OpsKind::Tracked(prepared), _) => prepared.finish(step, output),
            (OpsKind::UnTracked(_), Map::Reduce(_)) => {
                // The other ranks wait for this one in backward, so it needs a backward step too.
                let leaf = Self::float_set_require_grad(Self::from_inner(own), true);
                let anchor = Self::from_inner(output.clone());
                match prepare([leaf.into_parts().1, anchor.into_parts().1]) {
                    OpsKind::Tracked(prepared) => prepared.finish(step, output),
                    OpsKind::UnTracked(prepared) => prepared.finish(output),
                }
            }
            (OpsKind::UnTracked(prepared), _) => prepared.finish(output),
        }
    }
}

#[derive(Debug)]
struct Step;

impl<B: Backend> Backward<B, 2> for Step
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Adjoint;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [Some(own), _] = &ops.parents else {
            return;
        };
        let (device, dtype) = (gradient.device(), gradient.dtype());
        let step = &ops.state;
        let gradient = DispatchTensor::from_backend(BackendTensor::Float(gradient));
        let mapped = step.apply(gradient).inspect_err(|error| step.fail(error));
        let gradient = match mapped.map(DispatchTensor::try_into_backend) {
            Ok(Ok(BackendTensor::Float(gradient))) => gradient,
            // The call failed. (What it returns is of this backend, as a tensor of floats.)
            _ => B::float_zeros(step.shape.clone(), &device, dtype.into()),
        };
        gradients.register::<B>(own.id, gradient);
    }
}
