//! Tensors of all ranks, brought together on rank 0 without more memory than the result needs.

use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::tensor::kind::Basic;
use burn::tensor::{Bytes, Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::sync::Once;

/// The most bytes beside the result that rank 0 takes to gather one tensor.
const MAX_CHUNKS_BYTES: usize = 64 << 20;

/// The bytes of a tensor from which gathering it for metrics deserves a word.
const LARGE_BYTES: usize = 64 << 20;

/// Puts together tensors of all ranks, for [`GatherOutput`](super::GatherOutput).
#[derive(Debug)]
pub struct Gather<'a> {
    group: &'a ProcessGroup,
    samples: usize,
    /// Number that this rank's loss is a mean over.
    count: f64,
}

/// Description of a rank's tensor, sent before it.
#[derive(Serialize, Deserialize)]
struct TensorHeader {
    rank: usize,
    shape: Vec<usize>,
    dtype: String,
    bytes: usize,
    samples: usize,
    count: f64,
}

/// The tensors of all ranks that count, one after the other.
struct GatheredTensors {
    headers: Vec<TensorHeader>,
    bytes: Vec<u8>,
    /// This rank's own, for its type.
    own: TensorData,
}

/// Dimensions that must be equal in the ranks' tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Equal {
    AllButFirst,
    None,
}

impl<'a> Gather<'a> {
    /// Gathers outputs of so many samples on this rank, whose loss is a mean over `count`.
    pub(super) fn new(group: &'a ProcessGroup, samples: usize, count: f64) -> Self {
        Self {
            group,
            samples,
            count,
        }
    }

    /// Puts tensors that have a row for each sample one below the other, in rank order. Their other
    /// dimensions must be equal; for sequences of unequal lengths, see [`parts`](Self::parts).
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor can't be read or the shapes or types don't fit; the group's own errors.
    pub fn samples<const D: usize, K: Basic>(&self, tensor: Tensor<D, K>) -> Result<Tensor<D, K>> {
        self.together(tensor, |gathered| self.concatenate(gathered))
    }

    /// Puts tensors that have a row for each sample one below the other, as far as their other dimensions are equal:
    /// one tensor for each run of ranks whose sequences have one length. On ranks other than 0, it is their own.
    ///
    /// # Errors
    /// As those of [`samples`](Self::samples).
    pub fn parts<const D: usize, K: Basic>(
        &self,
        tensor: Tensor<D, K>,
    ) -> Result<Vec<Tensor<D, K>>> {
        let Some(gathered) = self.gather(&tensor, Equal::None)? else {
            return Ok(vec![tensor]);
        };
        let parts = self.split(gathered)?;
        Ok(parts.into_iter().map(|data| like(&tensor, data)).collect())
    }

    /// Returns the mean over all that the ranks' losses counted, of means over each rank's: samples, unless
    /// [`LOSS_OVER`](super::GatherOutput::LOSS_OVER) or [`weigh_by`](super::Distributed::with_loss_count) says otherwise. A
    /// tensor with a value for each sample (a loss that is not reduced) is put together instead, as by
    /// [`samples`](Self::samples).
    ///
    /// # Errors
    /// As those of [`samples`](Self::samples).
    pub fn mean(&self, tensor: Tensor<1>) -> Result<Tensor<1>> {
        self.together(tensor, |gathered| {
            if gathered.headers.iter().any(|header| header.shape != [1]) {
                return self.concatenate(gathered);
            }
            let total: f64 = gathered.headers.iter().map(|header| header.count).sum();
            // Of nothing there is no mean, as on one device.
            let mut mean = if total > 0.0 { 0.0 } else { f64::NAN };
            let mut rest = &gathered.bytes[..];
            // The ranks that counted something, and have a mean or none.
            let mut ranks = [Vec::new(), Vec::new()];
            for header in &gathered.headers {
                let (bytes, after) = rest.split_at(header.bytes);
                rest = after;
                let value = self.data(bytes.to_vec(), &header.shape, &gathered.own)?;
                // A rank that counted nothing may have divided by it.
                if header.count > 0.0 {
                    let value = value.iter::<f64>().sum::<f64>();
                    ranks[usize::from(value.is_nan())].push(header.rank);
                    mean += value * header.count / total;
                }
            }
            let [with, without] = ranks;
            if !with.is_empty() && !without.is_empty() {
                of_nothing(&without);
            }
            Ok(TensorData::from([mean]).convert_dtype(gathered.own.dtype()))
        })
    }

    /// Makes a tensor of those of all ranks, on rank 0. The others get their own.
    fn together<const D: usize, K: Basic>(
        &self,
        tensor: Tensor<D, K>,
        join: impl FnOnce(GatheredTensors) -> Result<TensorData>,
    ) -> Result<Tensor<D, K>> {
        Ok(match self.gather(&tensor, Equal::AllButFirst)? {
            Some(gathered) => like(&tensor, join(gathered)?),
            None => tensor,
        })
    }

