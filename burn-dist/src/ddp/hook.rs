//! The hook: an identity on a parameter whose backward step sees the parameter's gradient while the
//! backward pass still runs.
//!
//! It is attached by Burn's two official extension points. [`GradientHook`] is a backend extension
//! with one operation, implemented for `Autodiff` with a backward step of its own and for the plain
//! backends as nothing at all. [`Hook`] is a reparameterization that applies the operation wherever
//! the forward pass reads the parameter; the stored parameter, which optimizers and records see,
//! stays what it was, and so does the model's type.
//!
//! Invariants: a backward step never blocks and never starts an autodiff operation (Burn holds the
//! graph's lock meanwhile); it only hands the gradient to its [`GradientSink`].
//!
//! Callers: `attach` puts [`Hook`]s on a model; Burn calls the rest.

use super::gradient::counted_on;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, backend_extension,
};
use burn::module::{Module, Param, Reparameterization, Reparameterizer};
use burn::tensor::{Device, Tensor};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A parameter's tensor as a forward pass used it: the leaf of autodiff's graph that its gradient
/// gathers in. The backend's own type is behind the `Any`.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    pub(super) id: NodeId,
    tensor: Arc<dyn Any + Send + Sync>,
}

/// Where the gradients of one replica go.
pub(super) trait GradientSink: fmt::Debug + Send + Sync {
    /// The forward pass reads this parameter: returns the anchor that gives this use its depth in the
    /// graph.
    fn used(&self, parameter: usize, device: &Device) -> Tensor<1>;

    /// The forward pass has read this tensor as the parameter.
    fn bind(&self, parameter: usize, leaf: Leaf);

    /// The tensor that the forward passes of this step have used as the parameter.
    fn leaf(&self, parameter: usize) -> Option<Leaf>;

    /// The gradient of one use arrived and was added to the leaf's, which held some already or not:
    /// returns whether the sum is complete and wanted.
    fn arrived(&self, parameter: usize, others_came: bool) -> bool;

    /// The complete gradient, taken out of Burn's container.
    fn complete(&self, parameter: usize, gradient: FloatTensor<Dispatch>);
}

/// Names one parameter of one replica.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) sink: Arc<dyn GradientSink>,
    pub(super) parameter: usize,
}

/// The backend extension. Each backend's arm is compiled where its feature is on.
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    Autodiff
)]
pub(super) trait GradientHook: Backend {
    /// Returns `parameter`. Under autodiff, `target` is told when its gradient arrives in backward,
    /// and `anchor`, which is not tracked, lends the operation its depth.
    fn gradient_hook(
        parameter: FloatTensor<Self>,
        anchor: FloatTensor<Self>,
        target: Target,
    ) -> FloatTensor<Self> {
        let _ = (anchor, target);
        parameter
    }
}

#[cfg(feature = "flex")]
impl GradientHook for burn::backend::Flex {}

// With or without kernel fusion: Burn's alias follows its own feature.
#[cfg(feature = "cube")]
impl GradientHook for burn::backend::Cube {}

impl<B: Backend, C: CheckpointStrategy> GradientHook for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn gradient_hook(
        parameter: FloatTensor<Self>,
        anchor: FloatTensor<Self>,
        target: Target,
    ) -> FloatTensor<Self> {
        // Held by the sink until the end of the step, as the model itself holds the leaf. (Burn asks
        // that the graph's own steps hold no leaves, or abandoned graphs would never go.)
        let leaf = Leaf {
            id: parameter.id(),
            tensor: Arc::new(parameter.clone()),
        };
        target.sink.bind(target.parameter, leaf);
        let (parameter, node) = parameter.into_parts();
        let (_, anchor) = anchor.into_parts();
        match HandOver
            .prepare::<C>([node, anchor])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prepared) => prepared.finish(target, parameter),
            OpsKind::UnTracked(prepared) => prepared.finish(parameter),
        }
    }
}

/// The backward step: passes the gradient on to the parameter, and tells the sink.
#[derive(Debug)]
struct HandOver;

impl<B: Backend> Backward<B, 2> for HandOver
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Target;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        // Of each use on its own, so that another use's gradient is not lost with one that is no number.
        let gradient = counted_on::<B>(gradients.consume::<B>(&ops.node));
        let [Some(node), _] = &ops.parents else {
            return;
        };
        let Target { sink, parameter } = ops.state;
        let leaf = sink.leaf(parameter).map(|leaf| leaf.tensor);
        // The same type whatever the checkpointing strategy.
        let leaf = leaf
            .as_deref()
            .and_then(|leaf| leaf.downcast_ref::<FloatTensor<Autodiff<B>>>());
        let others_came = leaf.is_some_and(|leaf| gradients.get::<B>(leaf).is_some());
        gradients.register::<B>(node.id, gradient);
        if sink.arrived(parameter, others_came)
            && let Some(complete) = leaf.and_then(|leaf| gradients.remove::<B>(leaf))
        {
            let complete = BackendTensor::Float(complete);
            sink.complete(parameter, DispatchTensor::from_backend(complete));
        }
    }
}

/// The reparameterization that applies the hook to one parameter.
#[derive(Module, Debug)]
pub(super) struct Hook {
    #[module(skip)]
    target: Target,
}

impl Reparameterization for Hook {
    const NAME: &'static str = "burn_dist";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        // Validation, and parameters frozen since.
        if !base.is_require_grad() {
            return base;
        }
        let Target { sink, parameter } = &self.target;
        let anchor = sink.used(*parameter, &base.device());
        Tensor::from_dispatch(Dispatch::gradient_hook(
            base.into_dispatch(),
            anchor.into_dispatch(),
            self.target.clone(),
        ))
    }
}

/// Puts a [`Hook`] on every parameter that `index` knows the path of.
pub(super) struct Hooks<'a, F> {
    pub(super) sink: &'a Arc<dyn GradientSink>,
    pub(super) index: F,
}

impl<F: Fn(&str) -> Option<usize>> Reparameterizer for Hooks<'_, F> {
    type Reparam = Hook;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Hook>) {
        let hook = (self.index)(path).map(|parameter| Hook {
            target: Target {
                sink: Arc::clone(self.sink),
                parameter,
            },
        });
        (param, hook)
    }
}

/// Whether this build can hook gradients on a device: its backend's feature must be one of *this*
/// crate's, or the operation would have no arm.
pub(super) fn supports(device: &Device) -> bool {
    use burn::backend::DispatchDevice;
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

#[cfg(test)]
mod tests;
