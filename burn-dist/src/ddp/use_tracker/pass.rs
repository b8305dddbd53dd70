//! One backward pass: its token, and the gradients that it has brought.

use crate::autodiff::Leaf;
use crate::ddp::hook::PassId;
use burn::backend::autodiff::NodeId;
use burn::tensor::{Gradients, Tensor};

/// A leaf without a gradient of its own. An entry of its name in a container identifies the container's pass.
#[derive(Debug)]
pub(super) struct Token {
    tensor: Tensor<1>,
    leaf: Leaf,
}

impl Token {
    /// Makes a token that shares the memory of an anchor, on whose device it is.
    pub(super) fn new(anchor: Tensor<1>) -> Option<Self> {
        let tensor = anchor.detach().require_grad();
        let leaf = Leaf::behind(tensor.clone())?;
        Some(Self { tensor, leaf })
    }

    pub(super) fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    pub(super) fn is_in(&self, gradients: &Gradients) -> bool {
        self.tensor.grad(gradients).is_some()
    }
}

/// The state of a pass that is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its container was not given to any call yet.
    Open,
    /// It was dropped, after it had handed gradients over.
    Void,
}

/// A backward pass that is not settled.
#[derive(Debug)]
pub(super) struct BackwardPass {
    pub(super) id: PassId,
    pub(super) token: Token,
    pub(super) fate: Fate,
    /// The parameter whose hook fired first.
    pub(super) first: usize,
    /// A parameter that a later pass has met with another leaf, while this one was open.
    pub(super) outdated: Option<usize>,
    pub(super) arrivals: Vec<Arrival>,
    /// The parameters whose gradients became complete, in that order.
    pub(super) ready_order: Vec<usize>,
}

/// The gradients that a pass has brought for one parameter.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrival {
    /// The number of uses that were run back.
    pub(super) count: u32,
    /// The leaves that got gradients.
    pub(super) leaves: Vec<NodeId>,
    /// True once its gradient was taken for complete.
    complete: bool,
    /// The leaf whose gradient was handed over.
    pub(super) handed: Option<NodeId>,
    /// The gradient that `no_sync` had kept and that went with it, in case the pass is dropped.
    pub(super) kept: Option<Tensor<1>>,
}

impl BackwardPass {
    pub(super) fn new(id: PassId, token: Token, first: usize, parameters: usize) -> Self {
        Self {
            id,
            token,
            fate: Fate::Open,
            first,
            outdated: None,
            arrivals: vec![Arrival::default(); parameters],
            ready_order: Vec::new(),
        }
    }

    /// Counts one use that was run back. Returns true if the parameter's gradient is complete now, as far as
    /// can be known.
    pub(super) fn arrive(
        &mut self,
        parameter: usize,
        leaf: NodeId,
        uses: u32,
        pattern: Option<(u32, u32)>,
    ) -> bool {
        let arrival = &mut self.arrivals[parameter];
        arrival.count = arrival.count.saturating_add(1);
        if !arrival.leaves.contains(&leaf) {
            arrival.leaves.push(leaf);
        }
        let all_came = arrival.count >= uses || pattern == Some((uses, arrival.count));
        if !all_came || arrival.complete {
            return false;
        }
        arrival.complete = true;
        self.ready_order.push(parameter);
        true
    }

    /// Notes that another pass runs back this leaf of a parameter.
    pub(super) fn met_by(&mut self, parameter: usize, leaf: NodeId) {
        let leaves = &self.arrivals[parameter].leaves;
        if self.fate == Fate::Open && !leaves.is_empty() && !leaves.contains(&leaf) {
            self.outdated.get_or_insert(parameter);
        }
    }

    /// Notes that a gradient was handed over, with what `no_sync` had kept.
    pub(super) fn hand_over(&mut self, parameter: usize, kept: Option<Tensor<1>>) {
        let arrival = &mut self.arrivals[parameter];
        // Only a parameter with one leaf is handed over.
        arrival.handed = arrival.leaves.first().copied();
        arrival.kept = kept;
    }

    /// Returns true if it is to be settled and was begun before another.
    pub(super) fn waits_before(&self, other: PassId) -> bool {
        self.fate == Fate::Open && self.id < other
    }
}
