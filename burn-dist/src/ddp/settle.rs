//! What `synchronize` does around the averaging: collects the gradients that no hook handed over,
//! and makes tensors of the averages.
//!
//! Parameters are found by their paths: their ids change when a record is loaded.
//!
//! Callers: `Ddp`.

use super::gradient::weighed;
use super::layout::Place;
use super::parameters::{Entry, Parameters, Path};
use super::reducer::{Averaged, Averages, Reading};
use super::usage::{Finished, Usage};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Shape, Tensor};
use std::collections::HashMap;

/// What a backward pass left: Burn's container, or what a module's gradients were gathered in.
pub(super) trait Leftover {
    /// The gradient of a parameter, if one is there.
    fn take<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Option<Tensor<D>>;
}

impl Leftover for Gradients {
    fn take<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Option<Tensor<D>> {
        param.base().grad_remove(self)
    }
}

impl Leftover for GradientsParams {
    fn take<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Option<Tensor<D>> {
        self.remove(param.id)
    }
}

/// What hooks did not hand over.
pub(super) struct Rest {
    /// For each trained parameter that was not handed over, in canonical order: what was held back,
    /// what backward left in the container, what `no_sync` kept, or nothing.
    pub(super) readings: Vec<Reading>,
    /// The parameters whose gradient was held back and went on growing: they are used around their
    /// hooks.
    pub(super) late: Vec<usize>,
}

/// Collects what is missing of a step. The error says how the calls or the model make that impossible.
pub(super) fn collect_rest<M: Module>(
    parameters: &Parameters,
    usage: &Usage,
    mut grads: impl Leftover,
    model: &M,
    step: Finished,
) -> Result<Rest, String> {
    let Finished {
        handed,
        held,
        mut parts,
        weight,
        ..
    } = step;
    let mut late = Vec::new();
    let unfrozen = |path: &str| {
        format!(
            "`{path}` was frozen when the model was attached and is trained now; unfreeze it first, \
             then attach"
        )
    };
    let mut wrong = parameters
        .entries
        .iter()
        .zip(held.iter().zip(&handed))
        .find(|(entry, (held, handed))| !entry.description.trained && (**held || **handed))
        .map(|(entry, _)| unfrozen(&entry.description.path));
    visit_gradients(
        parameters,
        &mut grads,
        model,
        |path, parameter, gradient| match parameter {
            None => {
                wrong.get_or_insert(format!(
                    "`{path}` is trained and was not there when the model was attached; add \
                     parameters first, then attach"
                ));
            }
            Some(i) if !parameters.entries[i].description.trained => {
                wrong.get_or_insert_with(|| unfrozen(path));
            }
            Some(i) if handed[i] => {
                wrong.get_or_insert(format!(
                    "the gradient of `{path}` went on after it was handed over: the parameter is \
                     also used outside of its module's forward pass (`base()`, or `val()` in a \
                     visitor), and was not in the first step; use it so from the first step on"
                ));
            }
            Some(i) => {
                if held[i] {
                    late.push(i);
                }
                parts[i].push(usage.on_lane(gradient, weight));
            }
        },
    );
    if let Some(message) = wrong {
        return Err(message);
    }
    let readings = parts
        .into_iter()
        .enumerate()
        .filter(|(i, _)| parameters.entries[*i].description.trained && !handed[*i])
        .map(|(parameter, parts)| Reading::new(parameter, parts))
        .collect();
    Ok(Rest { readings, late })
}

/// Adds the gradients of a local backward pass to those that wait for the next step.
pub(super) fn keep<M: Module>(
    parameters: &Parameters,
    usage: &Usage,
    mut grads: impl Leftover,
    model: &M,
) {
    let weight = usage.weight();
    visit_gradients(
        parameters,
        &mut grads,
        model,
        |_path, parameter, gradient| {
            // What is not known here is reported by the step that is synchronised.
            if let Some(parameter) = parameter {
                let weighed = weighed(gradient.into_dispatch(), weight);
                usage.keep(parameter, Tensor::from_dispatch(weighed));
            }
        },
    );
}

