//! Making the optimizer's gradients of averaged buckets.

use super::late::LateAverages;
use super::layout::BucketPlace;
use super::parameters::{Parameters, TensorInfo};
use super::reducer::messages::{Averaged, Averages};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Shape, Tensor};
use std::collections::HashMap;

/// Makes the optimizer's gradients of the averages. `found` says which parameter each float tensor of the model
/// is, in the order of traversal.
pub(super) fn unpack<M: Module>(
    parameters: &Parameters,
    averages: Averages,
    late: LateAverages,
    model: &M,
    found: &[Option<usize>],
    trained_beside: Vec<bool>,
) -> GradientsParams {
    let mut unpacker = Unpacker {
        found: found.iter(),
        parameters,
        places: averages.layout.places(parameters.entries.len()),
        averages,
        late,
        joined: HashMap::new(),
        trained_beside,
        made: vec![None; parameters.entries.len()],
        gradients: GradientsParams::new(),
    };
    model.visit(&mut unpacker);
    unpacker.gradients
}

struct Unpacker<'a> {
    found: std::slice::Iter<'a, Option<usize>>,
    parameters: &'a Parameters,
    averages: Averages,
    late: LateAverages,
    places: Vec<Option<BucketPlace>>,
    /// The buckets that are on their device as a whole.
    joined: HashMap<usize, Tensor<1>>,
    /// True for each parameter that is in several places, and trained in one.
    trained_beside: Vec<bool>,
    /// The id under which each parameter has its gradient already.
    made: Vec<Option<ParamId>>,
    gradients: GradientsParams,
}

impl ModuleVisitor for Unpacker<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(&Some(parameter)) = self.found.next() else {
            return;
        };
        let Some(place) = self.places[parameter].clone() else {
            return;
        };
        // A frozen copy of a parameter stays what it is, beside the one that is trained.
        if self.trained_beside[parameter] && !param.base().is_require_grad() {
            return;
        }
        if let Some(id) = self.made[parameter] {
            // One tensor in two places, which have ids of their own once a record was loaded.
            if let Some(gradient) = self.gradients.get::<D>(id) {
                self.gradients.register(param.id, gradient);
            }
            return;
        }
        let entry = &self.parameters.entries[parameter];
        let late = self.late.remove(&parameter);
        if !self.averages.used[parameter] && late.is_none() {
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
        let Some(mut gradient) = gradient else { return };
        if let Some(late) = late {
            let shape = Shape::from(entry.description.shape.clone());
            let wide = if entry.dtype == DType::F64 {
                DType::F64
            } else {
                DType::F32
            };
            let late = Tensor::<1>::from_data(late, (&device, wide)).reshape::<D, _>(shape);
            gradient = (gradient.cast(wide) + late).cast(entry.dtype);
        }
        self.gradients.register(param.id, gradient);
        self.made[parameter] = Some(param.id);
    }
}

impl Unpacker<'_> {
    /// A gradient from its bucket, which is on the device as a whole.
    fn of_joined<const D: usize>(
        &mut self,
        place: &BucketPlace,
        entry: &TensorInfo,
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
