//! The bodies of the calls on tensors, which run on the caller's thread or on the communication thread.
//!
//! Callers: the public calls in `tensor`.

use burn::tensor::kind::Numeric;
use burn::tensor::{DType, StreamId, Tensor};

use crate::collective;
use crate::element::ReduceOp;
use crate::error::Result;
use crate::group::calls::Ticket;
use crate::group::host::{Origin, for_elements};
use crate::group::{ProcessGroup, Work};
use crate::transport::threads::Entry;

/// Where a call's operation runs.
#[derive(Clone, Copy)]
pub(super) enum On {
    /// The caller's thread, which waits for the other ranks.
    This,
    /// The communication thread.
    Communication,
}

impl ProcessGroup {
    pub(super) fn broadcast_tensor_on<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        root: usize,
        on: On,
    ) -> Work<Tensor<D, K>> {
        let contents = match self.contents("broadcast", tensor) {
            Ok(contents) => contents,
            Err(error) => return self.done(Err(error)),
        };
        let origin = contents.origin.clone();
        for_elements!(origin.dtype, T => {
            let mut buffer = contents.elements::<T>();
            let ticket = self.broadcast_ticket::<T>(&origin.shape, root);
            self.carry_out(on, ticket, move |entry| {
                collective::broadcast(entry, &mut buffer, root)?;
                origin.tensor(buffer, origin.shape)
            })
        }, self.done(Err(self.no_elements("broadcast", origin.dtype))))
    }

    pub(super) fn reduce_tensor_on<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
        root: usize,
        on: On,
    ) -> Work<Tensor<D, K>> {
        let contents = match self.contents("reduce", tensor) {
            Ok(contents) => contents,
            Err(error) => return self.done(Err(error)),
        };
        let origin = contents.origin.clone();
        for_elements!(origin.dtype, T => {
            let mut buffer = contents.elements::<T>();
            let ticket = self.reduce_ticket::<T>(&origin.shape, op, root);
            self.carry_out(on, ticket, move |entry| {
                collective::reduce(entry, &mut buffer, op, root)?;
                origin.tensor(buffer, origin.shape)
            })
        }, self.done(Err(self.no_elements("reduce", origin.dtype))))
    }

    pub(super) fn all_reduce_tensor_on<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
        on: On,
    ) -> Work<Tensor<D, K>> {
        let contents = match self.contents("all_reduce", tensor) {
            Ok(contents) => contents,
            Err(error) => return self.done(Err(error)),
        };
        let origin = contents.origin.clone();
        for_elements!(origin.dtype, T => {
            let ticket = self.all_reduce_ticket::<T>(&origin.shape, op);
            self.carry_out(on, Ok(ticket), move |entry| {
                let reduced = contents.lend::<T, _>(|given| {
                    collective::all_reduce_shared(entry, given, op)
                });
                origin.reduced(reduced?)
            })
        }, self.done(Err(self.no_elements("all_reduce", origin.dtype))))
    }

    pub(super) fn gather_tensor_on<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        root: usize,
        on: On,
    ) -> Work<Option<Vec<Tensor<D, K>>>> {
        let contents = match self.contents("gather", tensor) {
            Ok(contents) => contents,
            Err(error) => return self.done(Err(error)),
        };
        let origin = contents.origin.clone();
        let (ranks, length) = (self.world_size(), origin.length());
        let whole = (self.rank() == root).then_some(length.saturating_mul(ranks));
        for_elements!(origin.dtype, T => {
            let input = contents.elements::<T>();
            let ticket = self.gather_ticket::<T>(&origin.shape, length, whole, root);
            self.carry_out(on, ticket, move |entry| {
                let mut output = whole.map(bytemuck::zeroed_vec::<T>);
                collective::gather(entry, &input, output.as_deref_mut(), root)?;
                output.map(|output| origin.tensors(&output, ranks)).transpose()
            })
        }, self.done(Err(self.no_elements("gather", origin.dtype))))
    }

    pub(super) fn all_gather_tensor_on<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        on: On,
    ) -> Work<Vec<Tensor<D, K>>> {
        let contents = match self.contents("all_gather", tensor) {
            Ok(contents) => contents,
            Err(error) => return self.done(Err(error)),
        };
        let origin = contents.origin.clone();
        let (ranks, length) = (self.world_size(), origin.length());
        let whole = length.saturating_mul(ranks);
        for_elements!(origin.dtype, T => {
            let input = contents.elements::<T>();
            let ticket = self.all_gather_ticket::<T>(&origin.shape, length, whole);
            self.carry_out(on, ticket, move |entry| {
                let mut output = bytemuck::zeroed_vec::<T>(whole);
                collective::all_gather(entry, &input, &mut output)?;
                origin.tensors(&output, ranks)
            })
        }, self.done(Err(self.no_elements("all_gather", origin.dtype))))
    }

    pub(super) fn scatter_tensor_on<const D: usize, K: Numeric + Send + 'static>(
        &self,
        like: &Tensor<D, K>,
        tensors: Option<Vec<Tensor<D, K>>>,
        root: usize,
        on: On,
    ) -> Work<Tensor<D, K>> {
        let origin = self.origin("scatter", like);
        let length = origin.length();
        for_elements!(origin.dtype, T => {
            let input = tensors.map(|all| self.contents_of_all::<D, K, T>(&origin, all));
            let input = match input.transpose() {
                Ok(input) => input,
                Err(error) => return self.done(Err(error)),
            };
            let whole = input.as_ref().map(Vec::len);
            let ticket = self.scatter_ticket::<T>(&origin.shape, whole, length, root);
            self.carry_out(on, ticket, move |entry| {
                let mut output = bytemuck::zeroed_vec::<T>(length);
                collective::scatter(entry, input.as_deref(), &mut output, root)?;
                origin.tensor(output, origin.shape)
            })
        }, self.done(Err(self.no_elements("scatter", origin.dtype))))
    }

    pub(super) fn reduce_scatter_tensor_on<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
        on: On,
    ) -> Work<Tensor<D, K>> {
        let contents = match self.contents("reduce_scatter", tensor) {
            Ok(contents) => contents,
            Err(error) => return self.done(Err(error)),
        };
        let origin = contents.origin.clone();
        let shape = match self.part_shape(&origin) {
            Ok(shape) => shape,
            Err(error) => return self.done(Err(error)),
        };
        let part = shape.iter().product();
        for_elements!(origin.dtype, T => {
            let input = contents.elements::<T>();
            let length = input.len();
            let ticket = self.reduce_scatter_ticket::<T>(&origin.shape, length, part, op);
            self.carry_out(on, ticket, move |entry| {
                let mut output = bytemuck::zeroed_vec::<T>(part);
                collective::reduce_scatter(entry, &input, &mut output, op)?;
                origin.tensor(output, shape)
            })
        }, self.done(Err(self.no_elements("reduce_scatter", origin.dtype))))
    }

    pub(super) fn all_to_all_tensor_on<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensors: Vec<Tensor<D, K>>,
        on: On,
    ) -> Work<Vec<Tensor<D, K>>> {
        let Some(first) = tensors.first() else {
            let message = "no tensor was given; give one for each rank".to_owned();
            return self.done(Err(self.refuse("all_to_all", message)));
        };
        let origin = self.origin("all_to_all", first);
        let ranks = self.world_size();
        for_elements!(origin.dtype, T => {
            let input = match self.contents_of_all::<D, K, T>(&origin, tensors) {
                Ok(input) => input,
                Err(error) => return self.done(Err(error)),
            };
            let length = input.len();
            let ticket = self.all_to_all_ticket::<T>(&origin.shape, length, length);
            self.carry_out(on, ticket, move |entry| {
                let mut output = bytemuck::zeroed_vec::<T>(length);
                collective::all_to_all(entry, &input, &mut output)?;
                origin.tensors(&output, ranks)
            })
        }, self.done(Err(self.no_elements("all_to_all", origin.dtype))))
    }

    /// Runs the operation that a ticket was taken for.
    fn carry_out<R: Send + 'static>(
        &self,
        on: On,
        ticket: Result<Ticket>,
        operation: impl FnOnce(Entry<'_>) -> Result<R> + Send + 'static,
    ) -> Work<R> {
        match on {
            On::This => self.done(ticket.and_then(|ticket| ticket.run(operation))),
            On::Communication => {
                // A GPU orders what it is asked for on a stream, and the caller uses the result.
                let stream = StreamId::current();
                self.start(ticket, move |entry| stream.executes(|| operation(entry)))
            }
        }
    }

    fn done<R: Send + 'static>(&self, outcome: Result<R>) -> Work<R> {
        Work::ready(self.global_rank(), outcome)
    }

    /// The shape of one rank's part of a tensor that is cut along its first dimension.
    fn part_shape<const D: usize>(&self, origin: &Origin<D>) -> Result<[usize; D]> {
        let mut shape = origin.shape;
        if let Some(first) = shape.first_mut() {
            *first = self.check_parts("reduce_scatter", *first)?;
        }
        Ok(shape)
    }
}
