//! The hook: an identity on a parameter whose backward step sees the parameter's gradient while the
//! backward pass still runs.
//!
//! It is attached by Burn's two official extension points. The identity is a backend extension
//! ([`GradientOps`]). [`Hook`] is a reparameterization that applies it wherever
//! the forward pass reads the parameter; the stored parameter, which optimizers and records see,
//! stays what it was, and so does the model's type.
//!
//! Invariants: a backward step never blocks and never starts an autodiff operation (Burn holds the
//! graph's lock meanwhile); it only hands the gradient to its [`GradientSink`].

use crate::autodiff::{BackwardStep, GradientOps, Leaf};
use crate::norm::counted_on;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor};
use burn::module::{
    Module, ModuleMapper, ModuleVisitor, Param, Reparameterization, Reparameterizer,
};
use burn::tensor::{Device, Tensor};
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

/// The number of a backward pass, within one replica of one model.
pub(super) type PassId = u64;

/// The receiver of the gradients of one replica.
pub(super) trait GradientSink: fmt::Debug + Send + Sync {
    /// The forward pass reads this parameter: returns the anchor that gives this use its depth in the graph; none
    /// if gradients are nobody's business any more.
    fn used(&self, parameter: usize, device: &Device) -> Option<Tensor<1>>;

    /// The forward pass has read this leaf as the parameter.
    fn bind(&self, parameter: usize, leaf: Leaf);

    /// Returns the pass whose token is `present` in a backward pass's container.
    fn known_pass(&self, present: &dyn Fn(&Leaf) -> bool) -> Option<PassId>;

    /// Begins a pass that no hook has met yet, and returns the token to leave in its container; none if its
    /// gradients are nobody's business.
    fn begin_pass(&self, parameter: usize) -> Option<(PassId, Leaf)>;

    /// The gradient of one use arrived at a leaf and was added to the others there. Returns the leaf if the
    /// sum is to be handed over.
    fn arrived(&self, pass: Option<PassId>, parameter: usize, leaf: NodeId) -> Option<Leaf>;

    /// The sum that was asked for, taken out of Burn's container.
    fn complete(&self, pass: Option<PassId>, parameter: usize, gradient: FloatTensor<Dispatch>);

    /// Names the sink among all of this process.
    fn key(&self) -> u64;
}

/// Names one parameter of one replica.
#[derive(Clone, Debug)]
pub(super) struct HookTarget {
    pub(super) sink: Arc<dyn GradientSink>,
    pub(super) parameter: usize,
}

impl HookTarget {
    /// Returns the parameter, behind a hook that tells of its gradient. The anchor, which is not tracked, lends the
    /// hook its depth.
    fn hook<const D: usize>(&self, parameter: Tensor<D>, anchor: Tensor<1>) -> Tensor<D> {
        let (parameter, anchor) = (parameter.into_dispatch(), anchor.into_dispatch());
        // Held by the sink until the end of the step, as the model itself holds the leaf. (Burn asks
        // that the graph's own steps hold no leaves, or abandoned graphs would never go.)
        let bind = |leaf| self.sink.bind(self.parameter, leaf);
        Tensor::from_dispatch(Dispatch::hooked(parameter, anchor, bind, self.clone()))
    }
}

/// The backward step: passes the gradient on to the parameter, and tells the sink.
impl BackwardStep for HookTarget {
    // Of each use on its own, so that another use's gradient is not lost with one that is no number.
    fn map<B: Backend>(&self, gradient: FloatTensor<B>) -> FloatTensor<B>
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        counted_on::<B>(gradient)
    }

    fn arrived<B: Backend>(self, leaf: NodeId, gradients: &mut Gradients)
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        let Self { sink, parameter } = self;
        let pass = pass_of::<B>(&*sink, parameter, gradients);
        if let Some(wanted) = sink.arrived(pass, parameter, leaf)
            && let Some(wanted) = wanted.on::<B>()
            && let Some(complete) = gradients.remove::<B>(wanted)
        {
            let complete = BackendTensor::Float(complete);
            sink.complete(pass, parameter, DispatchTensor::from_backend(complete));
        }
    }
}

/// The pass that a container belongs to: the token in it says so, which the first hook of a pass leaves there.
fn pass_of<B: Backend>(
    sink: &dyn GradientSink,
    parameter: usize,
    gradients: &mut Gradients,
) -> Option<PassId> {
    let known = sink.known_pass(&|token| {
        let token = token.on::<B>();
        token.is_some_and(|token| gradients.get::<B>(token).is_some())
    });
    known.or_else(|| {
        let (pass, token) = sink.begin_pass(parameter)?;
        // A token of another backend can't be left; the pass is then known to no later hook.
        if let Some(token) = token.on::<B>() {
            gradients.register::<B>(token.id(), token.primitive().clone());
        }
        Some(pass)
    })
}

/// The reparameterization that applies the hook to one parameter.
#[derive(Clone, Debug)]
pub(super) struct Hook {
    target: HookTarget,
}

/// Name of a [`Hook`] among a module's reparameterizations.
pub(super) const HOOK: &str = "burn_dist";

/// Has no tensors. Visitors are told which parameter the hook is on: they enter a module with the parameter's
/// number for its name, and the sink's key for its type.
impl Module for Hook {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        devices
    }

    fn fork(self, _device: &Device) -> Self {
        self
    }

    fn to_device(self, _device: &Device) -> Self {
        self
    }

    fn train(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn materialize(self) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        let name = self.target.parameter.to_string();
        visitor.enter_module(&name, &self.target.sink.key().to_string());
        visitor.exit_module(&name, &self.target.sink.key().to_string());
    }

    fn map<M: ModuleMapper>(self, _mapper: &mut M) -> Self {
        let next = RETARGET.with_borrow_mut(|targets| targets.as_mut()?.next());
        Self {
            target: next.unwrap_or(self.target),
        }
    }
}

thread_local! {
    /// The targets that hooks which are mapped on this thread turn to, one after the other. Burn keeps a
    /// parameter's reparameterization when a mapper gives it another, so a hook can only be changed from within.
    static RETARGET: RefCell<Option<std::vec::IntoIter<HookTarget>>> = const { RefCell::new(None) };
}

/// Turns the hooks of a model to other targets, of which there is one for each hook in the order of traversal.
pub(super) fn retarget<M: Module>(model: M, to: Vec<HookTarget>) -> M {
    struct Same;
    impl ModuleMapper for Same {}
    /// Takes the new targets away even if mapping panics.
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            RETARGET.set(None);
        }
    }
    let _reset = Reset;
    RETARGET.set(Some(to.into_iter()));
    model.map(&mut Same)
}

impl Reparameterization for Hook {
    const NAME: &'static str = HOOK;

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        // Validation, and parameters frozen since.
        if !base.is_require_grad() {
            return base;
        }
        let HookTarget { sink, parameter } = &self.target;
        match sink.used(*parameter, &base.device()) {
            Some(anchor) => self.target.hook(base, anchor),
            None => base,
        }
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
            target: HookTarget {
                sink: Arc::clone(self.sink),
                parameter,
            },
        });
        (param, hook)
    }
}

#[cfg(test)]
mod tests;
