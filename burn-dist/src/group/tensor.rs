//! The collectives on Burn tensors, of any kind and rank and on any backend.
//!
//! Each call reads the tensor into host memory, runs the collective on its elements under the tensor's shape
//! and dtype, and makes the result on the tensor's own device.

use burn::tensor::Tensor;
use burn::tensor::kind::Basic;

use super::ProcessGroup;
use super::buffer::{Buffer, form, in_place, transfer};
use super::host::for_elements;
use super::mode::{Mode, OwnedCall};
use crate::collective::{self, Collective};
use crate::error::Result;

impl<const D: usize, K: Basic + Send + 'static, M: Mode> Buffer<form::InPlace, M> for Tensor<D, K> {
    type Output = Self;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self> {
        M::run(group, combine(group, call, self))
    }
}

fn combine<const D: usize, K: Basic + Send + 'static, M>(
    group: &ProcessGroup<M>,
    call: Collective,
    tensor: Tensor<D, K>,
) -> Result<OwnedCall<Tensor<D, K>>> {
    let contents = group.contents(call.name(), tensor)?;
    let origin = contents.origin.clone();
    for_elements!(origin.dtype, T => {
        let Collective::AllReduce { op } = call else {
            let (from, elements) = (origin.clone(), contents.elements::<T>());
            return in_place(group, call, from.signature::<T>(), elements, move |elements| {
                origin.tensor(elements, origin.shape)
            });
        };
        let lengths = (None, Some(origin.length()));
        let ticket = group.collective_ticket(call, origin.signature::<T>(), lengths)?;
        Ok(Box::new(move || ticket.run(|handle| {
            let reduced = contents.lend::<T, _>(|given| {
                collective::all_reduce_shared(handle, given, op)
            });
            origin.reduced(reduced?)
        })))
    }, Err(group.no_elements(call.name(), origin.dtype)))
}

impl<const D: usize, K: Basic + Send + 'static, M: Mode> Buffer<form::Gather, M> for Tensor<D, K> {
    type Output = Option<Vec<Self>>;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self::Output> {
        M::run(group, gather(group, call, self))
    }
}

impl<const D: usize, K: Basic + Send + 'static, M: Mode> Buffer<form::AllGather, M>
    for Tensor<D, K>
{
    type Output = Vec<Self>;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self::Output> {
        let job = gather(group, call, self);
        // Every rank has an output.
        let job =
            job.map(|job| -> OwnedCall<_> { Box::new(move || Ok(job()?.unwrap_or_default())) });
        M::run(group, job)
    }
}

fn gather<const D: usize, K: Basic + Send + 'static, M>(
    group: &ProcessGroup<M>,
    call: Collective,
    tensor: Tensor<D, K>,
) -> Result<OwnedCall<Option<Vec<Tensor<D, K>>>>> {
    let contents = group.contents(call.name(), tensor)?;
    let origin = contents.origin.clone();
    let (from, ranks) = (origin.clone(), group.world_size());
    let output = group.output_length(call, origin.length())?;
    for_elements!(origin.dtype, T => {
        let lent = (Some(contents.elements::<T>()), output);
        transfer(group, call, from.signature::<T>(), lent, move |output| {
            output.map(|output| origin.tensors(&output, ranks)).transpose()
        })
    }, Err(group.no_elements(call.name(), origin.dtype)))
}

impl<const D: usize, K: Basic + Send + 'static, M: Mode> Buffer<form::Scatter, M>
    for (Option<Vec<Tensor<D, K>>>, &Tensor<D, K>)
{
    type Output = Tensor<D, K>;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self::Output> {
        M::run(group, scatter(group, call, self.0, self.1))
    }
}

fn scatter<const D: usize, K: Basic + Send + 'static, M>(
    group: &ProcessGroup<M>,
    call: Collective,
    tensors: Option<Vec<Tensor<D, K>>>,
    like: &Tensor<D, K>,
) -> Result<OwnedCall<Tensor<D, K>>> {
    let origin = group.origin(call.name(), like);
    let (from, length) = (origin.clone(), origin.length());
    for_elements!(origin.dtype, T => {
        let input = tensors.map(|all| group.contents_of_all::<D, K, T>(&origin, all));
        let lent = (input.transpose()?, Some(length));
        transfer(group, call, from.signature::<T>(), lent, move |output| {
            origin.tensor(output.unwrap_or_default(), origin.shape)
        })
    }, Err(group.no_elements(call.name(), origin.dtype)))
}

impl<const D: usize, K: Basic + Send + 'static, M: Mode> Buffer<form::ReduceScatter, M>
    for Tensor<D, K>
{
    type Output = Self;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self> {
        M::run(group, reduce_scatter(group, call, self))
    }
}

fn reduce_scatter<const D: usize, K: Basic + Send + 'static, M>(
    group: &ProcessGroup<M>,
    call: Collective,
    tensor: Tensor<D, K>,
) -> Result<OwnedCall<Tensor<D, K>>> {
    let contents = group.contents(call.name(), tensor)?;
    let origin = contents.origin.clone();
    let (from, mut shape) = (origin.clone(), origin.shape);
    if let Some(first) = shape.first_mut() {
        *first = group.check_parts(call.name(), *first)?;
    }
    for_elements!(origin.dtype, T => {
        let lent = (Some(contents.elements::<T>()), Some(shape.iter().product()));
        transfer(group, call, from.signature::<T>(), lent, move |output| {
            origin.tensor(output.unwrap_or_default(), shape)
        })
    }, Err(group.no_elements(call.name(), origin.dtype)))
}

impl<const D: usize, K: Basic + Send + 'static, M: Mode> Buffer<form::AllToAll, M>
    for Vec<Tensor<D, K>>
{
    type Output = Self;

    fn run(self, group: &ProcessGroup<M>, call: Collective) -> M::Returned<Self> {
        M::run(group, all_to_all(group, call, self))
    }
}

fn all_to_all<const D: usize, K: Basic + Send + 'static, M>(
    group: &ProcessGroup<M>,
    call: Collective,
    tensors: Vec<Tensor<D, K>>,
) -> Result<OwnedCall<Vec<Tensor<D, K>>>> {
    let Some(first) = tensors.first() else {
        let message = "no tensor was given; give one for each rank".to_owned();
        return Err(group.refuse(call.name(), message));
    };
    let origin = group.origin(call.name(), first);
    let (from, ranks) = (origin.clone(), group.world_size());
    for_elements!(origin.dtype, T => {
        let input = group.contents_of_all::<D, K, T>(&origin, tensors)?;
        let output = Some(input.len());
        transfer(group, call, from.signature::<T>(), (Some(input), output), move |output| {
            origin.tensors(&output.unwrap_or_default(), ranks)
        })
    }, Err(group.no_elements(call.name(), origin.dtype)))
}
