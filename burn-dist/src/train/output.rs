//! From the outputs of all ranks to one output, as if one device had run the whole batch: what metrics see.
//!
//! Metrics keep states of their own that burn-train does not show, so it is not their results that are put
//! together but their inputs, in the order of ranks, which is that of the samples.
//!
//! Callers: `replica`; users implement [`GatherOutput`] for outputs of their own.

use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::tensor::kind::Basic;
use burn::tensor::{Bytes, Tensor, TensorData};
use burn::train::{
    ClassificationOutput, ItemLazy, MultiLabelClassificationOutput, RegressionOutput,
    SequenceOutput,
};
use serde::{Deserialize, Serialize};

/// An output of a step that can be put together from those of all ranks. burn-train's own outputs are.
///
/// For an output of your own, gather what its metrics read; tensors that no metric reads may stay.
///
/// ```
/// use burn::{tensor::{ExecutionError, Tensor}, train::ItemLazy};
/// use burn_dist::{Result, train::{Gather, GatherOutput}};
///
/// struct Output {
///     loss: Tensor<1>,
///     distances: Tensor<1>,
/// }
/// # impl ItemLazy for Output {
/// #     fn sync(self) -> Result<Self, ExecutionError> { Ok(self) }
/// # }
///
/// impl GatherOutput for Output {
///     fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
///         Ok(Self {
///             loss: ranks.mean(self.loss)?,
///             distances: ranks.samples(self.distances)?,
///         })
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "metrics over all ranks need to know how outputs `{Self}` are put together",
    note = "implement `burn_dist::train::GatherOutput` for it"
)]
pub trait GatherOutput: ItemLazy {
    /// Gathers the tensors, with the same calls on every rank. What it gives counts on rank 0 alone.
    ///
    /// # Errors
    /// Those of [`Gather`].
    fn gather(self, ranks: &Gather<'_>) -> Result<Self>;
}

/// Puts together tensors of all ranks, for [`GatherOutput`].
#[derive(Debug)]
pub struct Gather<'a> {
    group: &'a ProcessGroup,
    samples: usize,
}

/// What a rank says of its tensor before it sends it.
#[derive(Serialize, Deserialize)]
struct Header {
    shape: Vec<usize>,
    dtype: String,
    bytes: usize,
    samples: usize,
}

/// The tensors of all ranks that count.
struct Gathered {
    headers: Vec<Header>,
    contents: Vec<Vec<u8>>,
    /// This rank's own, for its type.
    own: TensorData,
}

impl<'a> Gather<'a> {
    /// Of outputs of so many samples on this rank.
    pub(super) fn new(group: &'a ProcessGroup, samples: usize) -> Self {
        Self { group, samples }
    }

    /// Puts tensors that have a row for each sample one below the other, in rank order. Their other
    /// dimensions must be equal.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor can't be read or the shapes or types don't fit; the group's own errors.
    pub fn samples<const D: usize, K: Basic>(&self, tensor: Tensor<D, K>) -> Result<Tensor<D, K>> {
        self.together(tensor, |gathered| self.concatenate(&gathered))
    }

    /// The mean over all samples, of means over each rank's. A tensor with a value for each sample (a loss
    /// that is not reduced) is put together instead, as by [`samples`](Self::samples).
    ///
    /// # Errors
    /// As those of [`samples`](Self::samples).
    pub fn mean(&self, tensor: Tensor<1>) -> Result<Tensor<1>> {
        self.together(tensor, |gathered| {
            if gathered.headers.iter().any(|header| header.shape != [1]) {
                return self.concatenate(&gathered);
            }
            let total: usize = gathered.headers.iter().map(|header| header.samples).sum();
            let mut mean = 0.0;
            for (header, bytes) in gathered.headers.iter().zip(gathered.contents) {
                let value = self.data(bytes, &header.shape, &gathered.own)?;
                mean += value.iter::<f64>().sum::<f64>() * header.samples as f64 / total as f64;
            }
            Ok(TensorData::from([mean]).convert_dtype(gathered.own.dtype()))
        })
    }

    /// Makes a tensor of those of all ranks, on rank 0. The others get their own.
    fn together<const D: usize, K: Basic>(
        &self,
        tensor: Tensor<D, K>,
        join: impl FnOnce(Gathered) -> Result<TensorData>,
    ) -> Result<Tensor<D, K>> {
        if self.group.world_size() == 1 {
            return Ok(tensor);
        }
        let data = tensor
            .clone()
            .try_into_data()
            .map_err(|error| self.failed(error.to_string()))?;
        Ok(match self.gather(data)? {
            Some(gathered) => {
                let data = join(gathered)?;
                let dtype = data.dtype();
                Tensor::from_data(data, (&tensor.device().without_autodiff(), dtype))
            }
            None => tensor,
        })
    }

