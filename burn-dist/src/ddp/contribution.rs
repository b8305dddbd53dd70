//! The part of a rank in a step: the gradients that hooks have not handed over.

use super::collect::{self, Collected, GradientSource};
use super::gradient::weighed;
use super::handle::{Attached, Ddp};
use super::hook::{GradientSink, PassId};
use super::reducer::messages::Reading;
use super::use_tracker::settle::StepPart;
use crate::error::Result;
use burn::backend::autodiff::NodeId;
use burn::module::Module;
use burn::tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// The part of a rank in a step.
pub(super) struct Contribution {
    /// The number of parameters that were handed over.
    pub(super) handed: usize,
    /// The other trained parameters.
    pub(super) rest: Vec<Reading>,
    /// The gradients that came to parameters after they were handed over.
    pub(super) late: BTreeMap<usize, Tensor<1>>,
    pub(super) ready_order: Vec<usize>,
    /// True if it may have to be given again.
    pub(super) again: bool,
}

impl Ddp {
    /// Takes this rank's part of a step with some passes: from the tracker, and from what they left for a model.
    pub(super) fn contribution<M: Module>(
        &self,
        attached: &Attached,
        grads: &mut impl GradientSource,
        passes: &[PassId],
        model: &M,
    ) -> Result<(Contribution, Collected)> {
        let Attached {
            parameters,
            tracker,
            ..
        } = attached;
        let part = tracker
            .take_part(passes)
            .map_err(|refusal| self.order(refusal.message(parameters)))?;
        let collected = collect::collect(parameters, tracker.key(), model, grads);
        let mut collected = collected.map_err(|message| self.order(message))?;
        self.check_leaves(attached, &part.leaves, &collected)?;
        let handed: Vec<Vec<NodeId>> = part
            .handed
            .iter()
            .map(|leaf| leaf.iter().copied().collect())
            .collect();
        self.check_leaves(attached, &handed, &collected)?;
        let gradients = std::mem::take(&mut collected.gradients);
        let given = self.divide(attached, part, gradients)?;
        Ok((given, collected))
    }

    /// Divides gradients into those for the buckets and those that are late for them.
    fn divide(
        &self,
        attached: &Attached,
        part: StepPart,
        gradients: Vec<Vec<Tensor<1>>>,
    ) -> Result<Contribution> {
        let Attached {
            parameters,
            tracker,
            ..
        } = attached;
        let mut given = Contribution {
            handed: part.handed.iter().flatten().count(),
            rest: Vec::new(),
            late: BTreeMap::new(),
            ready_order: part.ready_order,
            again: part.again,
        };
        let all = gradients.into_iter().zip(part.kept).enumerate();
        for (parameter, (gradients, kept)) in all {
            let description = &parameters.entries[parameter].description;
            if !description.trained {
                if part.handed[parameter].is_some() || kept.is_some() {
                    return Err(self.order(collect::unfrozen(&description.path)));
                }
                continue;
            }
            if part.handed[parameter].is_none() {
                let parts = gradients
                    .into_iter()
                    .map(|gradient| tracker.on_lane(gradient, part.weight))
                    .chain(kept.map(|kept| tracker.on_lane(kept, 1.0)));
                given.rest.push(Reading::new(parameter, parts.collect()));
                continue;
            }
            let weighed = gradients.into_iter().map(|gradient| {
                let gradient = weighed(gradient.into_dispatch(), part.weight);
                wide(Tensor::from_dispatch(gradient))
            });
            if let Some(late) = weighed.chain(kept).reduce(|sum, part| sum + part) {
                given.late.insert(parameter, late);
            }
        }
        Ok(given)
    }

    /// Refuses gradients that came to other leaves than the model's.
    pub(super) fn check_leaves(
        &self,
        attached: &Attached,
        came: &[Vec<NodeId>],
        collected: &Collected,
    ) -> Result<()> {
        let foreign = came
            .iter()
            .zip(&collected.leaves)
            .position(|(came, models)| {
                !came.is_empty() && !came.iter().any(|leaf| models.contains(leaf))
            });
        let Some(parameter) = foreign else {
            return Ok(());
        };
        let description = &attached.parameters.entries[parameter].description;
        if !description.trained {
            return Err(self.order(collect::unfrozen(&description.path)));
        }
        Err(self.order(format!(
            "the gradient of `{}` is not of the model that was passed: the model was stepped, loaded or moved \
             between backward and this call, or only a copy of it was differentiated; call this right after \
             backward, with the model that ran forward, and run passes of copies in `Ddp::ignore`",
            description.path
        )))
    }
}

/// A gradient in the precision that gradients are added up in.
pub(super) fn wide(gradient: Tensor<1>) -> Tensor<1> {
    match gradient.dtype() {
        DType::F64 | DType::F32 => gradient,
        _ => gradient.cast(DType::F32),
    }
}
