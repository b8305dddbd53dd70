//! Which parameters a step has used, and which gradients are complete.
//!
//! A parameter may be used many times in a forward pass (tied weights, a recurrent network): its
//! gradient is complete when as many contributions came in backward as uses were counted. What never
//! completes (a forward pass without backward, a use that does not reach the loss) is settled by
//! `synchronize`.
//!
//! Each parameter also gets a *depth*. Burn's autodiff runs backward steps strictly by the depth of
//! their nodes, and a hook would have depth 1, and so run last of all. An untracked second input, the
//! anchor, lends it a greater one: the n-th parameter that a step uses gets depth n × [`STRIDE`], which
//! lifts every later operation above it, so that each hook runs right after the backward of its own
//! layer. Further uses share the anchor of the first, which is where the gradient becomes complete.
//!
//! The first step only watches: gradients are held back until `synchronize`, which sees then whether a
//! parameter is also used around its hook (a penalty on weights that a module visitor reads). Such
//! *late* parameters are settled at the end of every step. A gradient that is handed over is taken out
//! of Burn's container, so what lies there afterwards came around the hook.
//!
//! Invariants: the lock is held for counting alone, but for making anchors; a gradient is handed over
//! at most once a step; after [`Usage::close`] nothing is counted or handed over.
//!
//! Callers: hooks, on the replica's thread; `Ddp`.

use super::gradient::Gradient;
use super::hook::{GradientSink, Leaf};
use super::reducer::{Command, Reading};
use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Device, StreamId, Tensor};
use crossbeam::channel::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much deeper each parameter lies than the one before: more than the depth that a network adds
/// between two of them, on the average of those it has used so far (transformers add 4 to 7). A
/// network that adds more is averaged as correctly, with its hooks running later. No more than that,
/// because Burn allocates something in every backward pass for each level of depth, used or not.
const STRIDE: usize = 16;

/// The uses of one replica's parameters in the current step.
#[derive(Debug)]
pub(super) struct Usage {
    ready: Sender<Command>,
    /// The stream that the reducer reads gradients on.
    lane: StreamId,
    step: Mutex<Step>,
}

/// What becomes of gradients that hooks see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The first step: they are held back.
    Watching,
    /// They are handed to the reducer.
    HandingOver,
    /// The `Ddp` is gone: they are nobody's business.
    Closed,
}

#[derive(Debug)]
struct Step {
    mode: Mode,
    /// Whether gradients stay on this rank for now (`no_sync`, `ignore`).
    local: bool,
    /// What gradients are multiplied by, until the step ends or another is set.
    weight: f64,
    /// What is known of each parameter in this step.
    parameters: Vec<State>,
    /// Which parameters are used around their hooks.
    late: Vec<bool>,
    /// The parameters whose gradients became complete, in that order.
    ready_order: Vec<usize>,
    fault: Option<String>,
    /// The number of parameters that this step has used.
    used: usize,
    chains: Vec<Chain>,
}

/// One parameter in one step.
#[derive(Default)]
struct State {
    /// How often forward passes used it.
    uses: u32,
    /// How many of these uses backward has come to.
    arrived: u32,
    /// Its place among the parameters that the step used.
    place: usize,
    /// The tensor that was used.
    leaf: Option<Leaf>,
    /// Whether different tensors were used (a copy of the model that trains on its own).
    split: bool,
    /// Whether its gradient was handed to the reducer.
    handed: bool,
    /// Its gradient, where it was held back.
    held: Option<Gradient>,
    /// The sum of gradients that `no_sync` kept, flattened.
    kept: Option<Tensor<1>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("uses", &self.uses)
            .field("arrived", &self.arrived)
            .field("handed", &self.handed)
            .finish_non_exhaustive()
    }
}

/// Untracked tensors of growing depth, for one device and one way to differentiate on it.
#[derive(Debug)]
struct Chain {
    device: Device,
    anchors: Vec<Tensor<1>>,
}

