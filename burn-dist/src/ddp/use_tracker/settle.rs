//! The end of backward passes: a rank's part of a step, or the reason why it can't be given.

use super::pass::{BackwardPass, Fate};
use super::{FIRST_WAIT, HookMode, MAX_SPARE_TOKENS, MAX_WAIT, UseTracker};
use crate::ddp::hook::PassId;
use crate::ddp::parameters::Parameters;
use burn::backend::autodiff::NodeId;
use burn::tensor::{Gradients, Tensor};

/// This rank's part of a step, as far as hooks know it.
#[derive(Debug, Default)]
pub(in crate::ddp) struct StepPart {
    /// For each parameter, the leaf whose gradient was handed over.
    pub(in crate::ddp) handed: Vec<Option<NodeId>>,
    /// For each parameter, the leaves that got gradients.
    pub(in crate::ddp) leaves: Vec<Vec<NodeId>>,
    /// For each parameter, what `no_sync` kept.
    pub(in crate::ddp) kept: Vec<Option<Tensor<1>>>,
    /// The parameters in the order in which their gradients became complete.
    pub(in crate::ddp) ready_order: Vec<usize>,
    /// The factor of gradients.
    pub(in crate::ddp) weight: f64,
    /// True if the part may have to be given again.
    pub(in crate::ddp) again: bool,
}

/// The reason why a part can't be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ddp) enum Refusal {
    /// An earlier pass, with a gradient of this parameter, went nowhere: the model changed since.
    Lost(usize),
    /// An earlier pass, with a gradient of this parameter, was handed over and is still open.
    Earlier(usize),
    /// The container is of none of this model's passes, and one is open that has a gradient of this parameter.
    Elsewhere(usize),
}

impl Refusal {
    /// Says what is wrong, and which call is right.
    pub(in crate::ddp) fn message(self, parameters: &Parameters) -> String {
        let path = |parameter: usize| &parameters.entries[parameter].description.path;
        match self {
            Self::Lost(parameter) => format!(
                "a backward pass computed gradients of attached parameters (`{}` among them) that were given to no \
                 call, and this rank did not average them; give each pass to `synchronize` (in the place of \
                 `GradientsParams::from_grads`), or `no_sync`, `ignore` or `discard` it",
                path(parameter)
            ),
            Self::Elsewhere(parameter) => format!(
                "no gradient of this model is in the container that was passed, while a backward pass that \
                 computed some (`{}` among them) was given to no call; pass the `Gradients` of that pass, by \
                 `synchronize_from` if several models share it, or run it in `ignore` and call `synchronize_none`",
                path(parameter)
            ),
            Self::Earlier(parameter) => format!(
                "the gradient of `{}` was handed over by an earlier backward pass that was given to no call yet; \
                 give each pass to `synchronize` (in the place of `GradientsParams::from_grads`) in the order in \
                 which backward ran, or run the earlier one in `no_sync`, or `ignore` or `discard` it",
                path(parameter)
            ),
        }
    }
}

impl UseTracker {
    /// Returns the open passes whose gradients a container holds.
    pub(in crate::ddp) fn passes_in(&self, gradients: &Gradients) -> Vec<PassId> {
        let step = self.step.lock();
        let passes = step.passes.iter();
        passes
            .filter(|pass| pass.fate == Fate::Open && pass.token.is_in(gradients))
            .map(|pass| pass.id)
            .collect()
    }

    /// Returns all open passes.
    #[cfg(feature = "train")]
    pub(in crate::ddp) fn open_passes(&self) -> Vec<PassId> {
        let step = self.step.lock();
        let open = step.passes.iter().filter(|pass| pass.fate == Fate::Open);
        open.map(|pass| pass.id).collect()
    }

    /// Hands nothing over from now on.
    #[cfg(feature = "train")]
    pub(in crate::ddp) fn never_hand_over(&self) {
        self.step.lock().cautious = u32::MAX;
    }

    /// Returns true if gradients are kept that no step has taken.
    pub(in crate::ddp) fn keeps(&self) -> bool {
        self.step
            .lock()
            .parameters
            .iter()
            .any(|state| state.kept.is_some())
    }

    /// Returns a parameter of the first pass that is still open.
    pub(in crate::ddp) fn unsettled(&self) -> Option<usize> {
        let step = self.step.lock();
        let mut passes = step.passes.iter();
        passes
            .find(|pass| pass.fate == Fate::Open)
            .map(|pass| pass.first)
    }

    /// Drops passes knowingly. Returns whether that is the first time.
    pub(in crate::ddp) fn drop_passes(&self, passes: &[PassId]) -> bool {
        let mut step = self.step.lock();
        let step = &mut *step;
        let first = !passes.is_empty() && step.cautious == 0;
        for &id in passes {
            let Some(at) = step.passes.iter().position(|pass| pass.id == id) else {
                continue;
            };
            step.cautious = step.cautious.max(1);
            if step.handed == Some(id) {
                step.passes[at].fate = Fate::Void;
            } else {
                let pass = step.passes.remove(at);
                step.settle_uses(&pass);
            }
        }
        first
    }

