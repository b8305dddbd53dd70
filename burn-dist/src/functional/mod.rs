//! Collectives that gradients pass through, as `torch.distributed.nn.functional`.
//!
//! The objective is **the sum of the losses of all ranks**. Every call here is a linear map from the tensors of all
//! ranks to the tensors of all ranks, so its backward step is the adjoint map, which is a collective too:
//!
//! | call | backward, on the gradients of all ranks |
//! |---|---|
//! | [`all_reduce`] with `Sum` or `Mean` | all-reduce with the same operation |
//! | [`all_gather`] | reduce-scatter with `Sum` |
//! | [`reduce_scatter`] with `Sum` or `Mean` | all-gather; for `Mean`, divided by the number of ranks |
//! | [`all_to_all`] | all-to-all |
//! | [`broadcast`] | reduce with `Sum` to the root; zero on the other ranks |
//! | [`copy_to_group`]: the tensor itself | all-reduce with `Sum` |
//! | [`reduce_from_group`]: all-reduce with `Sum` | the gradient itself |
//!
//! The last two are Megatron's pair for split layers, in which every rank computes the same loss: the objective is one
//! of these equal losses, not their sum. With [`all_reduce`] in place of [`reduce_from_group`], gradients would be
//! too large by the number of ranks.
//!
//! # Rules
//! - Every rank calls the same functions in the same order, as for all calls of a group.
//! - Every rank runs backward through the same calls. A call waits in backward for the other ranks: if the loss of one
//!   rank does not depend on its output, or one rank's input is not tracked, the other ranks' backward fails at
//!   the deadline, with the name and number of the call.
//! - Backward visits the calls from the deepest in autodiff's graph to the shallowest, and at one depth in the order of
//!   the operands that lead to them. Ranks whose graphs differ there may come to the calls in different orders. That is
//!   an [`Error::Mismatch`](crate::Error::Mismatch), because ranks compare the numbers of the calls.
//! - Each rank has leaves of its own. Burn locks a graph during backward, so ranks that share a leaf wait for each
//!   other until the deadline.
//!
//! A tensor that is not tracked passes through the same calls and has no backward step. (Only [`broadcast`] tracks its
//! output on every rank whose device is an autodiff device.)
//!
//! # Errors in backward
//! Backward can't return an error. When a collective fails there, the groups of this rank fail, the gradient is zero,
//! and the next call of the group returns the error. Without a next call,
//! [`Launcher::run`](crate::launch::Launcher::run) returns it.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use burn_dist::{ReduceOp, functional, launch::launch};
//!
//! let gradients = launch(vec![Device::flex().autodiff(); 2], |worker| {
//!     let x = Tensor::<1>::from_data([1.0 + worker.rank() as f32], worker.device()).require_grad();
//!     let sum = functional::all_reduce(worker.group(), x.clone(), ReduceOp::Sum)?;
//!     // The sum of all losses is 2 (1 + 2)², whose derivative is 12.
//!     let gradients = sum.powi_scalar(2).sum().backward();
//!     Ok::<_, burn_dist::Error>(x.grad(&gradients).map(|gradient| gradient.into_scalar::<f32>()))
//! })?;
//! assert_eq!(gradients, [Some(12.0), Some(12.0)]);
//! # Ok::<(), burn_dist::Error>(())
//! ```

mod map;
mod step;

use burn::tensor::Tensor;

use crate::element::ReduceOp;
use crate::error::Result;
use crate::group::ProcessGroup;
use map::Map;
use step::run;
pub(crate) use step::{waited, waiting};

/// Returns the sum or mean of the tensors of all ranks, which have one shape.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a reduction other than `Sum` and `Mean`; otherwise see
/// [the calls of a group](ProcessGroup#errors-of-all-calls).
pub fn all_reduce<const D: usize>(
    group: &ProcessGroup,
    tensor: Tensor<D>,
    op: ReduceOp,
) -> Result<Tensor<D>> {
    let name = "functional::all_reduce";
    let map = Map::AllReduce(linear(group, name, op)?);
    run(group, name, map, map, tensor)
}

/// Returns the tensors of all ranks, which have one shape, joined along dimension 0 in rank order.
///
/// # Errors
/// See [the calls of a group](ProcessGroup#errors-of-all-calls).
pub fn all_gather<const D: usize>(group: &ProcessGroup, tensor: Tensor<D>) -> Result<Tensor<D>> {
    let (forward, backward) = (Map::AllGather(1.0), Map::ReduceScatter(ReduceOp::Sum));
    run(group, "functional::all_gather", forward, backward, tensor)
}

