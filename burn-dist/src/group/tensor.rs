//! The collectives on Burn tensors: float and int, of any rank, on any backend.
//!
//! Each call reads the tensor into host memory, runs the slice collective under the tensor's shape and
//! dtype, and makes the result on the tensor's own device.

use burn::tensor::kind::Numeric;
use burn::tensor::{DType, Tensor};

use super::host::{Origin, for_elements};
use super::{ProcessGroup, Work};
use crate::collective;
use crate::element::ReduceOp;
use crate::error::Result;

/// Tensors keep their dtype and device. Those of an autodiff device are read without their history, and
/// results are not tracked. Besides the errors of the calls on slices, these return
/// [`Error::Tensor`](crate::Error::Tensor) for a tensor that can't be read, or whose dtype is none of
/// F32, Flex32, F64, F16, BF16, I64, I32 and U8.
impl ProcessGroup {
    /// [`Self::broadcast`] on a tensor: returns that of rank `root`. The others' say which shape and
    /// dtype is expected, and on which device.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn broadcast_tensor<const D: usize, K: Numeric>(
        &self,
        tensor: Tensor<D, K>,
        root: usize,
    ) -> Result<Tensor<D, K>> {
        let contents = self.contents("broadcast", tensor)?;
        let origin = contents.origin.clone();
        for_elements!(origin.dtype, T => {
            let mut buffer = contents.elements::<T>();
            let ticket = self.broadcast_ticket::<T>(&origin.shape, root)?;
            collective::broadcast(ticket.entry(), &mut buffer, root)?;
            origin.tensor(buffer, origin.shape)
        }, Err(self.no_elements("broadcast", origin.dtype)))
    }

    /// [`Self::reduce`] on tensors of one shape: returns the reduction on rank `root`, and this rank's
    /// own tensor on the others.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn reduce_tensor<const D: usize, K: Numeric>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
        root: usize,
    ) -> Result<Tensor<D, K>> {
        let contents = self.contents("reduce", tensor)?;
        let origin = contents.origin.clone();
        for_elements!(origin.dtype, T => {
            let mut buffer = contents.elements::<T>();
            let ticket = self.reduce_ticket::<T>(&origin.shape, op, root)?;
            collective::reduce(ticket.entry(), &mut buffer, op, root)?;
            origin.tensor(buffer, origin.shape)
        }, Err(self.no_elements("reduce", origin.dtype)))
    }

    /// [`Self::all_reduce`] on tensors of one shape.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_reduce_tensor<const D: usize, K: Numeric>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
    ) -> Result<Tensor<D, K>> {
        let contents = self.contents("all_reduce", tensor)?;
        let origin = contents.origin.clone();
        for_elements!(origin.dtype, T => {
            let mut buffer = contents.elements::<T>();
            let ticket = self.all_reduce_ticket::<T>(&origin.shape, op);
            collective::all_reduce(ticket.entry(), &mut buffer, op)?;
            origin.tensor(buffer, origin.shape)
        }, Err(self.no_elements("all_reduce", origin.dtype)))
    }

    /// [`Self::all_reduce_tensor`] without waiting for the other ranks. The tensor is read before this
    /// returns; the result is made on the communication thread.
    pub fn all_reduce_tensor_async<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
    ) -> Work<Tensor<D, K>> {
        let contents = match self.contents("all_reduce", tensor) {
            Ok(contents) => contents,
            Err(error) => return Work::ready(self.global_rank(), Err(error)),
        };
        let origin = contents.origin.clone();
        for_elements!(origin.dtype, T => {
            let mut buffer = contents.elements::<T>();
            let ticket = self.all_reduce_ticket::<T>(&origin.shape, op);
            self.start(Ok(ticket), move |entry| {
                collective::all_reduce(entry, &mut buffer, op)?;
                origin.tensor(buffer, origin.shape)
            })
        }, Work::ready(self.global_rank(), Err(self.no_elements("all_reduce", origin.dtype))))
    }

    /// [`Self::gather`] on tensors of one shape: returns those of all ranks, in rank order, on rank
    /// `root`, and `None` on the others.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn gather_tensor<const D: usize, K: Numeric>(
        &self,
        tensor: Tensor<D, K>,
        root: usize,
    ) -> Result<Option<Vec<Tensor<D, K>>>> {
        let contents = self.contents("gather", tensor)?;
        let origin = contents.origin.clone();
        let (ranks, length) = (self.world_size(), origin.length());
        let whole = (self.rank() == root).then_some(length.saturating_mul(ranks));
        for_elements!(origin.dtype, T => {
            let input = contents.elements::<T>();
            let ticket = self.gather_ticket::<T>(&origin.shape, length, whole, root)?;
            let mut output = whole.map(bytemuck::zeroed_vec::<T>);
            collective::gather(ticket.entry(), &input, output.as_deref_mut(), root)?;
            output.map(|output| origin.tensors(&output, ranks)).transpose()
        }, Err(self.no_elements("gather", origin.dtype)))
    }

    /// [`Self::all_gather`] on tensors of one shape: returns those of all ranks, in rank order.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_gather_tensor<const D: usize, K: Numeric>(
        &self,
        tensor: Tensor<D, K>,
    ) -> Result<Vec<Tensor<D, K>>> {
        let contents = self.contents("all_gather", tensor)?;
        let origin = contents.origin.clone();
        let (ranks, length) = (self.world_size(), origin.length());
        let whole = length.saturating_mul(ranks);
        for_elements!(origin.dtype, T => {
            let input = contents.elements::<T>();
            let ticket = self.all_gather_ticket::<T>(&origin.shape, length, whole)?;
            let mut output = bytemuck::zeroed_vec::<T>(whole);
            collective::all_gather(ticket.entry(), &input, &mut output)?;
            origin.tensors(&output, ranks)
        }, Err(self.no_elements("all_gather", origin.dtype)))
    }

    /// [`Self::scatter`] on tensors: rank `r` gets tensor `r` of rank `root`, which gives one for each
    /// rank; the others give `None`. `like` says, on every rank, which shape and dtype is expected, and
    /// on which device; its contents are not read.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn scatter_tensor<const D: usize, K: Numeric>(
        &self,
        like: &Tensor<D, K>,
        tensors: Option<Vec<Tensor<D, K>>>,
        root: usize,
    ) -> Result<Tensor<D, K>> {
        let origin = self.origin("scatter", like);
        let length = origin.length();
        for_elements!(origin.dtype, T => {
            let input = tensors.map(|all| self.contents_of_all::<D, K, T>(&origin, all));
            let input = input.transpose()?;
            let whole = input.as_ref().map(Vec::len);
            let ticket = self.scatter_ticket::<T>(&origin.shape, whole, length, root)?;
            let mut output = bytemuck::zeroed_vec::<T>(length);
            collective::scatter(ticket.entry(), input.as_deref(), &mut output, root)?;
            origin.tensor(output, origin.shape)
        }, Err(self.no_elements("scatter", origin.dtype)))
    }

    /// [`Self::reduce_scatter`] on tensors of one shape, cut along their first dimension, whose size is
    /// a multiple of `world_size`: rank `r` gets part `r` of the reduction.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn reduce_scatter_tensor<const D: usize, K: Numeric>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
    ) -> Result<Tensor<D, K>> {
        let contents = self.contents("reduce_scatter", tensor)?;
        let origin = contents.origin.clone();
        let shape = self.part_shape(&origin)?;
        let part = shape.iter().product();
        for_elements!(origin.dtype, T => {
            let input = contents.elements::<T>();
            let length = input.len();
            let ticket = self.reduce_scatter_ticket::<T>(&origin.shape, length, part, op)?;
            let mut output = bytemuck::zeroed_vec::<T>(part);
            collective::reduce_scatter(ticket.entry(), &input, &mut output, op)?;
            origin.tensor(output, shape)
        }, Err(self.no_elements("reduce_scatter", origin.dtype)))
    }

    /// [`Self::all_to_all`] on tensors: every rank gives one tensor for each rank, all of one shape,
    /// and gets one of each, in rank order.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_to_all_tensor<const D: usize, K: Numeric>(
        &self,
        tensors: Vec<Tensor<D, K>>,
    ) -> Result<Vec<Tensor<D, K>>> {
        let call = "all_to_all";
        let Some(first) = tensors.first() else {
            return Err(self.refuse(
                call,
                "no tensor was given; give one for each rank".to_owned(),
            ));
        };
        let origin = self.origin(call, first);
        for_elements!(origin.dtype, T => {
            let input = self.contents_of_all::<D, K, T>(&origin, tensors)?;
            let length = input.len();
            let ticket = self.all_to_all_ticket::<T>(&origin.shape, length, length)?;
            let mut output = bytemuck::zeroed_vec::<T>(length);
            collective::all_to_all(ticket.entry(), &input, &mut output)?;
            origin.tensors(&output, self.world_size())
        }, Err(self.no_elements(call, origin.dtype)))
    }

    /// [`Self::send`] of a tensor.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn send_tensor<const D: usize, K: Numeric>(
        &self,
        tensor: Tensor<D, K>,
        to: usize,
        tag: u64,
    ) -> Result<()> {
        let contents = self.contents("send", tensor)?;
        let origin = contents.origin.clone();
        for_elements!(origin.dtype, T => {
            self.send_shaped(&contents.elements::<T>(), &origin.shape, to, tag)
        }, Err(self.no_elements("send", origin.dtype)))
    }

    /// [`Self::recv`] of a tensor. `like` says which shape and dtype is expected, and on which device;
    /// its contents are not read.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn recv_tensor<const D: usize, K: Numeric>(
        &self,
        like: &Tensor<D, K>,
        from: usize,
        tag: u64,
    ) -> Result<Tensor<D, K>> {
        let origin = self.origin("recv", like);
        for_elements!(origin.dtype, T => {
            let mut buffer = bytemuck::zeroed_vec::<T>(origin.length());
            self.recv_shaped(&mut buffer, &origin.shape, from, tag)?;
            origin.tensor(buffer, origin.shape)
        }, Err(self.no_elements("recv", origin.dtype)))
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