/// Makes the optimizer's gradients of the averages.
pub(super) fn unpack<M: Module>(
    parameters: &Parameters,
    averages: Averages,
    model: &M,
) -> GradientsParams {
    let mut unpacker = Unpacker {
        path: Path::default(),
        parameters,
        places: averages.layout.places(parameters.entries.len()),
        averages,
        joined: HashMap::new(),
        made: vec![None; parameters.entries.len()],
        gradients: GradientsParams::new(),
    };
    model.visit(&mut unpacker);
    unpacker.gradients
}

/// Takes each parameter's gradient, flattened, out of `grads`, with its path and place in the list.
fn visit_gradients<M: Module>(
    parameters: &Parameters,
    grads: &mut impl Leftover,
    model: &M,
    take: impl FnMut(&str, Option<usize>, Tensor<1>),
) {
    model.visit(&mut Taker {
        path: Path::default(),
        parameters,
        grads,
        take,
    });
}

struct Taker<'a, G, F> {
    path: Path,
    parameters: &'a Parameters,
    grads: &'a mut G,
    take: F,
}

impl<G: Leftover, F: FnMut(&str, Option<usize>, Tensor<1>)> ModuleVisitor for Taker<'_, G, F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.grads.take(param) {
            let path = self.path.joined();
            let len = gradient.shape().num_elements();
            let parameter = self.parameters.index(&path);
            (self.take)(&path, parameter, gradient.reshape([len]));
        }
    }
}

struct Unpacker<'a> {
    path: Path,
    parameters: &'a Parameters,
    averages: Averages,
    places: Vec<Option<Place>>,
    /// The buckets that are on their device as a whole.
    joined: HashMap<usize, Tensor<1>>,
    /// Under which id each parameter has its gradient already.
    made: Vec<Option<ParamId>>,
    gradients: GradientsParams,
}

impl ModuleVisitor for Unpacker<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(parameter) = self.parameters.index(&self.path.joined()) else {
            return;
        };
        let Some(place) = self.places[parameter].clone() else {
            return;
        };
        if let Some(id) = self.made[parameter] {
            // One tensor in two places, which have ids of their own once a record was loaded.
            if let Some(gradient) = self.gradients.get::<D>(id) {
                self.gradients.register(param.id, gradient);
            }
            return;
        }
        let entry = &self.parameters.entries[parameter];
        if !self.averages.used[parameter] {
            tracing::debug!(
                parameter = entry.description.path,
                "no rank used a parameter"
            );
            return;
        }
        let device = param.base().device().without_autodiff();
        let gradient = match &mut self.averages.buckets[place.bucket] {
            Averaged::InMemory(average) => {
                let shape = &entry.description.shape;
                let data = average.take(place.range.clone(), shape, entry.dtype);
                Some(Tensor::<D>::from_data(data, (&device, entry.dtype)))
            }
            Averaged::OnDevice(_) | Averaged::Nothing => self.of_joined(&place, entry, &device),
        };
        // Every bucket of a step is averaged.
        let Some(gradient) = gradient else { return };
        self.gradients.register(param.id, gradient);
        self.made[parameter] = Some(param.id);
    }
}

impl Unpacker<'_> {
    /// A gradient from its bucket, which is on the device as a whole.
    fn of_joined<const D: usize>(
        &mut self,
        place: &Place,
        entry: &Entry,
        device: &Device,
    ) -> Option<Tensor<D>> {
        let shape = Shape::from(entry.description.shape.clone());
        if place.range.is_empty() {
            return Some(Tensor::zeros(shape, (device, entry.dtype)));
        }
        let bucket = &self.averages.layout.buckets[place.bucket];
        let (len, dtype) = (bucket.gradient_len(), bucket.precision.dtype());
        let averaged = &mut self.averages.buckets[place.bucket];
        if let Averaged::OnDevice(pending) = std::mem::replace(averaged, Averaged::Nothing) {
            let joined = Tensor::from_dispatch(pending.resolve());
            self.joined.insert(place.bucket, joined);
        }
        let joined = self.joined.get(&place.bucket)?.clone();
        let part = if place.range == (0..len) {
            joined
        } else {
            joined.slice(place.range.clone())
        };
        let gradient = part.reshape::<D, _>(shape);
        Some(if entry.dtype == dtype {
            gradient
        } else {
            gradient.cast(entry.dtype)
        })
    }
}
