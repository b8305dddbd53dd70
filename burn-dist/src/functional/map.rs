//! Linear maps from the tensors of all ranks to the tensors of all ranks, each run by one collective call.

use burn::tensor::Tensor;

use crate::element::ReduceOp;
use crate::error::Result;
use crate::group::ProcessGroup;

/// A linear map over the ranks of a group. Parts and joins are along dimension 0.
#[derive(Clone, Copy, Debug)]
pub(super) enum Map {
    /// Each rank keeps its tensor.
    Identity,
    /// Every rank gets the sum or mean.
    AllReduce(ReduceOp),
    /// Every rank gets the tensors of all, joined, times a factor.
    AllGather(f64),
    /// Each rank gets its part of the sum or mean.
    ReduceScatter(ReduceOp),
    /// Each rank gets its part of every rank's tensor, joined.
    AllToAll,
    /// Every rank gets the tensor of the root.
    Broadcast(usize),
    /// The root gets the sum, the others zeros.
    Reduce(usize),
}

impl Map {
    /// Runs the map as this rank.
    pub(super) fn apply<const D: usize>(
        self,
        group: &ProcessGroup,
        tensor: Tensor<D>,
    ) -> Result<Tensor<D>> {
        match self {
            Self::Identity => Ok(tensor),
            Self::AllReduce(op) => group.all_reduce(tensor, op),
            Self::AllGather(factor) => {
                let whole = Tensor::cat(group.all_gather(tensor)?, 0);
                Ok(whole.mul_scalar(factor))
            }
            Self::ReduceScatter(op) => group.reduce_scatter(tensor, op),
            Self::AllToAll => {
                let parts = parts(group, tensor)?;
                Ok(Tensor::cat(group.all_to_all(parts)?, 0))
            }
            Self::Broadcast(root) => group.broadcast(tensor, root),
            Self::Reduce(root) => {
                let reduced = group.reduce(tensor, ReduceOp::Sum, root)?;
                let is_root = group.rank() == root;
                Ok(if is_root {
                    reduced
                } else {
                    reduced.zeros_like()
                })
            }
        }
    }
}

/// Cuts a tensor along dimension 0 into one part for each rank.
fn parts<const D: usize>(group: &ProcessGroup, tensor: Tensor<D>) -> Result<Vec<Tensor<D>>> {
    let (ranks, rows) = (group.world_size(), tensor.dims()[0]);
    if rows == 0 {
        return Ok(vec![tensor; ranks]);
    }
    if rows.is_multiple_of(ranks) {
        return Ok(tensor.chunk(ranks, 0));
    }
    let message = format!(
        "expected a size of dimension 0 that is a multiple of the {ranks} ranks, got {rows}; pad the tensor"
    );
    Err(group.refuse("functional::all_to_all", message))
}
