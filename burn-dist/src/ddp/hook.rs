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

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::module::{Module, Param, Reparameterization, Reparameterizer};
use burn::tensor::{Device, Tensor, TensorData};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

/// A tensor on its way to the host: polled on the reducer's thread, so that the thread that computes
/// need not wait for its device.
pub(super) type HostRead = Pin<Box<dyn Future<Output = Result<TensorData, String>> + Send>>;

/// Where the gradients of one replica go.
pub(super) trait GradientSink: fmt::Debug + Send + Sync {
    /// The forward pass read this parameter: returns the anchor that gives this use its depth in the
    /// graph.
    fn used(&self, parameter: usize, device: &Device) -> Tensor<1>;

    /// The gradient of one use arrived and was added to the parameter's: returns whether the sum is
    /// complete and wanted.
    fn arrived(&self, parameter: usize) -> bool;

    /// The complete gradient.
    fn complete(&self, parameter: usize, gradient: HostRead);
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

impl<B: Backend, C: CheckpointStrategy> GradientHook for Autodiff<B, C> {
    fn gradient_hook(
        parameter: FloatTensor<Self>,
        anchor: FloatTensor<Self>,
        target: Target,
    ) -> FloatTensor<Self> {
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

impl<B: Backend> Backward<B, 2> for HandOver {
    type State = Target;

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<B>(&ops.node);
        let [Some(leaf), _] = &ops.parents else {
            return;
        };
        gradients.register::<B>(leaf.id, gradient);
        let Target { sink, parameter } = ops.state;
        if sink.arrived(parameter) {
            // A leaf keeps its gradient: this is a second handle on it, not a copy.
            let complete = gradients.consume::<B>(leaf);
            sink.complete(parameter, read::<B>(complete));
        }
    }
}

/// Reads a backend's tensor once the future is polled.
fn read<B: Backend>(tensor: FloatTensor<B>) -> HostRead {
    Box::pin(async move {
        B::float_into_data(tensor)
            .await
            .map_err(|error| format!("{error:?}"))
    })
}

/// Reads a tensor once the future is polled.
pub(super) fn read_tensor<const D: usize>(tensor: Tensor<D>) -> HostRead {
    Box::pin(async move {
        tensor
            .into_data_async()
            .await
            .map_err(|error| format!("{error:?}"))
    })
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

/// Puts a [`Hook`] on every parameter that `index` knows.
pub(super) struct Hooks<'a, F> {
    pub(super) sink: &'a Arc<dyn GradientSink>,
    pub(super) index: F,
}

impl<F: Fn(burn::module::ParamId) -> Option<usize>> Reparameterizer for Hooks<'_, F> {
    type Reparam = Hook;

