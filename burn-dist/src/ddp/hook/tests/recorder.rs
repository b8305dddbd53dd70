//! A sink that records the order of events.

use super::*;
use crossbeam::channel::{Receiver, unbounded};
use parking_lot::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A layer's weight was handed over.
    Weight(usize),
    /// Backward passed between a layer and the next.
    Between(usize),
}

/// Writes down what happens in which order; counts and depths are those of a real [`UseTracker`].
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) tracker: Arc<UseTracker>,
    pub(super) handed: Receiver<ReducerCommand>,
    pub(super) events: Mutex<Vec<Event>>,
}

impl Recorder {
    pub(super) fn new(parameters: usize) -> Arc<Self> {
        let (ready, handed) = unbounded();
        Arc::new(Self {
            tracker: UseTracker::new(0, &vec![true; parameters], ready),
            handed,
            events: Mutex::default(),
        })
    }

    /// Ends a step with the passes of a container.
    pub(super) fn step(&self, gradients: &Container) -> StepPart {
        let part = self.tracker.take_part(&self.tracker.passes_in(gradients));
        self.tracker.averaged(&[]);
        part.unwrap()
    }
}

impl GradientSink for Recorder {
    fn used(&self, parameter: usize, device: &Device) -> Option<Tensor<1>> {
        self.tracker.used(parameter, device)
    }

    fn bind(&self, parameter: usize, leaf: Leaf) {
        self.tracker.bind(parameter, leaf);
    }

    fn known_pass(&self, present: &dyn Fn(&Leaf) -> bool) -> Option<PassId> {
        self.tracker.known_pass(present)
    }

    fn begin_pass(&self, parameter: usize) -> Option<(PassId, Leaf)> {
        self.tracker.begin_pass(parameter)
    }

    fn arrived(&self, pass: Option<PassId>, parameter: usize, leaf: NodeId) -> Option<Leaf> {
        self.tracker.arrived(pass, parameter, leaf)
    }

    fn complete(&self, pass: Option<PassId>, parameter: usize, gradient: FloatTensor<Dispatch>) {
        self.events.lock().push(Event::Weight(parameter));
        self.tracker.complete(pass, parameter, gradient);
    }

    fn key(&self) -> u64 {
        self.tracker.key()
    }
}

/// Stands between two layers: the same operation on an activation, with no depth of its own.
#[derive(Debug)]
struct Between(Arc<Recorder>);

impl GradientSink for Between {
    fn used(&self, _parameter: usize, device: &Device) -> Option<Tensor<1>> {
        Some(Tensor::zeros([1], device))
    }

    fn bind(&self, _parameter: usize, _leaf: Leaf) {}

    fn known_pass(&self, _present: &dyn Fn(&Leaf) -> bool) -> Option<PassId> {
        None
    }

    fn begin_pass(&self, _parameter: usize) -> Option<(PassId, Leaf)> {
        None
    }

    fn arrived(&self, _pass: Option<PassId>, layer: usize, _leaf: NodeId) -> Option<Leaf> {
        self.0.events.lock().push(Event::Between(layer));
        None
    }

    fn complete(&self, _pass: Option<PassId>, _parameter: usize, _of: FloatTensor<Dispatch>) {}

    fn key(&self) -> u64 {
        u64::MAX
    }
}

pub(super) fn probed(activation: Tensor<2>, recorder: &Arc<Recorder>, layer: usize) -> Tensor<2> {
    let target = HookTarget {
        sink: Arc::new(Between(Arc::clone(recorder))),
        parameter: layer,
    };
    let anchor = target.sink.used(layer, &activation.device()).unwrap();
    target.hook(activation, anchor)
}