/// What a finished step knows.
pub(super) struct Finished {
    /// Which parameters' gradients were handed over during backward.
    pub(super) handed: Vec<bool>,
    /// For the others, what was held back and what `no_sync` kept.
    pub(super) parts: Vec<Vec<Gradient>>,
    /// For each parameter, whether its gradient was held back.
    pub(super) held: Vec<bool>,
    /// In which order gradients became complete.
    pub(super) ready_order: Vec<usize>,
    /// What was wrong with the order of calls.
    pub(super) fault: Option<String>,
    /// What gradients are multiplied by.
    pub(super) weight: f64,
}

impl Usage {
    /// Nothing used yet, of so many parameters; complete gradients go to `ready`, on a lane of their own.
    pub(super) fn new(parameters: usize, ready: Sender<Command>) -> Self {
        Self {
            ready,
            lane: StreamId::allocate(),
            step: Mutex::new(Step {
                mode: Mode::Watching,
                local: false,
                weight: 1.0,
                parameters: states(parameters),
                late: vec![false; parameters],
                ready_order: Vec::new(),
                fault: None,
                used: 0,
                chains: Vec::new(),
            }),
        }
    }

    /// Ends the step.
    pub(super) fn finish_step(&self) -> Finished {
        let mut step = self.lock();
        step.used = 0;
        let count = step.parameters.len();
        let ended = std::mem::replace(&mut step.parameters, states(count));
        let part = |state: State| -> Vec<Gradient> {
            let kept = state.kept.map(|kept| self.on_lane(kept, 1.0));
            state.held.into_iter().chain(kept).collect()
        };
        Finished {
            handed: ended.iter().map(|state| state.handed).collect(),
            held: ended.iter().map(|state| state.held.is_some()).collect(),
            parts: ended.into_iter().map(part).collect(),
            ready_order: std::mem::take(&mut step.ready_order),
            fault: step.fault.take(),
            weight: std::mem::replace(&mut step.weight, 1.0),
        }
    }

    /// Lets gradients that come from now on, in this step, count so many times.
    #[cfg(feature = "train")]
    pub(super) fn weigh(&self, weight: f64) {
        self.lock().weight = weight;
    }

    /// What gradients are multiplied by before they are averaged.
    pub(super) fn weight(&self) -> f64 {
        self.lock().weight
    }

    /// Drops what `no_sync` kept.
    #[cfg(feature = "train")]
    pub(super) fn forget_kept(&self) {
        for state in &mut self.lock().parameters {
            state.kept = None;
        }
    }

    /// Ends the first step: from now on gradients are handed over, but for those of `late` parameters.
    pub(super) fn hand_over_from_now(&self, late: &[usize]) {
        let mut step = self.lock();
        if step.mode == Mode::Watching {
            step.mode = Mode::HandingOver;
            for &parameter in late {
                step.late[parameter] = true;
            }
        }
    }

    /// Lets the hooks do nothing from now on.
    pub(super) fn close(&self) {
        let mut step = self.lock();
        step.mode = Mode::Closed;
        step.forget_uses();
        step.chains.clear();
    }

    /// Whether gradients were handed over for a step that is not finished.
    pub(super) fn in_step(&self) -> bool {
        self.lock().parameters.iter().any(|state| state.handed)
    }

    /// Lets gradients stay local until the guard is dropped.
    pub(super) fn local(&self) -> Local<'_> {
        self.lock().local = true;
        Local(self)
    }

    /// Adds a gradient that stays on this rank for now.
    pub(super) fn keep(&self, parameter: usize, gradient: Tensor<1>) {
        let mut step = self.lock();
        let state = &mut step.parameters[parameter];
        if state.handed || state.held.is_some() {
            step.fault = Some(
                "`no_sync` ran after the backward pass that is synchronised; run it before".into(),
            );
            return;
        }
        let kept = state.kept.take();
        state.kept = Some(match kept {
            Some(kept) => kept + gradient,
            None => gradient,
        });
    }

    /// The stream that the reducer reads gradients on.
    pub(super) fn lane(&self) -> StreamId {
        self.lane
    }

    /// What a gradient counts for, for the reducer.
    pub(super) fn on_lane(&self, gradient: Tensor<1>, weight: f64) -> Gradient {
        Gradient::new(gradient.into_dispatch(), weight, self.lane)
    }

    /// How many anchors are kept.
    #[cfg(test)]
    pub(super) fn anchors(&self) -> usize {
        self.lock()
            .chains
            .iter()
            .map(|chain| chain.anchors.len())
            .sum()
    }

    fn lock(&self) -> MutexGuard<'_, Step> {
        // What a panic could leave half-done here is one step's counts, and the rank ends with it.
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn states(parameters: usize) -> Vec<State> {
    (0..parameters).map(|_| State::default()).collect()
}

