//! Comparison of replicas: a checksum of the parameters, compared over the ranks.

use super::collect::Base;
use super::handle::{Attached, Ddp};
use super::hook::GradientSink;
use super::parameters::{Parameters, Path};
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor, TensorData};
use sha2::{Digest, Sha256};

/// The SHA-256, in hexadecimal, of everything a model holds: for each parameter and buffer, in the
/// order of Burn's traversal, its path, type, shape and bytes. Equal models, and only those, have
/// equal checksums, whichever rank, process or machine they are on.
///
/// # Errors
///
/// [`Error::Tensor`] if a tensor can't be read from its device.
pub fn parameters_sha256<M: Module>(model: &M) -> Result<String> {
    checksum(&model.valid(), |_| true, 0).map(|digest| hexadecimal(&digest))
}

impl Ddp {
    /// Checks that every rank holds the same parameters, bit for bit, and returns their SHA-256 (see
    /// [`parameters_sha256`]). Every rank calls it.
    ///
    /// # Errors
    ///
    /// [`Error::ReplicasDiffer`] names the ranks that differ, on every rank.
    pub fn verify_replicas<M: Module>(&self, model: &M) -> Result<String> {
        let Attached {
            parameters,
            tracker,
            ..
        } = self.attached()?;
        let control = self.control.within("Ddp::verify_replicas");
        let verified = verify(&control, parameters, tracker.key(), model);
        // The others wait for a rank that could not read its model.
        verified.inspect_err(|error| control.abort(&error.to_string()))
    }
}

/// Compares the parameters of all ranks; buffers (running statistics) are each rank's own. `key` names the
/// tracker of the attached model.
fn verify<M: Module>(
    group: &ProcessGroup,
    parameters: &Parameters,
    key: u64,
    model: &M,
) -> Result<String> {
    let base = Base::of_model(parameters, key, model);
    let counted = |path: &str| {
        base.index(parameters, path)
            .is_none_or(|i| !parameters.entries[i].buffer)
    };
    let digest = checksum(model, counted, group.global_rank())?;
    let mut digests = vec![0; digest.len() * group.world_size()];
    group.all_gather((&digest, &mut digests))?;
    let digests: Vec<&[u8]> = digests.chunks_exact(digest.len()).collect();
    match outliers(&digests) {
        None => Ok(hexadecimal(&digest)),
        Some((reference, differing)) => Err(Error::ReplicasDiffer {
            reference: group.ranks()[reference],
            ranks: differing.iter().map(|&rank| group.ranks()[rank]).collect(),
        }),
    }
}

/// Returns the first rank with the most common value, and the ranks that differ from it; none if all are equal.
fn outliers<T: PartialEq>(values: &[T]) -> Option<(usize, Vec<usize>)> {
    let alike = |value: &T| values.iter().filter(|other| *other == value).count();
    // The last of the maxima of the reversed order is the lowest rank.
    let reference = (0..values.len())
        .rev()
        .max_by_key(|&rank| alike(&values[rank]))?;
    let differing: Vec<usize> = (0..values.len())
        .filter(|&rank| values[rank] != values[reference])
        .collect();
    (!differing.is_empty()).then_some((reference, differing))
}

fn checksum<M: Module>(model: &M, counted: impl Fn(&str) -> bool, rank: usize) -> Result<[u8; 32]> {
    let mut hasher = Hasher {
        path: Path::default(),
        counted,
        digest: Sha256::new(),
        failed: None,
    };
    model.visit(&mut hasher);
    match hasher.failed {
        None => Ok(hasher.digest.finalize().into()),
        Some(message) => Err(Error::Tensor {
            rank,
            operation: "reading a parameter",
            message,
        }),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

struct Hasher<F> {
    path: Path,
    counted: F,
    digest: Sha256,
    failed: Option<String>,
}

impl<F: Fn(&str) -> bool> Hasher<F> {
    fn add<E: std::fmt::Debug>(&mut self, data: Result<TensorData, E>) {
        let path = self.path.joined();
        if !(self.counted)(&path) {
            return;
        }
        match data {
            Err(error) => {
                self.failed = Some(format!("{error:?} (parameter `{path}`)"));
            }
            Ok(data) => {
                let header = format!("{} {:?} {:?};", path, data.dtype(), data.shape());
                self.digest.update(header.as_bytes());
                self.digest.update(data.as_bytes());
            }
        }
    }
}

impl<F: Fn(&str) -> bool> ModuleVisitor for Hasher<F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.add(param.base().try_into_data());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.add(param.base().try_into_data());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.add(param.base().try_into_data());
    }
}

#[cfg(test)]
mod tests {
    use super::outliers;

    #[test]
    fn the_minority_is_named() {
        assert_eq!(outliers(&["a", "a", "a"]), None);
        assert_eq!(outliers(&["b", "a", "a"]), Some((1, vec![0])));
        assert_eq!(outliers(&["a", "b", "a", "c"]), Some((0, vec![1, 3])));
        assert_eq!(outliers(&["a", "b"]), Some((0, vec![1])));
    }
}
