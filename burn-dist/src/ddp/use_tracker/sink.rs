//! The calls of hooks while forward and backward run.

use super::pass::{BackwardPass, Fate, Token};
use super::{HookMode, MAX_OPEN_PASSES, MAX_SPARE_TOKENS, PassScope, UseTracker};
use crate::autodiff::Leaf;
use crate::ddp::gradient::Gradient;
use crate::ddp::hook::{GradientSink, PassId};
use crate::ddp::reducer::messages::{Reading, ReducerCommand};
use burn::backend::Dispatch;
use burn::backend::autodiff::NodeId;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Device, Tensor};

impl GradientSink for UseTracker {
    fn used(&self, parameter: usize, device: &Device) -> Option<Tensor<1>> {
        let (place, lacks_token) = {
            let mut step = self.step.lock();
            if step.mode == HookMode::Closed {
                return None;
            }
            let next = step.used;
            let state = &mut step.parameters[parameter];
            state.uses = state.uses.saturating_add(1);
            let uses = state.uses as usize;
            let place = *state.place.get_or_insert(next);
            step.used += usize::from(place == next);
            // A parameter's uses are run back by as many passes, at most.
            let wanted = uses.min(MAX_SPARE_TOKENS);
            (place, step.spare.len() + step.passes.len() < wanted)
        };
        let anchor = self.anchors.at(place, device);
        if lacks_token && let Some(token) = Token::new(anchor.clone()) {
            self.step.lock().spare.push(token);
        }
        Some(anchor)
    }

    fn bind(&self, parameter: usize, leaf: Leaf) {
        let mut step = self.step.lock();
        let ignored = step.scopes.last() == Some(&PassScope::Ignore);
        let leaves = &mut step.parameters[parameter].leaves;
        // A second leaf says that there are several.
        if !ignored && leaves.len() < 2 && leaves.iter().all(|known| known.id != leaf.id) {
            leaves.push(leaf);
        }
    }

    fn known_pass(&self, present: &dyn Fn(&Leaf) -> bool) -> Option<PassId> {
        let step = self.step.lock();
        let mut passes = step.passes.iter().rev();
        passes
            .find(|pass| present(pass.token.leaf()))
            .map(|pass| pass.id)
    }

    fn begin_pass(&self, parameter: usize) -> Option<(PassId, Leaf)> {
        let mut step = self.step.lock();
        let ignored = step.scopes.last() == Some(&PassScope::Ignore);
        // A loop that never settles its passes fails at the drop in any case.
        if step.mode == HookMode::Closed || ignored || step.passes.len() >= MAX_OPEN_PASSES {
            return None;
        }
        let token = step.spare.pop()?;
        let leaf = token.leaf().clone();
        let id = step.next_pass;
        step.next_pass += 1;
        let count = step.parameters.len();
        step.passes
            .push(BackwardPass::new(id, token, parameter, count));
        Some((id, leaf))
    }

    fn arrived(&self, pass: Option<PassId>, parameter: usize, leaf: NodeId) -> Option<Leaf> {
        let mut step = self.step.lock();
        let step = &mut *step;
        let Some(id) = pass else {
            let uses = &mut step.parameters[parameter].uses;
            *uses = uses.saturating_sub(1);
            return None;
        };
        let may_hand_over = step.mode == HookMode::HandingOver
            && step.scopes.is_empty()
            && step.cautious == 0
            && step.handed.is_none_or(|handed| handed == id)
            && !step.passes.iter().any(|pass| pass.waits_before(id));
        for earlier in step.passes.iter_mut().filter(|pass| pass.id != id) {
            earlier.met_by(parameter, leaf);
        }
        let pass = step.passes.iter_mut().find(|pass| pass.id == id)?;
        let state = &step.parameters[parameter];
        if !pass.arrive(parameter, leaf, state.uses, state.pattern) {
            return None;
        }
        let [known] = &state.leaves[..] else {
            return None;
        };
        let wanted = may_hand_over
            && state.trained
            && state.late == 0
            && known.id == leaf
            && pass.fate == Fate::Open;
        if !wanted {
            return None;
        }
        step.handed = Some(id);
        Some(known.clone())
    }

    fn complete(&self, pass: Option<PassId>, parameter: usize, gradient: FloatTensor<Dispatch>) {
        let gradient = Gradient::new(gradient, self.weight(), self.lane);
        let kept = {
            let mut step = self.step.lock();
            let step = &mut *step;
            let kept = step.parameters[parameter].kept.take();
            if let Some(pass) = step.passes.iter_mut().find(|known| Some(known.id) == pass) {
                pass.hand_over(parameter, kept.clone());
            }
            kept
        };
        let kept = kept.map(|kept| self.on_lane(kept, 1.0));
        let parts = [Some(gradient), kept];
        let reading = Reading::new(parameter, parts.into_iter().flatten().collect());
        // If the reducer has ended, `synchronize` says why.
        let _ = self.ready.send(ReducerCommand::Ready(reading));
    }

    fn key(&self) -> u64 {
        self.key
    }
}