    /// Brings the tensors to rank 0, if there is another.
    fn gather<const D: usize, K: Basic>(
        &self,
        tensor: &Tensor<D, K>,
        equal: Equal,
    ) -> Result<Option<GatheredTensors>> {
        if self.group.world_size() == 1 {
            return Ok(None);
        }
        let own = tensor.clone().try_into_data();
        let own = own.map_err(|error| self.failed(error.to_string()))?;
        let counts = self.samples > 0;
        let bytes: &[u8] = if counts { own.as_bytes() } else { &[] };
        let header = TensorHeader {
            rank: self.group.rank(),
            shape: own.shape().to_vec(),
            dtype: own.dtype().name().to_owned(),
            bytes: bytes.len(),
            samples: self.samples,
            count: self.count,
        };
        let mut headers: Vec<TensorHeader> = self.group.objects().all_gather(&header)?;
        // All ranks judge alike, before memory is taken.
        self.check(&headers, equal)?;
        let bytes = self.collect(bytes, &headers)?;
        headers.retain(|header| header.samples > 0);
        Ok(bytes.map(|bytes| GatheredTensors {
            headers,
            bytes,
            own,
        }))
    }

    /// Brings the bytes of all ranks to rank 0, a chunk of each at a time.
    fn collect(&self, mine: &[u8], headers: &[TensorHeader]) -> Result<Option<Vec<u8>>> {
        let ranks = headers.len();
        let chunk = (MAX_CHUNKS_BYTES / ranks).clamp(64 << 10, 4 << 20);
        let longest = headers.iter().map(|header| header.bytes).max().unwrap_or(0);
        let root = self.group.rank() == 0;
        // Where each rank's bytes begin, and where the last ones end.
        let mut starts = vec![0_usize];
        for header in headers {
            starts.push(starts[starts.len() - 1].saturating_add(header.bytes));
        }
        let mut whole = if root {
            self.memory(starts[ranks])?
        } else {
            Vec::new()
        };
        for from in (0..longest).step_by(chunk) {
            let length = chunk.min(longest - from);
            let of = |bytes: usize| from.min(bytes)..(from + length).min(bytes);
            let mut part = mine[of(mine.len())].to_vec();
            part.resize(length, 0);
            let mut parts = vec![0; if root { length * ranks } else { 0 }];
            self.group
                .gather((&part, root.then_some(parts.as_mut_slice())), 0)?;
            for (rank, part) in parts.chunks(length).enumerate() {
                let of = of(headers[rank].bytes);
                let (begin, count) = (starts[rank] + of.start, of.len());
                whole[begin..begin + count].copy_from_slice(&part[..count]);
            }
        }
        Ok(root.then_some(whole))
    }

    /// Takes memory for what one device would have made by itself.
    fn memory(&self, bytes: usize) -> Result<Vec<u8>> {
        static WORD: Once = Once::new();
        if bytes > LARGE_BYTES {
            WORD.call_once(|| {
                tracing::warn!(
                    "metrics have rank 0 gather {} MiB of outputs in a pass; `Distributed::with_train_metrics_every` has \
                     them gathered less often in training",
                    bytes >> 20
                );
            });
        }
        let mut whole = Vec::new();
        whole
            .try_reserve_exact(bytes)
            .map_err(|error| self.failed(format!("{bytes} bytes of outputs: {error}")))?;
        whole.resize(bytes, 0);
        Ok(whole)
    }

    /// Checks that the tensors can be put together.
    fn check(&self, headers: &[TensorHeader], equal: Equal) -> Result<()> {
        let counting = || headers.iter().filter(|header| header.samples > 0);
        let Some(first) = counting().next() else {
            return Err(self.failed("no rank has a sample".to_owned()));
        };
        for header in counting() {
            let alike = equal == Equal::None || header.shape.get(1..) == first.shape.get(1..);
            if header.dtype != first.dtype || !alike {
                return Err(self.failed(format!(
                    "outputs of {}{:?} and {}{:?} can't be put together: all dimensions but the first must be \
                     equal on all ranks; give sequences one length, or gather them by `Gather::parts` in \
                     `GatherOutput::gather_parts`",
                    first.dtype, first.shape, header.dtype, header.shape
                )));
            }
        }
        Ok(())
    }

    fn concatenate(&self, gathered: GatheredTensors) -> Result<TensorData> {
        let shape = stacked(&gathered.headers);
        self.data(gathered.bytes, &shape, &gathered.own)
    }

