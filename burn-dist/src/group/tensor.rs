//! The collectives on Burn tensors: float and int, of any rank, on any backend.
//!
//! Each call reads the tensor into host memory, runs the slice collective under the tensor's shape and
//! dtype, and makes the result on the tensor's own device. The blocking and the asynchronous form of a
//! call are one body, run here or on the communication thread.

use burn::tensor::kind::Numeric;
use burn::tensor::{DType, Tensor};

use super::host::for_elements;
use super::{ProcessGroup, Work};
use crate::element::ReduceOp;
use crate::error::Result;

mod operations;

use operations::On;

/// Tensors keep their dtype and device. Those of an autodiff device are read without their history, and
/// results are not tracked. Besides the errors of the calls on slices, these return
/// [`Error::Tensor`](crate::Error::Tensor) for a tensor that can't be read, or whose dtype is none of
/// F32, Flex32, F64, F16, BF16, I64, I32 and U8.
///
/// The asynchronous forms read their tensors before they return, and make their results on the
/// communication thread; what is wrong with the arguments is reported by [`Work::wait`] too.
impl ProcessGroup {
    /// [`Self::broadcast`] on a tensor: returns that of rank `root`. The others' say which shape and
    /// dtype is expected, and on which device.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn broadcast_tensor<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        root: usize,
    ) -> Result<Tensor<D, K>> {
        self.broadcast_tensor_on(tensor, root, On::This).wait()
    }

    /// [`Self::broadcast_tensor`] without waiting for the other ranks.
    pub fn broadcast_tensor_async<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        root: usize,
    ) -> Work<Tensor<D, K>> {
        self.broadcast_tensor_on(tensor, root, On::Communication)
    }

    /// [`Self::reduce`] on tensors of one shape: returns the reduction on rank `root`, and this rank's
    /// own tensor on the others.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn reduce_tensor<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
        root: usize,
    ) -> Result<Tensor<D, K>> {
        self.reduce_tensor_on(tensor, op, root, On::This).wait()
    }

    /// [`Self::reduce_tensor`] without waiting for the other ranks.
    pub fn reduce_tensor_async<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
        root: usize,
    ) -> Work<Tensor<D, K>> {
        self.reduce_tensor_on(tensor, op, root, On::Communication)
    }

    /// [`Self::all_reduce`] on tensors of one shape. On the CPU, the ranks of a process get tensors that
    /// share their memory, as clones of one do.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_reduce_tensor<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
    ) -> Result<Tensor<D, K>> {
        self.all_reduce_tensor_on(tensor, op, On::This).wait()
    }

    /// [`Self::all_reduce_tensor`] without waiting for the other ranks.
    pub fn all_reduce_tensor_async<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
    ) -> Work<Tensor<D, K>> {
        self.all_reduce_tensor_on(tensor, op, On::Communication)
    }

    /// [`Self::gather`] on tensors of one shape: returns those of all ranks, in rank order, on rank
    /// `root`, and `None` on the others.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn gather_tensor<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        root: usize,
    ) -> Result<Option<Vec<Tensor<D, K>>>> {
        self.gather_tensor_on(tensor, root, On::This).wait()
    }

    /// [`Self::gather_tensor`] without waiting for the other ranks.
    pub fn gather_tensor_async<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        root: usize,
    ) -> Work<Option<Vec<Tensor<D, K>>>> {
        self.gather_tensor_on(tensor, root, On::Communication)
    }

    /// [`Self::all_gather`] on tensors of one shape: returns those of all ranks, in rank order.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_gather_tensor<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
    ) -> Result<Vec<Tensor<D, K>>> {
        self.all_gather_tensor_on(tensor, On::This).wait()
    }

    /// [`Self::all_gather_tensor`] without waiting for the other ranks.
    pub fn all_gather_tensor_async<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
    ) -> Work<Vec<Tensor<D, K>>> {
        self.all_gather_tensor_on(tensor, On::Communication)
    }

    /// [`Self::scatter`] on tensors: rank `r` gets tensor `r` of rank `root`, which gives one for each
    /// rank; the others give `None`. `like` says, on every rank, which shape and dtype is expected, and
    /// on which device; its contents are not read.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn scatter_tensor<const D: usize, K: Numeric + Send + 'static>(
        &self,
        like: &Tensor<D, K>,
        tensors: Option<Vec<Tensor<D, K>>>,
        root: usize,
    ) -> Result<Tensor<D, K>> {
        self.scatter_tensor_on(like, tensors, root, On::This).wait()
    }

    /// [`Self::scatter_tensor`] without waiting for the other ranks.
    pub fn scatter_tensor_async<const D: usize, K: Numeric + Send + 'static>(
        &self,
        like: &Tensor<D, K>,
        tensors: Option<Vec<Tensor<D, K>>>,
        root: usize,
    ) -> Work<Tensor<D, K>> {
        self.scatter_tensor_on(like, tensors, root, On::Communication)
    }

    /// [`Self::reduce_scatter`] on tensors of one shape, cut along their first dimension, whose size is
    /// a multiple of `world_size`: rank `r` gets part `r` of the reduction.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn reduce_scatter_tensor<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
    ) -> Result<Tensor<D, K>> {
        self.reduce_scatter_tensor_on(tensor, op, On::This).wait()
    }

    /// [`Self::reduce_scatter_tensor`] without waiting for the other ranks.
    pub fn reduce_scatter_tensor_async<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensor: Tensor<D, K>,
        op: ReduceOp,
    ) -> Work<Tensor<D, K>> {
        self.reduce_scatter_tensor_on(tensor, op, On::Communication)
    }

    /// [`Self::all_to_all`] on tensors: every rank gives one tensor for each rank, all of one shape,
    /// and gets one of each, in rank order.
    ///
    /// # Errors
    /// See [above](#errors-of-all-calls).
    pub fn all_to_all_tensor<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensors: Vec<Tensor<D, K>>,
    ) -> Result<Vec<Tensor<D, K>>> {
        self.all_to_all_tensor_on(tensors, On::This).wait()
    }

    /// [`Self::all_to_all_tensor`] without waiting for the other ranks.
    pub fn all_to_all_tensor_async<const D: usize, K: Numeric + Send + 'static>(
        &self,
        tensors: Vec<Tensor<D, K>>,
    ) -> Work<Vec<Tensor<D, K>>> {
        self.all_to_all_tensor_on(tensors, On::Communication)
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
}