/// Returns this rank's part of the sum or mean of the tensors of all ranks. Parts are cut along dimension 0, whose size
/// is a multiple of the number of ranks.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a reduction other than `Sum` and `Mean`, or another size of dimension 0; otherwise
/// see [the calls of a group](ProcessGroup#errors-of-all-calls).
pub fn reduce_scatter<const D: usize>(
    group: &ProcessGroup,
    tensor: Tensor<D>,
    op: ReduceOp,
) -> Result<Tensor<D>> {
    let name = "functional::reduce_scatter";
    let forward = Map::ReduceScatter(linear(group, name, op)?);
    let factor = match op {
        ReduceOp::Mean => 1.0 / group.world_size() as f64,
        _ => 1.0,
    };
    run(group, name, forward, Map::AllGather(factor), tensor)
}

/// Cuts the tensor along dimension 0 into one part for each rank, and returns the parts that all ranks have for this
/// one, joined in rank order. The size of dimension 0 is a multiple of the number of ranks.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for another size of dimension 0; otherwise see
/// [the calls of a group](ProcessGroup#errors-of-all-calls).
pub fn all_to_all<const D: usize>(group: &ProcessGroup, tensor: Tensor<D>) -> Result<Tensor<D>> {
    let name = "functional::all_to_all";
    run(group, name, Map::AllToAll, Map::AllToAll, tensor)
}

/// Returns the tensor of rank `root`. The other ranks give one of the same shape, whose gradient is zero.
///
/// The output is tracked on every rank whose device is an autodiff device, whatever the input is, so that all ranks
/// run backward. For data without a gradient, use the group's own broadcast.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if there is no rank `root`; otherwise see
/// [the calls of a group](ProcessGroup#errors-of-all-calls).
pub fn broadcast<const D: usize>(
    group: &ProcessGroup,
    tensor: Tensor<D>,
    root: usize,
) -> Result<Tensor<D>> {
    let (forward, backward) = (Map::Broadcast(root), Map::Reduce(root));
    run(group, "functional::broadcast", forward, backward, tensor)
}

/// Returns the tensor itself, which is the same on all ranks; backward adds up the gradients of all ranks. It stands
/// before a layer whose output features are split over the ranks.
///
/// ```
/// # use burn::tensor::Tensor;
/// # use burn_dist::{ProcessGroup, Result, functional};
/// /// Two linear layers with half of the hidden features on each of two ranks.
/// fn split(group: &ProcessGroup, x: Tensor<2>, up: Tensor<2>, down: Tensor<2>) -> Result<Tensor<2>> {
///     let x = functional::copy_to_group(group, x)?;
///     functional::reduce_from_group(group, x.matmul(up).matmul(down))
/// }
/// ```
///
/// # Errors
/// None today: the forward pass makes no call. A failure in backward comes from the group's next call.
pub fn copy_to_group<const D: usize>(group: &ProcessGroup, tensor: Tensor<D>) -> Result<Tensor<D>> {
    let (forward, backward) = (Map::Identity, Map::AllReduce(ReduceOp::Sum));
    let name = "functional::copy_to_group";
    run(group, name, forward, backward, tensor)
}

/// Returns the sum of the tensors of all ranks; backward passes the gradient, which is the same on all ranks, on as it
/// is. It stands after a layer whose input features are split over the ranks (see [`copy_to_group`]).
///
/// # Errors
/// See [the calls of a group](ProcessGroup#errors-of-all-calls).
pub fn reduce_from_group<const D: usize>(
    group: &ProcessGroup,
    tensor: Tensor<D>,
) -> Result<Tensor<D>> {
    let (forward, backward) = (Map::AllReduce(ReduceOp::Sum), Map::Identity);
    let name = "functional::reduce_from_group";
    run(group, name, forward, backward, tensor)
}

/// Returns the reduction if it is linear; the others have no adjoint.
fn linear(group: &ProcessGroup, call: &'static str, op: ReduceOp) -> Result<ReduceOp> {
    if matches!(op, ReduceOp::Sum | ReduceOp::Mean) {
        return Ok(op);
    }
    let message = format!(
        "expected the reduction sum or mean, got {}, which has no gradient here; reduce a detached tensor by \
         the group's own call",
        op.name()
    );
    Err(group.refuse(call, message))
}

#[cfg(test)]
mod tests;