    /// Cuts what was gathered where the shape changes.
    fn split(&self, gathered: GatheredTensors) -> Result<Vec<TensorData>> {
        let GatheredTensors {
            headers,
            mut bytes,
            own,
        } = gathered;
        let runs = headers.chunk_by(|one, next| one.shape.get(1..) == next.shape.get(1..));
        // From the end, where cutting off costs only what is cut off.
        let mut parts = Vec::new();
        for run in runs.collect::<Vec<_>>().into_iter().rev() {
            let length: usize = run.iter().map(|header| header.bytes).sum();
            let part = bytes.split_off(bytes.len().saturating_sub(length));
            parts.push(self.data(part, &stacked(run), &own)?);
        }
        parts.reverse();
        Ok(parts)
    }

    fn data(&self, bytes: Vec<u8>, shape: &[usize], like: &TensorData) -> Result<TensorData> {
        let bytes = Bytes::from_bytes_vec(bytes);
        TensorData::try_from_bytes(bytes, shape.to_vec(), like.dtype())
            .map_err(|error| self.failed(error.to_string()))
    }

    pub(super) fn failed(&self, message: String) -> Error {
        Error::Tensor {
            rank: self.group.global_rank(),
            operation: "gathering outputs for metrics",
            message,
        }
    }
}

/// Says once what it may be that some ranks alone have no number as their loss.
fn of_nothing(ranks: &[usize]) {
    static WORD: Once = Once::new();
    WORD.call_once(|| {
        tracing::warn!(
            "the loss of ranks {ranks:?} is not a number and that of others is: if it is a mean over tokens or classes, \
             of which they had none, say so by `Distributed::with_loss_count`"
        );
    });
}

/// Returns the shape of tensors one below the other.
fn stacked(headers: &[TensorHeader]) -> Vec<usize> {
    let mut shape = headers[0].shape.clone();
    if let Some(rows) = shape.first_mut() {
        let of = |header: &TensorHeader| header.shape.first().copied().unwrap_or(0);
        *rows = headers.iter().map(of).sum();
    }
    shape
}

/// Makes a tensor on the device of another.
fn like<const D: usize, K: Basic>(other: &Tensor<D, K>, data: TensorData) -> Tensor<D, K> {
    let device: Device = other.device().without_autodiff();
    let dtype = data.dtype();
    Tensor::from_data(data, (&device, dtype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::on_ranks;

    /// A tensor of so many rows, whose numbers tell rank and place.
    fn tensor(rank: usize, rows: usize, columns: usize) -> Tensor<2> {
        let values: Vec<f32> = (0..rows * columns)
            .map(|at| (rank * 10_000_000 + at) as f32)
            .collect();
        let data = TensorData::new(values, [rows, columns]);
        Tensor::from_data(data, &Device::flex())
    }

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn tensors_larger_than_a_chunk_come_whole_and_in_order() {
        // Rows of 2 MiB: parts of 4 MiB of a rank travel at a time. Rank 1 has none that count.
        const COLUMNS: usize = 1 << 19;
        on_ranks(3, |group| {
            let rank = group.rank();
            let samples = [3, 0, 2][rank];
            let own = tensor(rank, samples.max(1), COLUMNS);
            let gather = Gather::new(&group, samples, samples as f64);
            let whole = gather.samples(own.clone()).unwrap();
            if rank == 0 {
                let expected = [tensor(0, 3, COLUMNS), tensor(2, 2, COLUMNS)].map(values);
                assert!(values(whole) == expected.concat());
            } else {
                assert!(values(whole) == values(own));
            }
        });
    }

    #[test]
    fn runs_of_ranks_with_one_length_are_parts() {
        on_ranks(5, |group| {
            let rank = group.rank();
            let (rows, columns) = [(1, 2), (2, 2), (1, 3), (1, 9), (3, 2)][rank];
            let samples = if rank == 3 { 0 } else { rows };
            let gather = Gather::new(&group, samples, samples as f64);
            let parts = gather.parts(tensor(rank, rows, columns)).unwrap();
            if rank == 0 {
                let shapes: Vec<_> = parts.iter().map(Tensor::dims).collect();
                assert_eq!(shapes, [[3, 2], [1, 3], [3, 2]]);
                let parts: Vec<_> = parts.into_iter().map(values).collect();
                let expected = [tensor(0, 1, 2), tensor(1, 2, 2)].map(values).concat();
                assert_eq!(parts[0], expected);
                assert_eq!(parts[1], values(tensor(2, 1, 3)));
                assert_eq!(parts[2], values(tensor(4, 3, 2)));
            } else {
                assert_eq!(parts.len(), 1);
            }
            // As one tensor it is an error on every rank, after which the group goes on.
            let error = gather.samples(tensor(rank, rows, columns)).unwrap_err();
            assert!(error.to_string().contains("`Gather::parts`"), "{error}");
            group.barrier().unwrap();
        });
    }
}
