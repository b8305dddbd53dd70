//! The records of one replica: the backward passes that ran, and the destinations of their gradients.
//!
//! # Passes
//!
//! A *pass* is one call of `backward`. The first hook that fires in it leaves a *token* in Burn's container of
//! gradients, so that later hooks, and the call that is given the container, know which pass it is. Passes may
//! interleave (two forward passes, then two backward passes), and a forward pass that is never run back is no
//! pass. A pass is open until its container is given to one of
//!
//! - `synchronize`, `synchronize_from`: its gradients are averaged over the ranks;
//! - `no_sync`: they are kept for the next of these;
//! - `discard`, or another model's `Ddp` that takes the container by value: they are dropped knowingly.
//!
//! Passes that run inside of `ignore` are not counted. A pass that is still open when the `Ddp` is dropped is
//! an error of the job: its gradients went nowhere.
//!
//! # Handing over
//!
//! A hook may *hand over* the gradient of its parameter while backward still runs: it is then taken out of the
//! container and goes to the reducer. That is a guess: that the gradient is complete, that the pass will be
//! synchronised, and that the leaf is the model's. The guess costs nothing but time where it is wrong:
//!
//! - What comes to the leaf afterwards stays in the container, and is averaged as a *late part* after the step.
//! - A pass that is dropped after it was handed over makes its part of the step *void*: the ranks agree to
//!   average again, or, where one can't give its part again, all get an error. What `no_sync` had kept and went
//!   with it is kept again.
//! - A leaf that is not the model's is an error.
//!
//! All that was not handed over is found in the container, so no count of uses has to be right for a sum to be.
//!
//! # Depth
//!
//! Each parameter gets a *depth*. Burn's autodiff runs backward steps strictly by the depth of
//! their nodes, and a hook would have depth 1, and so run last of all. An untracked second input, the
//! anchor, lends it a greater one: the n-th parameter that a step uses gets depth n × [`STRIDE`], which
//! lifts every later operation above it, so that each hook runs right after the backward of its own
//! layer. Further uses share the anchor of the first, which is where the gradient becomes complete.
//!
//! Invariants: the lock is held for counting, and for adding up what is kept; one pass at a time is handed over,
//! and none while an earlier one is open, which may be synchronised first; a leaf's gradient is handed over at most
//! once a pass; after [`UseTracker::close`] nothing is counted or handed over.

mod anchors;
mod pass;
pub(super) mod settle;
mod sink;

use super::gradient::Gradient;
use super::hook::PassId;
use super::reducer::messages::ReducerCommand;
use crate::autodiff::Leaf;
use anchors::Anchors;
use burn::tensor::{StreamId, Tensor};
use crossbeam::channel::Sender;
use parking_lot::Mutex;
use pass::{BackwardPass, Token};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The records of one replica of one model.
#[derive(Debug)]
pub(super) struct UseTracker {
    key: u64,
    /// The replica's rank in the job.
    rank: usize,
    ready: Sender<ReducerCommand>,
    /// The stream that the reducer reads gradients on.
    lane: StreamId,
    anchors: Anchors,
    step: Mutex<TrackerState>,
}

/// The behaviour of hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HookMode {
    /// They watch the order in which gradients come: the first step.
    Watching,
    /// They hand gradients over.
    HandingOver,
    /// Nothing: the `Ddp` is gone.
    Closed,
}

/// A call that backward runs inside of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassScope {
    /// `no_sync`: passes count, and nothing is handed over.
    Keep,
    /// `ignore`: passes do not count.
    Ignore,
}

#[derive(Debug)]
struct TrackerState {
    mode: HookMode,
    /// The calls that are running, the innermost last.
    scopes: Vec<PassScope>,
    /// The factor of gradients, until the step ends or another is set.
    weight: f64,
    parameters: Vec<Parameter>,
    /// The number of parameters that this step has used.
    used: usize,
    /// Tokens for passes to come.
    spare: Vec<Token>,
    /// The passes that are not settled, in the order of their first hooks.
    passes: Vec<BackwardPass>,
    next_pass: PassId,
    /// The pass that has handed something over.
    handed: Option<PassId>,
    /// The number of steps in which nothing is handed over, because passes of this model were dropped of late.
    cautious: u32,
    /// The number of steps for which the next void part makes hooks cautious.
    caution: u32,
}

/// The record of one parameter.
#[derive(Default)]
struct Parameter {
    /// True if it was to be trained when the model was attached.
    trained: bool,
    /// The number of uses by the forward passes of this step, less the uses of settled passes.
    uses: u32,
    /// Its place among the parameters that the step used, if it did.
    place: Option<usize>,
    /// The leaves that forward passes of this step have read as the parameter, the first two.
    leaves: Vec<Leaf>,
    /// The number of uses by the end of its last pass, and the number of these that the pass ran back. Where
    /// not all uses are run back, the next step is guessed to be alike.
    pattern: Option<(u32, u32)>,
    /// The number of steps in which it is not handed over, because gradients came to it afterwards.
    late: u32,
    /// The number of steps of the last such time.
    lateness: u32,
    /// True once the log has said that.
    told: bool,
    /// The sum of gradients that `no_sync` kept, flattened, in f32 or f64.
    kept: Option<Tensor<1>>,
}

