//! What `synchronize` does around the averaging: collects the gradients that no hook handed over,
//! and makes tensors of the averages.
//!
//! Callers: `Ddp`.

use super::hook::read_tensor;
use super::parameters::Parameters;
use super::reducer::{Averages, Reading};
use super::usage::Usage;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Gradients, Tensor};

/// A reading for each trained parameter that was not handed over, in canonical order: the gradient
/// that backward left in `grads`, what `no_sync` kept, or nothing.
pub(super) fn collect_rest<M: Module>(
    parameters: &Parameters,
    mut grads: Gradients,
    model: &M,
    handed: Vec<bool>,
    kept: Vec<Option<Tensor<1>>>,
) -> Vec<Reading> {
    let mut local: Vec<Option<_>> = parameters.entries.iter().map(|_| None).collect();
    visit_gradients(parameters, &mut grads, model, |parameter, gradient| {
        if !handed[parameter] {
            local[parameter] = Some(read_tensor(gradient));
        }
    });
    let trained = parameters
        .entries
        .iter()
        .map(|entry| entry.description.trained);
    trained
        .zip(handed)
        .zip(local.into_iter().zip(kept))
        .enumerate()
        .filter(|(_, ((trained, handed), _))| *trained && !handed)
        .map(|(parameter, (_, (gradient, kept)))| Reading::new(parameter, gradient, kept))
        .collect()
}

/// Adds the gradients of a local backward pass to those that wait for the next step.
pub(super) fn keep<M: Module>(
    parameters: &Parameters,
    usage: &Usage,
    mut grads: Gradients,
    model: &M,
) {
    visit_gradients(parameters, &mut grads, model, |parameter, gradient| {
        usage.keep(parameter, gradient);
    });
}

/// Makes the optimizer's gradients of the averages.
pub(super) fn unpack<M: Module>(
    parameters: &Parameters,
    averages: &Averages,
    model: &M,
) -> GradientsParams {
    let mut unpacker = Unpacker {
        parameters,
        averages,
        places: averages.layout.places(parameters.entries.len()),
        gradients: GradientsParams::new(),
    };
    model.visit(&mut unpacker);
    unpacker.gradients
}

/// Takes each known parameter's gradient, flattened, out of `grads`.
fn visit_gradients<M: Module>(
    parameters: &Parameters,
    grads: &mut Gradients,
    model: &M,
    take: impl FnMut(usize, Tensor<1>),
) {
    model.visit(&mut Taker {
        parameters,
        grads,
        take,
    });
}

struct Taker<'a, F> {
    parameters: &'a Parameters,
    grads: &'a mut Gradients,
    take: F,
}

impl<F: FnMut(usize, Tensor<1>)> ModuleVisitor for Taker<'_, F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(parameter) = self.parameters.index(param.id)
            && let Some(gradient) = param.base().grad_remove(self.grads)
        {
            let len = gradient.shape().num_elements();
            (self.take)(parameter, gradient.reshape([len]));
        }
    }
}

struct Unpacker<'a> {
    parameters: &'a Parameters,
    averages: &'a Averages,
    places: Vec<Option<(usize, usize)>>,
    gradients: GradientsParams,
}

impl ModuleVisitor for Unpacker<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(parameter) = self.parameters.index(param.id) else {
            return;
        };
        let Some((bucket, slot)) = self.places[parameter] else {
            return;
        };
        let entry = &self.parameters.entries[parameter];
        let buffer = &self.averages.buffers[bucket];
        let bucket = &self.averages.layout.buckets[bucket];
        if !buffer.flag(bucket.gradient_len() + slot) {
            tracing::debug!(
                parameter = entry.description.path,
                "no rank used a parameter"
            );
            return;
        }
        let place = bucket.slots[slot];
        let range = place.offset..place.offset + place.len;
        let data = buffer.unpack(range, &entry.description.shape, entry.dtype);
        let device = param.base().device().without_autodiff();
        let gradient = Tensor::<D>::from_data(data, (&device, entry.dtype));
        self.gradients.register(param.id, gradient);
    }
}
