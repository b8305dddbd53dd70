//! Identities with backward steps of their own, which Burn's autodiff takes as operations, and the leaves of its graph.
//!
//! Burn dispatches an operation of another crate by a trait that each backend implements. [`GradientOps`] is the only
//! one: a backend that trains with this crate has its arm here and in [`supports`].

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    AutodiffBackend, Backend, Dispatch, DispatchDevice, DispatchKindConversion, DispatchTensor,
    backend_extension, ops::FloatTensorOps,
};
use burn::tensor::{Device, Tensor};
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// The backward step of an identity. It runs while Burn holds the lock of the graph, so it starts no autodiff operation.
pub(crate) trait BackwardStep: Clone + fmt::Debug + Send + 'static {
    /// Makes the gradient of the input of that of the output.
    fn map<B: Backend>(&self, gradient: FloatTensor<B>) -> FloatTensor<B>
    where
        DispatchTensor: DispatchKindConversion<B>;

    /// Takes notice of a gradient that was added to the others of its input in the container.
    fn arrived<B: Backend>(self, input: NodeId, gradients: &mut Gradients)
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        let _ = (input, gradients);
    }
}

/// The backend extension. Each backend's arm is compiled where its feature is on.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    Autodiff
)]
pub(crate) trait GradientOps: Backend {
    /// Returns `tensor`. Under autodiff, its gradient passes through the step.
    fn with_step<S: BackwardStep>(tensor: FloatTensor<Self>, step: S) -> FloatTensor<Self> {
        let _ = step;
        tensor
    }

    /// Returns `parameter`. Under autodiff, its gradient passes through the step, `bind` gets its leaf, and `anchor`,
    /// which is not tracked, lends the operation its depth in the graph.
    fn hooked<S: BackwardStep, F: FnOnce(Leaf)>(
        parameter: FloatTensor<Self>,
        anchor: FloatTensor<Self>,
        bind: F,
        step: S,
    ) -> FloatTensor<Self> {
        let _ = (anchor, bind, step);
        parameter
    }

    /// Returns `output`, which is not tracked. Under autodiff, its gradient passes through the step to `input`. The
    /// step runs for an input without a gradient too, if it must.
    fn mapped<S: BackwardStep>(
        input: FloatTensor<Self>,
        output: FloatTensor<Self>,
        step: S,
        must: bool,
    ) -> FloatTensor<Self> {
        let _ = (input, step, must);
        output
    }

    /// Returns `parameter`. Under autodiff, `found` gets its leaf.
    fn leaf_probe<F: FnOnce(Leaf)>(parameter: FloatTensor<Self>, found: F) -> FloatTensor<Self> {
        let _ = found;
        parameter
    }
}

#[cfg(feature = "flex")]
impl GradientOps for burn::backend::Flex {}

// With or without kernel fusion: Burn's alias follows its own feature.
#[cfg(feature = "cube")]
impl GradientOps for burn::backend::Cube {}

impl<B: Backend, C: CheckpointStrategy> GradientOps for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn with_step<S: BackwardStep>(tensor: FloatTensor<Self>, step: S) -> FloatTensor<Self> {
        let (tensor, node) = tensor.into_parts();
        identity::<B, C, S, 1>([node], tensor, step, || None)
    }

    fn hooked<S: BackwardStep, F: FnOnce(Leaf)>(
        parameter: FloatTensor<Self>,
        anchor: FloatTensor<Self>,
        bind: F,
        step: S,
    ) -> FloatTensor<Self> {
        bind(Leaf::of::<B>(&parameter));
        let (parameter, node) = parameter.into_parts();
        let (_, anchor) = anchor.into_parts();
        identity::<B, C, S, 2>([node, anchor], parameter, step, || None)
    }

    fn mapped<S: BackwardStep>(
        input: FloatTensor<Self>,
        output: FloatTensor<Self>,
        step: S,
        must: bool,
    ) -> FloatTensor<Self> {
        let (input, node) = input.into_parts();
        let (output, untracked) = output.into_parts();
        let anchor = output.clone();
        let leaf = || {
            let leaf = Self::float_set_require_grad(Self::from_inner(input), true);
            [leaf, Self::from_inner(anchor)].map(|tensor| tensor.into_parts().1)
        };
        identity::<B, C, S, 2>([node, untracked], output, step, || must.then(leaf))
    }

    fn leaf_probe<F: FnOnce(Leaf)>(parameter: FloatTensor<Self>, found: F) -> FloatTensor<Self> {
        found(Leaf::of::<B>(&parameter));
        parameter
    }
}

/// Puts a step behind a value: the gradient goes to the first of the parents. If none of them is tracked, `instead` may
/// give others.
fn identity<B: Backend, C: CheckpointStrategy, S: BackwardStep, const N: usize>(
    parents: [NodeGuard; N],
    value: FloatTensor<B>,
    step: S,
    instead: impl FnOnce() -> Option<[NodeGuard; N]>,
) -> FloatTensor<Autodiff<B, C>>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let prepared = |parents| {
        let identity = Identity::<S>(PhantomData);
        let prepared = Backward::<B, N>::prepare::<C>(identity, parents);
        prepared.compute_bound().stateful()
    };
    let mut kind = prepared(parents);
    if let OpsKind::UnTracked(_) = kind
        && let Some(parents) = instead()
    {
        kind = prepared(parents);
    }
    match kind {
        OpsKind::Tracked(prepared) => prepared.finish(step, value),
        OpsKind::UnTracked(prepared) => prepared.finish(value),
    }
}

/// The operation, as Burn's graph has it.
#[derive(Debug)]
struct Identity<S>(PhantomData<S>);

impl<B: Backend, S: BackwardStep, const N: usize> Backward<B, N> for Identity<S>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = S;

    fn backward(self, ops: Ops<S, N>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let Some(Some(input)) = ops.parents.first() else {
            return;
        };
        let gradient = ops.state.map::<B>(gradient);
        gradients.register::<B>(input.id, gradient);
        ops.state.arrived::<B>(input.id, gradients);
    }
}

/// A leaf of autodiff's graph: the tensor that a gradient gathers in. The backend's own type is behind the `Any`.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: NodeId,
    tensor: Arc<dyn Any + Send + Sync>,
}

impl Leaf {
    fn of<B: Backend>(tensor: &FloatTensor<Autodiff<B>>) -> Self {
        Self {
            id: tensor.id(),
            tensor: Arc::new(tensor.clone()),
        }
    }

    /// The leaf as a tensor of a backend, if it is of that one. Its type does not depend on the checkpointing
    /// strategy.
    pub(crate) fn on<B: Backend>(&self) -> Option<&FloatTensor<Autodiff<B>>> {
        self.tensor.downcast_ref()
    }

    /// The leaf behind a tensor; none for a tensor without autodiff.
    pub(crate) fn behind<const D: usize>(tensor: Tensor<D>) -> Option<Self> {
        let mut found = None;
        drop(Dispatch::leaf_probe(tensor.into_dispatch(), |leaf| {
            found = Some(leaf);
        }));
        found
    }
}

/// Returns true if this build has backward steps on a device: its backend's feature must be one of *this* crate's, or
/// the operation would have no arm.
pub(crate) fn supports(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => true,
        #[allow(
            unreachable_patterns,
            reason = "which patterns exist depends on Burn's features"
        )]
        _ => false,
    }
}