    /// Takes this rank's part of a pass that was handed over and then dropped, if there is one: for each
    /// parameter, true if it was handed over.
    pub(in crate::ddp) fn take_void(&self) -> Option<Vec<bool>> {
        let mut step = self.step.lock();
        let step = &mut *step;
        let at = step
            .passes
            .iter()
            .position(|pass| pass.fate == Fate::Void)?;
        let pass = step.passes.remove(at);
        step.settle_uses(&pass);
        step.handed = None;
        let states = step.parameters.iter_mut();
        let handed = states.zip(pass.arrivals).map(|(state, arrival)| {
            if let Some(kept) = arrival.kept {
                state.keep(kept);
            }
            arrival.handed.is_some()
        });
        Some(handed.collect())
    }

    /// Makes hooks cautious for a while, after a void part of any rank.
    pub(in crate::ddp) fn was_void(&self) {
        let mut step = self.step.lock();
        step.cautious = step.cautious.max(step.caution);
        step.caution = step.caution.saturating_mul(2).min(MAX_WAIT);
    }

    /// Takes passes that stay on this rank, which were not handed over: for each parameter, the leaves that got
    /// gradients.
    pub(in crate::ddp) fn take_local(
        &self,
        passes: &[PassId],
    ) -> Result<Vec<Vec<NodeId>>, Refusal> {
        let mut step = self.step.lock();
        let step = &mut *step;
        if let Some(handed) = step.handed.filter(|handed| passes.contains(handed)) {
            let pass = step.passes.iter().find(|pass| pass.id == handed);
            return Err(Refusal::Earlier(pass.map_or(0, |pass| pass.first)));
        }
        let mut leaves = vec![Vec::new(); step.parameters.len()];
        for pass in step.passes.extract_if(.., |pass| passes.contains(&pass.id)) {
            for (leaves, arrival) in leaves.iter_mut().zip(&pass.arrivals) {
                leaves.extend(&arrival.leaves);
            }
            for (state, arrival) in step.parameters.iter_mut().zip(&pass.arrivals) {
                state.uses = state.uses.saturating_sub(arrival.count);
            }
        }
        Ok(leaves)
    }

    /// Refuses a container that is of none of this model's passes, while one of these is open.
    pub(in crate::ddp) fn check_container(&self, passes: &[PassId]) -> Result<(), Refusal> {
        match self.unsettled() {
            Some(parameter) if passes.is_empty() => Err(Refusal::Elsewhere(parameter)),
            _ => Ok(()),
        }
    }

    /// Ends the step with the passes of one container: takes this rank's part of it.
    pub(in crate::ddp) fn take_part(&self, passes: &[PassId]) -> Result<StepPart, Refusal> {
        let mut step = self.step.lock();
        let step = &mut *step;
        let open = |pass: &&BackwardPass| pass.fate == Fate::Open && !passes.contains(&pass.id);
        let lost = step
            .passes
            .iter()
            .filter(open)
            .find_map(|pass| pass.outdated);
        if let Some(parameter) = lost {
            return Err(Refusal::Lost(parameter));
        }
        let earlier = step.passes.iter().filter(open);
        if let Some(earlier) = earlier.clone().find(|pass| step.handed == Some(pass.id)) {
            return Err(Refusal::Earlier(earlier.first));
        }
        let count = step.parameters.len();
        let mut part = StepPart {
            handed: vec![None; count],
            leaves: vec![Vec::new(); count],
            kept: Vec::new(),
            ready_order: Vec::new(),
            weight: std::mem::replace(&mut step.weight, 1.0),
            again: step.cautious > 0,
        };
        for pass in step.passes.extract_if(.., |pass| passes.contains(&pass.id)) {
            for (at, arrival) in pass.arrivals.into_iter().enumerate() {
                if arrival.count > 0 {
                    let state = &mut step.parameters[at];
                    state.pattern = Some((state.uses, arrival.count));
                }
                part.handed[at] = part.handed[at].or(arrival.handed);
                part.leaves[at].extend(arrival.leaves);
            }
            part.ready_order.extend(pass.ready_order);
        }
        part.kept = step
            .parameters
            .iter_mut()
            .map(|state| state.kept.take())
            .collect();
        step.handed = None;
        step.used = 0;
        step.spare.truncate(MAX_SPARE_TOKENS);
        for state in &mut step.parameters {
            state.uses = 0;
            state.place = None;
            state.leaves.clear();
        }
        Ok(part)
    }

    /// Returns true once for each parameter: the log has still to say that its gradients come late.
    pub(in crate::ddp) fn tell_late(&self, parameter: usize) -> bool {
        let told = &mut self.step.lock().parameters[parameter].told;
        !std::mem::replace(told, true)
    }

    /// Ends a step that was averaged. Parameters that got a late part are not handed over for a while.
    pub(in crate::ddp) fn averaged(&self, late: &[usize]) {
        let mut step = self.step.lock();
        if step.mode == HookMode::Watching {
            step.mode = HookMode::HandingOver;
        }
        if step.cautious < u32::MAX {
            step.cautious = step.cautious.saturating_sub(1);
        }
        for state in &mut step.parameters {
            state.late = state.late.saturating_sub(1);
        }
        for &parameter in late {
            let state = &mut step.parameters[parameter];
            state.lateness = (state.lateness.saturating_mul(2)).clamp(FIRST_WAIT, MAX_WAIT);
            state.late = state.lateness;
        }
    }
}

impl super::TrackerState {
    /// Takes the uses that a pass has run back off those that are waited for.
    fn settle_uses(&mut self, pass: &BackwardPass) {
        for (state, arrival) in self.parameters.iter_mut().zip(&pass.arrivals) {
            state.uses = state.uses.saturating_sub(arrival.count);
        }
    }
}
