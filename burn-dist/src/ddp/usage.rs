//! Which parameters a step has used, and which gradients are complete.
//!
//! A parameter may be used many times in a forward pass (tied weights, a recurrent network): its
//! gradient is complete when as many contributions came in backward as uses were counted. What never
//! completes (a forward pass without backward, a use that does not reach the loss) is settled by
//! `synchronize`.
//!
//! Each use also gets a *depth*. Burn's autodiff runs backward steps strictly by the depth of their
//! nodes, and a parameter's hook would have depth 1, and so run last of all. An untracked second
//! input, the anchor, lends it a greater one: the n-th use of a step gets depth n × [`STRIDE`], which
//! lifts every later operation above it, so that each hook runs right after the backward of its own
//! layer. Anchors are made once and kept.
//!
//! Invariants: the lock is held for counting alone, but for the first step's anchors; a gradient is
//! handed over at most once a step.
//!
//! Callers: hooks, on the replica's thread; `Ddp`.

use super::hook::{GradientSink, HostRead};
use super::reducer::{Command, Reading};
use burn::tensor::{Device, Tensor};
use crossbeam::channel::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much deeper each use lies than the one before: more than the operations that a network runs
/// between two uses of parameters (attention: about 25). A network that runs more of them is averaged
/// as correctly, with its hooks running later.
const STRIDE: usize = 64;

/// The most anchors that are kept; further uses share the last one.
const ANCHORS: usize = 1 << 16;

/// The uses of one replica's parameters in the current step.
#[derive(Debug)]
pub(super) struct Usage {
    ready: Sender<Command>,
    step: Mutex<Step>,
}

#[derive(Debug)]
struct Step {
    /// Whether gradients stay local (`no_sync`).
    local: bool,
    /// How often the forward passes used each parameter.
    uses: Vec<u32>,
    /// How many of these uses backward has come to.
    arrived: Vec<u32>,
    handed: Vec<bool>,
    ready_order: Vec<usize>,
    /// The sum of gradients that `no_sync` kept, flattened.
    kept: Vec<Option<Tensor<1>>>,
    fault: Option<String>,
    /// The number of uses in this step.
    count: usize,
    anchors: Vec<Tensor<1>>,
}

/// What a finished step knows.
#[derive(Debug)]
pub(super) struct Finished {
    /// Which parameters' gradients were handed over during backward.
    pub(super) handed: Vec<bool>,
    /// In which order.
    pub(super) ready_order: Vec<usize>,
    /// What `no_sync` kept for the others.
    pub(super) kept: Vec<Option<Tensor<1>>>,
    /// What was wrong with the order of calls.
    pub(super) fault: Option<String>,
}

impl Usage {
    /// Nothing used yet, of so many parameters; complete gradients go to `ready`.
    pub(super) fn new(parameters: usize, ready: Sender<Command>) -> Self {
        Self {
            ready,
            step: Mutex::new(Step {
                local: false,
                uses: vec![0; parameters],
                arrived: vec![0; parameters],
                handed: vec![false; parameters],
                ready_order: Vec::new(),
                kept: vec![None; parameters],
                fault: None,
                count: 0,
                anchors: Vec::new(),
            }),
        }
    }

    /// Ends the step and starts the next.
    pub(super) fn finish_step(&self) -> Finished {
        let mut step = self.lock();
        step.forget_uses();
        let parameters = step.handed.len();
        Finished {
            handed: std::mem::replace(&mut step.handed, vec![false; parameters]),
            ready_order: std::mem::take(&mut step.ready_order),
            kept: std::mem::replace(&mut step.kept, vec![None; parameters]),
            fault: step.fault.take(),
        }
    }

    /// Whether gradients were handed over for a step that is not finished.
    pub(super) fn in_step(&self) -> bool {
        !self.lock().ready_order.is_empty()
    }

    /// Lets gradients stay local until the guard is dropped.
    pub(super) fn local(&self) -> Local<'_> {
        self.lock().local = true;
        Local(self)
    }

    /// Adds a gradient that stays on this rank for now.
    pub(super) fn keep(&self, parameter: usize, gradient: Tensor<1>) {
        let kept = self.lock().kept[parameter].take();
        let sum = match kept {
            Some(kept) => kept + gradient,
            None => gradient,
        };
        self.lock().kept[parameter] = Some(sum);
    }

    fn lock(&self) -> MutexGuard<'_, Step> {
        // Nothing panics while it is held but an allocation that fails.
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Step {
    fn forget_uses(&mut self) {
        self.uses.fill(0);
        self.arrived.fill(0);
        self.count = 0;
    }

    /// The anchor of the n-th use: a chain of untracked operations.
    fn anchor(&mut self, n: usize, device: &Device) -> Tensor<1> {
        let n = n.min(ANCHORS - 1);
        if self
            .anchors
            .first()
            .is_none_or(|anchor| anchor.device() != *device)
        {
            self.anchors = vec![Tensor::zeros([1], device)];
        }
        while self.anchors.len() <= n {
            let mut anchor = self.anchors[self.anchors.len() - 1].clone();
            for _ in 0..STRIDE {
                anchor = anchor.mul_scalar(1.0);
            }
            self.anchors.push(anchor);
        }
        self.anchors[n].clone()
    }
}

impl GradientSink for Usage {
    fn used(&self, parameter: usize, device: &Device) -> Tensor<1> {
        let mut step = self.lock();
        step.uses[parameter] += 1;
        let n = step.count;
        step.count += 1;
        step.anchor(n, device)
    }

    fn arrived(&self, parameter: usize) -> bool {
        let mut step = self.lock();
        if step.local {
            return false;
        }
        if step.handed[parameter] {
            step.fault = Some(
                "a second backward pass ran before `synchronize`; run all but the last of a step \
                 in `no_sync`, or add the losses and run one"
                    .into(),
            );
            return false;
        }
        step.arrived[parameter] += 1;
        step.arrived[parameter] == step.uses[parameter]
    }

    fn complete(&self, parameter: usize, gradient: HostRead) {
        let kept = {
            let mut step = self.lock();
            step.handed[parameter] = true;
            step.ready_order.push(parameter);
            step.kept[parameter].take()
        };
        // If the reducer has ended, `synchronize` says why.
        let reading = Reading::new(parameter, Some(gradient), kept);
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
