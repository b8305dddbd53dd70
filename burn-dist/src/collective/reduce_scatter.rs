//! Reduce-scatter by direct exchange.
//!
//! Steps: rank `r` reads part `r` of all ranks' inputs, block by block, adds them in the canonical tree
//! and writes the result into its own output.
//! Bytes: of inputs of S bytes and N ranks, each rank reads S and writes S/N, in one step.

use super::remote;
use super::tree::Reducer;
use crate::element::{Element, ReduceOp};
use crate::error::Result;
use crate::transport::threads::{Entry, Lent};

/// Reduces part `r` of all ranks' inputs into the output of rank `r`. An input is as long as all
/// outputs together.
pub(crate) fn reduce_scatter<T: Element>(
    entry: Entry<'_>,
    input: &[T],
    output: &mut [T],
    op: ReduceOp,
) -> Result<()> {
    let entry = match entry.abroad() {
        Ok(abroad) => return remote::reduce_scatter(abroad, input, output, op),
        Err(entry) => entry,
    };
    let (rank, ranks) = (entry.rank, entry.ranks());
    entry.attend(Lent::Read(bytemuck::cast_slice(input)), |floor| {
        let length = output.len();
        let inputs: Vec<&[T]> = (0..ranks)
            .map(|peer| bytemuck::cast_slice(floor.read(peer)))
            .collect();
        let mut reducer = Reducer::<T>::new(op, ranks, length);
        for block in reducer.blocks(length) {
            let part = rank * length + block.start..rank * length + block.end;
            reducer.reduce(block.len(), &|peer| &inputs[peer][part.clone()]);
            reducer.write(&mut output[block]);
        }
    })
}