    fn reparameterize<const D: usize>(
        &mut self,
        _path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Hook>) {
        let hook = (self.index)(param.id).map(|parameter| Hook {
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
mod tests {
    use super::*;
    use crate::ddp::usage::Usage;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::activation::relu;
    use crossbeam::channel::unbounded;
    use std::sync::Mutex;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Event {
        /// A layer's weight was handed over.
        Weight(usize),
        /// Backward passed between a layer and the next.
        Between(usize),
    }

    /// Writes down what happens in which order; counts and depths are those of a real [`Usage`].
    #[derive(Debug)]
    struct Recorder {
        usage: Usage,
        events: Mutex<Vec<Event>>,
    }

    impl Recorder {
        fn new(parameters: usize) -> Arc<Self> {
            Arc::new(Self {
                usage: Usage::new(parameters, unbounded().0),
                events: Mutex::default(),
            })
        }
    }

    impl GradientSink for Recorder {
        fn used(&self, parameter: usize, device: &Device) -> Tensor<1> {
            self.usage.used(parameter, device)
        }

        fn arrived(&self, parameter: usize) -> bool {
            self.usage.arrived(parameter)
        }

        fn complete(&self, parameter: usize, gradient: HostRead) {
            self.events.lock().unwrap().push(Event::Weight(parameter));
            self.usage.complete(parameter, gradient);
        }
    }

    /// Stands between two layers: the same operation on an activation, with no depth of its own.
    #[derive(Debug)]
    struct Probe(Arc<Recorder>);

    impl GradientSink for Probe {
        fn used(&self, _parameter: usize, device: &Device) -> Tensor<1> {
            Tensor::zeros([1], device)
        }

        fn arrived(&self, layer: usize) -> bool {
            self.0.events.lock().unwrap().push(Event::Between(layer));
            false
        }

        fn complete(&self, _parameter: usize, _gradient: HostRead) {}
    }

    fn probed(activation: Tensor<2>, recorder: &Arc<Recorder>, layer: usize) -> Tensor<2> {
        let target = Target {
            sink: Arc::new(Probe(Arc::clone(recorder))),
            parameter: layer,
        };
        let anchor = target.sink.used(layer, &activation.device());
        Tensor::from_dispatch(Dispatch::gradient_hook(
            activation.into_dispatch(),
            anchor.into_dispatch(),
            target,
        ))
    }

    fn hooked(layers: usize, recorder: &Arc<Recorder>) -> Vec<Linear> {
        let device = Device::flex().autodiff();
        let model: Vec<Linear> = (0..layers)
            .map(|_| LinearConfig::new(4, 4).with_bias(false).init(&device))
            .collect();
        let ids: Vec<_> = model.iter().map(|layer| layer.weight.id).collect();
        let sink: Arc<dyn GradientSink> = recorder.clone();
        model.apply_reparameterization(Hooks {
            sink: &sink,
            index: |id| ids.iter().position(|other| *other == id),
        })
    }

    #[test]
    fn gradients_are_handed_over_while_backward_runs() {
        let recorder = Recorder::new(4);
        let model = hooked(4, &recorder);
        for _step in 0..2 {
            let mut x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
            for (i, layer) in model.iter().enumerate() {
                x = probed(relu(layer.forward(x)), &recorder, i);
            }
            x.mean().backward();
            // Each weight right after its layer, before backward goes on to the layer below. Hooks
            // that all fired at the end would come after the last `Between`.
            let expected: Vec<_> = (0..4)
                .rev()
                .flat_map(|i| [Event::Between(i), Event::Weight(i)])
                .collect();
            assert_eq!(*recorder.events.lock().unwrap(), expected);
            recorder.events.lock().unwrap().clear();
            let finished = recorder.usage.finish_step();
            assert_eq!(finished.ready_order, [3, 2, 1, 0]);
            assert_eq!(finished.handed, [true; 4]);
        }
    }

    #[test]
    fn a_weight_used_twice_is_handed_over_once_with_both_contributions() {
        let recorder = Recorder::new(1);
        let model = hooked(1, &recorder);
        let x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
        let loss = model[0].forward(model[0].forward(x.clone())).sum();
        let gradients = loss.backward();
        assert_eq!(*recorder.events.lock().unwrap(), [Event::Weight(0)]);

        // The same without hooks.
        let weight = model[0].weight.base().detach().require_grad();
        let plain = x
            .matmul(weight.clone())
            .matmul(weight.clone())
            .sum()
            .backward();
        let expected = weight.grad(&plain).unwrap().into_data();
        let hooked = model[0].weight.base().grad(&gradients).unwrap();
        hooked.into_data().assert_eq(&expected, true);
    }

    #[test]
    fn a_use_that_does_not_reach_the_loss_is_not_handed_over() {
        let recorder = Recorder::new(2);
        let model = hooked(2, &recorder);
        let x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
        let _unused = model[1].forward(x.clone());
        model[0].forward(x).sum().backward();
        assert_eq!(recorder.usage.finish_step().handed, [true, false]);
    }

    #[test]
    fn a_second_backward_pass_is_a_fault() {
        let recorder = Recorder::new(1);
        let model = hooked(1, &recorder);
        let x = Tensor::<2>::ones([2, 4], &Device::flex().autodiff());
        model[0].forward(x.clone()).sum().backward();
        model[0].forward(x).sum().backward();
        assert!(
            recorder
                .usage
                .finish_step()
                .fault
                .unwrap()
                .contains("second backward")
        );
    }
}