impl Parameter {
    /// Adds to what `no_sync` kept.
    fn keep(&mut self, gradient: Tensor<1>) {
        self.kept = Some(match self.kept.take() {
            Some(kept) => kept + gradient,
            None => gradient,
        });
    }
}

impl std::fmt::Debug for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parameter")
            .field("uses", &self.uses)
            .field("pattern", &self.pattern)
            .finish_non_exhaustive()
    }
}

/// The number of steps in which a parameter that got a late part is not handed over; doubled each time, up to
/// [`MAX_WAIT`].
const FIRST_WAIT: u32 = 16;
const MAX_WAIT: u32 = 4096;

/// The largest number of open passes of one model.
const MAX_OPEN_PASSES: usize = 1024;

/// The number of tokens made ahead: so many forward passes may run before the first of them is run back. Passes
/// beyond that are averaged after backward.
const MAX_SPARE_TOKENS: usize = 64;

/// All trackers of this process. A container that one model's `Ddp` takes by value is dropped for all others.
static ALL: Mutex<Vec<Weak<UseTracker>>> = Mutex::new(Vec::new());

static NEXT_KEY: AtomicU64 = AtomicU64::new(0);

impl UseTracker {
    /// Opens the records of a replica, whose parameters are to be trained or not. Complete gradients go to
    /// `ready`, on a lane of their own.
    pub(super) fn new(rank: usize, trained: &[bool], ready: Sender<ReducerCommand>) -> Arc<Self> {
        let parameter = |&trained| Parameter {
            trained,
            ..Parameter::default()
        };
        let tracker = Arc::new(Self {
            key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
            rank,
            ready,
            lane: StreamId::allocate(),
            anchors: Anchors::default(),
            step: Mutex::new(TrackerState {
                mode: HookMode::Watching,
                scopes: Vec::new(),
                weight: 1.0,
                parameters: trained.iter().map(parameter).collect(),
                used: 0,
                spare: Vec::new(),
                passes: Vec::new(),
                next_pass: 0,
                handed: None,
                cautious: 0,
                caution: FIRST_WAIT,
            }),
        });
        let mut all = ALL.lock();
        all.retain(|tracker| tracker.strong_count() > 0);
        all.push(Arc::downgrade(&tracker));
        tracker
    }

    /// Sets the weight of all later gradients of this step.
    #[cfg(feature = "train")]
    pub(super) fn weigh(&self, weight: f64) {
        self.step.lock().weight = weight;
    }

    /// The number of anchors that are kept.
    #[cfg(test)]
    pub(super) fn anchors(&self) -> usize {
        self.anchors.len()
    }

    /// The factor of gradients before they are averaged.
    pub(super) fn weight(&self) -> f64 {
        self.step.lock().weight
    }

    /// Drops the gradients that `no_sync` kept.
    #[cfg(feature = "train")]
    pub(super) fn forget_kept(&self) {
        for parameter in &mut self.step.lock().parameters {
            parameter.kept = None;
        }
    }

    /// Lets the hooks do nothing from now on.
    pub(super) fn close(&self) {
        let mut step = self.step.lock();
        step.mode = HookMode::Closed;
        step.passes.clear();
        step.spare.clear();
        for parameter in &mut step.parameters {
            parameter.leaves.clear();
            parameter.kept = None;
        }
        drop(step);
        self.anchors.clear();
    }

    /// Returns true once the `Ddp` is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.step.lock().mode == HookMode::Closed
    }

    /// Returns true if gradients were handed over for a step that is not finished.
    pub(super) fn in_step(&self) -> bool {
        self.step.lock().handed.is_some()
    }

    /// Enters a call that backward runs inside of, until the guard is dropped.
    pub(super) fn enter(&self, scope: PassScope) -> ScopeGuard<'_> {
        self.step.lock().scopes.push(scope);
        ScopeGuard(self)
    }

    /// Adds a flattened gradient to those that stay on this rank for now.
    pub(super) fn keep(&self, parameter: usize, gradient: Tensor<1>) {
        self.step.lock().parameters[parameter].keep(gradient);
    }

    /// The stream that the reducer reads gradients on.
    pub(super) fn lane(&self) -> StreamId {
        self.lane
    }

    /// A weighed gradient for the reducer.
    pub(super) fn on_lane(&self, gradient: Tensor<1>, weight: f64) -> Gradient {
        Gradient::new(gradient.into_dispatch(), weight, self.lane)
    }
}

/// Returns the other trackers of a rank, in this process.
pub(super) fn others(of: &UseTracker) -> Vec<Arc<UseTracker>> {
    let all = ALL.lock();
    let all = all.iter().filter_map(Weak::upgrade);
    all.filter(|tracker| tracker.key != of.key && tracker.rank == of.rank)
        .collect()
}

/// Returns true if the tracker with this key is there, and its `Ddp` too.
pub(super) fn is_open(key: u64) -> bool {
    let all = ALL.lock();
    let found = all
        .iter()
        .filter_map(Weak::upgrade)
        .find(|tracker| tracker.key == key);
    drop(all);
    found.is_some_and(|tracker| !tracker.is_closed())
}

/// A call that backward runs inside of; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct ScopeGuard<'a>(&'a UseTracker);

impl Drop for ScopeGuard<'_> {
    fn drop(&mut self) {
        self.0.step.lock().scopes.pop();
    }
}