impl Step {
    fn forget_uses(&mut self) {
        self.used = 0;
        for state in &mut self.parameters {
            state.uses = 0;
            state.arrived = 0;
            state.leaf = None;
            state.split = false;
        }
    }

    /// The anchor of the n-th parameter: a chain of untracked operations.
    fn anchor(&mut self, n: usize, device: &Device) -> Tensor<1> {
        let strategy = device.gradient_checkpointing_strategy();
        let found = self.chains.iter().position(|chain| {
            // Devices are equal whatever their strategy, and graphs of two strategies don't mix.
            chain.device == *device && chain.device.gradient_checkpointing_strategy() == strategy
        });
        let place = found.unwrap_or_else(|| {
            self.chains.push(Chain {
                device: device.clone(),
                anchors: vec![Tensor::zeros([1], device)],
            });
            self.chains.len() - 1
        });
        let anchors = &mut self.chains[place].anchors;
        while anchors.len() <= n {
            let mut anchor = anchors[anchors.len() - 1].clone();
            for _ in 0..STRIDE {
                anchor = anchor.mul_scalar(1.0);
            }
            anchors.push(anchor);
        }
        anchors[n].clone()
    }
}

impl GradientSink for Usage {
    fn used(&self, parameter: usize, device: &Device) -> Tensor<1> {
        let mut step = self.lock();
        if step.mode == Mode::Closed {
            return Tensor::zeros([1], device);
        }
        let next = step.used;
        let state = &mut step.parameters[parameter];
        let first = state.uses == 0;
        state.uses = state.uses.saturating_add(1);
        if first {
            state.place = next;
            step.used += 1;
        }
        let place = step.parameters[parameter].place;
        step.anchor(place, device)
    }

    fn bind(&self, parameter: usize, leaf: Leaf) {
        let mut step = self.lock();
        if step.mode == Mode::Closed {
            return;
        }
        let state = &mut step.parameters[parameter];
        match &state.leaf {
            Some(known) if known.id != leaf.id => state.split = true,
            Some(_) => {}
            None => state.leaf = Some(leaf),
        }
    }

    fn leaf(&self, parameter: usize) -> Option<Leaf> {
        self.lock().parameters[parameter].leaf.clone()
    }

    fn arrived(&self, parameter: usize, others_came: bool) -> bool {
        let mut step = self.lock();
        if step.local || step.mode == Mode::Closed || step.late[parameter] {
            return false;
        }
        let state = &mut step.parameters[parameter];
        let earlier = state.arrived > 0 && !others_came;
        if state.handed || state.held.is_some() || (earlier && !state.split) {
            step.fault = Some(
                "a second backward pass ran before `synchronize`; run all but the last of a step \
                 in `no_sync`, or add the losses and run one"
                    .into(),
            );
            return false;
        }
        state.arrived += 1;
        state.arrived == state.uses && !state.split
    }

    fn complete(&self, parameter: usize, gradient: FloatTensor<Dispatch>) {
        let gradient = Gradient::new(gradient, self.weight(), self.lane);
        let kept = {
            let mut step = self.lock();
            step.ready_order.push(parameter);
            let mode = step.mode;
            let state = &mut step.parameters[parameter];
            if mode == Mode::Watching {
                state.held = Some(gradient);
                return;
            }
            state.handed = true;
            state.kept.take()
        };
        let kept = kept.map(|kept| self.on_lane(kept, 1.0));
        let parts = [Some(gradient), kept];
        let reading = Reading::new(parameter, parts.into_iter().flatten().collect());
        // If the reducer has ended, `synchronize` says why.
        let _ = self.ready.send(Command::Ready(reading));
    }
}

/// Gradients stay local while it lives.
#[derive(Debug)]
pub(super) struct Local<'a>(&'a Usage);

impl Drop for Local<'_> {
    fn drop(&mut self) {
        let mut step = self.0.lock();
        step.local = false;
        step.forget_uses();
    }
}
