//! Gradients of a loss that counts for nothing, because it is a mean over nothing on this rank: it is no number
//! then, and nor are its gradients, which must add nothing to those of the other ranks.

use super::here::loss_counts;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, TensorMetadata,
    ops::FloatTensorOps,
};
use burn::tensor::{Shape, Tensor};

/// [`counted`] for a tensor of any backend.
pub(crate) fn counted_on<B: Backend>(gradient: FloatTensor<B>) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    if loss_counts() {
        return gradient;
    }
    let numbers = counted(DispatchTensor::from_backend(BackendTensor::Float(
        gradient.clone(),
    )));
    match DispatchTensor::try_into_backend(numbers) {
        Ok(BackendTensor::Float(numbers)) => numbers,
        // It came from this backend, as a tensor of floats.
        _ => gradient,
    }
}

/// The gradient itself; zero in place of what is no number, where the rank's loss counts for nothing.
pub(crate) fn counted(gradient: FloatTensor<Dispatch>) -> FloatTensor<Dispatch> {
    if loss_counts() {
        return gradient;
    }
    let shape = gradient.shape();
    let flat = Shape::new([shape.num_elements()]);
    let flat = Tensor::<1>::from_dispatch(Dispatch::float_reshape(gradient, flat));
    let not_numbers = flat.clone().is_finite().bool_not();
    let numbers = flat.mask_fill(not_numbers, 0.0);
    Dispatch::float_reshape(numbers.into_dispatch(), shape)
}