    fn gather(&self, own: TensorData) -> Result<Option<Gathered>> {
        let counts = self.samples > 0;
        let bytes: &[u8] = if counts { own.as_bytes() } else { &[] };
        let header = Header {
            shape: own.shape().to_vec(),
            dtype: own.dtype().name().to_owned(),
            bytes: bytes.len(),
            samples: self.samples,
        };
        let headers: Vec<Header> = self.group.all_gather_messages(&header)?;
        // All ranks judge alike, before memory is taken.
        self.check(&headers)?;
        let longest = headers.iter().map(|header| header.bytes).max().unwrap_or(0);
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let root = self.group.rank() == 0;
        let mut all = vec![0; if root { longest * headers.len() } else { 0 }];
        self.group
            .gather(&padded, root.then_some(all.as_mut_slice()), 0)?;
        if !root {
            return Ok(None);
        }
        let (headers, contents) = headers
            .into_iter()
            .enumerate()
            .filter(|(_, header)| header.samples > 0)
            .map(|(rank, header)| {
                let from = rank * longest;
                let content = all[from..from + header.bytes].to_vec();
                (header, content)
            })
            .unzip();
        Ok(Some(Gathered {
            headers,
            contents,
            own,
        }))
    }

    /// Whether the tensors can be put one below the other.
    fn check(&self, headers: &[Header]) -> Result<()> {
        const MOST: usize = 1 << 30;
        let counting = || headers.iter().filter(|header| header.samples > 0);
        let Some(first) = counting().next() else {
            return Err(self.failed("no rank has a sample".to_owned()));
        };
        for header in counting() {
            if header.dtype != first.dtype || header.shape.get(1..) != first.shape.get(1..) {
                return Err(self.failed(format!(
                    "outputs of {}{:?} and {}{:?} can't be put together: all dimensions but the first \
                     must be equal on all ranks; give sequences one length",
                    first.dtype, first.shape, header.dtype, header.shape
                )));
            }
        }
        let longest = headers.iter().map(|header| header.bytes).max().unwrap_or(0);
        if longest.saturating_mul(headers.len()) > MOST {
            return Err(self.failed(format!(
                "outputs of {longest} bytes on each of {} ranks are too large to be gathered; gather \
                 less in an output of your own",
                headers.len()
            )));
        }
        Ok(())
    }

    fn concatenate(&self, gathered: &Gathered) -> Result<TensorData> {
        let mut shape = gathered.headers[0].shape.clone();
        if let Some(rows) = shape.first_mut() {
            *rows = gathered.headers.iter().map(|header| header.shape[0]).sum();
        }
        self.data(gathered.contents.concat(), &shape, &gathered.own)
    }

    fn data(&self, bytes: Vec<u8>, shape: &[usize], like: &TensorData) -> Result<TensorData> {
        let bytes = Bytes::from_bytes_vec(bytes);
        TensorData::try_from_bytes(bytes, shape.to_vec(), like.dtype())
            .map_err(|error| self.failed(error.to_string()))
    }

    fn failed(&self, message: String) -> Error {
        Error::Tensor {
            rank: self.group.global_rank(),
            operation: "gathering outputs for metrics",
            message,
        }
    }
}

impl GatherOutput for () {
    fn gather(self, _ranks: &Gather<'_>) -> Result<Self> {
        Ok(())
    }
}

impl GatherOutput for ClassificationOutput {
    fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
        Ok(Self {
            loss: ranks.mean(self.loss)?,
            output: ranks.samples(self.output)?,
            targets: ranks.samples(self.targets)?,
        })
    }
}

impl GatherOutput for MultiLabelClassificationOutput {
    fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
        Ok(Self {
            loss: ranks.mean(self.loss)?,
            output: ranks.samples(self.output)?,
            targets: ranks.samples(self.targets)?,
        })
    }
}

impl GatherOutput for RegressionOutput {
    fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
        Ok(Self {
            loss: ranks.mean(self.loss)?,
            output: ranks.samples(self.output)?,
            targets: ranks.samples(self.targets)?,
        })
    }
}

impl GatherOutput for SequenceOutput {
    fn gather(self, ranks: &Gather<'_>) -> Result<Self> {
        let predictions = self.predictions;
        Ok(Self {
            loss: ranks.mean(self.loss)?,
            logits: ranks.samples(self.logits)?,
            predictions: predictions
                .map(|tokens| ranks.samples(tokens))
                .transpose()?,
            targets: ranks.samples(self.targets)?,
        })
    }
}
