//! Data-parallel training against one process: the promises of the `ddp` module, on device threads.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod clip;
mod equivalence;
mod gradients;
mod leaving;
mod misuse;
mod norms;
mod odd_batches;
mod passes;
mod replication;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use burn_dist::launch::{Launcher, Worker};
use burn_dist::random;
use std::time::Duration;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A layer. Burn's layers draw from one generator for the whole process, so all tests draw under one lock: what
/// some draw would depend on when others do.
fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    random::init(9, device, |device| {
        LinearConfig::new(inputs, outputs).init(device)
    })
}

/// Runs `f` on so many CPU replicas, with a deadline that a correct run never meets.
fn run<R: Send>(
    ranks: usize,
    f: impl Fn(&Worker) -> Result<R, Failure> + Sync,
) -> burn_dist::Result<Vec<R>> {
    Launcher::new(vec![Device::flex().autodiff(); ranks])
        .with_timeout(Duration::from_mins(1))
        .run(|worker| f(&worker))
}

/// The values of every float tensor of a module, in order, with its path.
fn values<M: Module>(module: &M) -> Vec<(String, Vec<f64>)> {
    #[derive(Default)]
    struct Reader {
        path: Vec<String>,
        values: Vec<(String, Vec<f64>)>,
    }
    impl ModuleVisitor for Reader {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let data = param.base().into_data();
            self.values
                .push((self.path.join("."), data.iter::<f64>().collect()));
        }
    }
    let mut reader = Reader::default();
    module.visit(&mut reader);
    reader.values
}

/// Compares models tensor by tensor: the norm of the difference against the norm of the tensor. The
/// order of additions differs between one batch and its shards, so rounding is all that may differ:
/// 6e-8 an addition in f32, over 20 steps and a few hundred additions an element.
fn assert_close<M: Module>(one: &M, other: &M, tolerance: f64) {
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let (one, other) = (values(one), values(other));
    assert_eq!(one.len(), other.len());
    for ((path, one), (_, other)) in one.iter().zip(&other) {
        assert_eq!(one.len(), other.len(), "{path}");
        let differences: Vec<f64> = one
            .iter()
            .zip(other)
            .map(|(one, other)| one - other)
            .collect();
        let relative = norm(&differences) / norm(one).max(1e-30);
        assert!(
            relative <= tolerance,
            "{path}: differs by {relative:e}, relative to its norm"
        );
    }
}
