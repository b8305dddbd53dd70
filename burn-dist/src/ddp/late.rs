//! Late parts: gradients that came to parameters after those were handed over, averaged after the step.
//!
//! The average of a sum is the sum of the averages, so a late part is added to what was averaged before. All
//! ranks take part as soon as one has a late part; parameters go together, in host memory.

use super::parameters::Parameters;
use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::tensor::{DType, Tensor, TensorData};
use std::collections::{BTreeMap, BTreeSet};

/// The averages of late parts, flattened, by parameter.
pub(super) type LateAverages = BTreeMap<usize, TensorData>;

/// Averages the late parts of all ranks. `mine` has the sums of this rank's, flattened.
pub(super) fn average(
    group: &ProcessGroup,
    parameters: &Parameters,
    mine: &BTreeMap<usize, Tensor<1>>,
) -> Result<LateAverages> {
    let own: Vec<usize> = mine.keys().copied().collect();
    let all: Vec<Vec<usize>> = group.objects().all_gather(&own)?;
    let all: BTreeSet<usize> = all.into_iter().flatten().collect();
    let mut averages = LateAverages::new();
    let (doubles, singles): (Vec<usize>, Vec<usize>) = all
        .into_iter()
        .filter(|&parameter| parameter < parameters.entries.len())
        .partition(|&parameter| parameters.entries[parameter].dtype == DType::F64);
    let mut sums: Vec<f32> = read(group, parameters, mine, &singles)?;
    group.all_reduce(&mut sums, ReduceOp::Mean)?;
    spread(parameters, &singles, &sums, &mut averages);
    let mut sums: Vec<f64> = read(group, parameters, mine, &doubles)?;
    group.all_reduce(&mut sums, ReduceOp::Mean)?;
    spread(parameters, &doubles, &sums, &mut averages);
    Ok(averages)
}

/// This rank's late parts of some parameters, one behind the other: zeros where it has none.
fn read<E: burn::tensor::Element>(
    group: &ProcessGroup,
    parameters: &Parameters,
    mine: &BTreeMap<usize, Tensor<1>>,
    of: &[usize],
) -> Result<Vec<E>> {
    let mut values = Vec::new();
    for &parameter in of {
        let (entry, start) = (&parameters.entries[parameter], values.len());
        if let Some(part) = mine.get(&parameter) {
            let data = part
                .clone()
                .try_into_data()
                .map_err(|error| Error::Tensor {
                    rank: group.global_rank(),
                    operation: "reading a late gradient",
                    message: format!("{error:?} (parameter `{}`)", entry.description.path),
                })?;
            values.extend(data.iter::<E>());
        }
        values.resize(start + entry.len(), E::from_elem(0.0));
    }
    Ok(values)
}

/// Cuts averages into those of single parameters.
fn spread<E: burn::tensor::Element>(
    parameters: &Parameters,
    of: &[usize],
    averages: &[E],
    to: &mut LateAverages,
) {
    let mut rest = averages;
    for &parameter in of {
        let len = parameters.entries[parameter].len();
        let (values, others) = rest.split_at(len);
        to.insert(parameter, TensorData::new(values.to_vec(), [len]));
        rest = others;
    }
}
