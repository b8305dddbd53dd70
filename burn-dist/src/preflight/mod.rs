//! Preflight: what a job will meet, measured before it starts.
//!
//! | file | idea |
//! |---|---|
//! | `host` | what a machine says of itself |
//! | `schedule`, `links` | which processes measure the way between them, and how |
//! | `passes` | forward and backward, all_reduces, steps as in training |
//! | `forecast` | what averaging will cost a step with which buckets: pure |
//! | `findings` | what is wrong, in words: pure |
//! | `report`, `text` | all of it as figures, and as a text |
//!
//! Every rank makes the same calls in the same order, on its own thread; nothing is started.

mod findings;
mod forecast;
mod host;
mod links;
mod passes;
mod report;
mod schedule;
mod text;

pub use host::Interface;
pub use report::{
    AllReduce, Finding, Forecast, Link, Measurements, Model, Prediction, Process, Replica, Report,
    Severity, Topic, Trial,
};

use crate::ddp::DdpConfig;
use crate::error::Result;
use crate::launch::{Kind, Worker};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Measures what a job will meet before it starts: machines and interfaces, latency and bandwidth between
/// processes, a forward and a backward pass of the model, all_reduces, and a few steps as in training.
/// From these it says what share of a step will wait for averaging, which bucket size to take, and what
/// is wrong.
///
/// It takes some seconds; more for models whose steps take longer than about half of one. The parameters
/// that are given are those that come back: no optimizer runs. (Rank 0's are given to all, as
/// [`Ddp::attach`](crate::ddp::Ddp::attach) would.)
///
/// The forecast supposes that gradients come evenly over backward, that buckets are averaged one after the
/// other, and that each takes what measured all_reduces of about its size took.
///
/// # Example
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::{launch::launch, preflight::Preflight};
///
/// let reports = launch(vec![Device::flex().autodiff(); 2], |worker| {
///     let device = worker.device();
///     let model = LinearConfig::new(64, 64).init(device);
///     let batch = Tensor::<2>::ones([16, 64], device);
///     Preflight::new().run(&worker, &model, |model| model.forward(batch.clone()).mean())
/// })?;
/// println!("{}", reports[0]);
/// assert_eq!(reports[0].measured.replicas.len(), 2);
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Preflight {
    plan: DdpConfig,
    known: Vec<Finding>,
}

impl Default for Preflight {
    fn default() -> Self {
        Self::new()
    }
}

impl Preflight {
    /// A preflight of a job that trains with the default [`DdpConfig`].
    pub fn new() -> Self {
        Self {
            plan: DdpConfig::new(),
            known: Vec::new(),
        }
    }

    /// The configuration that the job will train with.
    #[must_use]
    pub fn with_plan(mut self, plan: DdpConfig) -> Self {
        self.plan = plan;
        self
    }

    /// Something that this process has found before, to be reported with the rest.
    #[must_use]
    pub fn with_known(mut self, finding: Finding) -> Self {
        self.known.push(finding);
        self
    }

    /// Measures. Every rank calls it, with the same model and settings, and gets the same report;
    /// `forward` makes one forward pass on a batch of the size that will be trained with, and gives its
    /// loss.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for bucket sizes that are no positive numbers, or a model on a device
    /// without autodiff; [`Error::ModelMismatch`](crate::Error::ModelMismatch) if ranks have other models; [`Error::Tensor`](crate::Error::Tensor) if a
    /// device fails; and the group's own errors.
    pub fn run<M: Module>(
        &self,
        worker: &Worker,
        model: &M,
        forward: impl FnMut(&M) -> Tensor<1>,
    ) -> Result<Report> {
        let group = worker.group();
        // What can't be right is an error before anything is measured.
        self.plan.init(group)?.attach(model.clone())?;
        let mut replica = passes::Replica {
            group,
            device: worker.device(),
            forward,
        };
        let told = RankMeasurements::of(worker, replica.passes(model)?, &self.known);
        let all: Vec<RankMeasurements> = group.objects().all_gather(&told)?;
        let known = all.iter().flat_map(|one| one.known.clone()).collect();
        let (processes, replicas, speakers) = RankMeasurements::sort(all);
        let links = links::measure(group, &speakers)?;
        let gradients = gradients(model);
        let gradient_bytes = gradients.iter().sum();
        let mut measured = Measurements {
            pairs: schedule::all(processes.len()),
            processes,
            replicas,
            links,
            model: Model { gradients },
            all_reduces: passes::all_reduces(group, gradient_bytes)?,
            trials: Vec::new(),
        };
        let forecast = forecast::forecast(&measured, &self.plan);

        // Every rank has made the same forecast from the same figures.
        let mut configs = vec![self.plan.clone()];
        if forecast.best != forecast.planned {
            configs.push(
                DdpConfig::new()
                    .with_bucket_cap_mb(forecast.best.bucket_cap_mb)
                    .with_first_bucket_mb(forecast.best.first_bucket_mb),
            );
        }
        for config in &configs {
            let trial = replica.steps(config, model)?;
            measured.trials.push(trial);
        }
        // No rank is gone while another still counts on it.
        group.barrier()?;
        let findings = findings::judge(&measured, &forecast, known);
        Ok(Report {
            measured,
            forecast,
            findings,
        })
    }
}

/// Measurements that a rank sends to the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RankMeasurements {
    process: Process,
    replica: Replica,
    known: Vec<Finding>,
}

impl RankMeasurements {
    fn of(worker: &Worker, (forward_s, backward_s): (f64, f64), known: &[Finding]) -> Self {
        let kind = Kind::of(worker.device());
        Self {
            process: Process {
                host: host::name(),
                cores: host::cores(),
                cpus: host::cpus(),
                address: worker.address(),
                interfaces: Interface::all(),
            },
            replica: Replica {
                process: worker.process(),
                device: kind.name,
                software: kind.software,
                threads: kind.on_cpu.then(rayon::current_num_threads),
                forward_s,
                backward_s,
            },
            known: known.to_vec(),
        }
    }

    /// The processes, the replicas, and the first rank of each process.
    fn sort(all: Vec<Self>) -> (Vec<Process>, Vec<Replica>, Vec<usize>) {
        let (mut processes, mut replicas, mut speakers) = (Vec::new(), Vec::new(), Vec::new());
        let mut last = None;
        for (rank, mut one) in all.into_iter().enumerate() {
            // Ranks are numbered process by process.
            if last.replace(one.replica.process) != Some(one.replica.process) {
                processes.push(one.process);
                speakers.push(rank);
            }
            // Whatever it was told to be: there is a process of this number.
            one.replica.process = processes.len() - 1;
            replicas.push(one.replica);
        }
        (processes, replicas, speakers)
    }
}

/// The bytes of each trained parameter's gradient, as it travels: f64 as it is, all others as f32.
fn gradients<M: Module>(model: &M) -> Vec<usize> {
    #[derive(Default)]
    struct Sizes {
        seen: HashSet<ParamId>,
        bytes: Vec<usize>,
    }
    impl ModuleVisitor for Sizes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.base();
            // A tied weight has one gradient.
            if value.is_require_grad() && self.seen.insert(param.id) {
                let size = if value.dtype() == DType::F64 { 8 } else { 4 };
                self.bytes.push(value.shape().num_elements() * size);
            }
        }
    }
    let mut sizes = Sizes::default();
    model.visit(&mut sizes);
    sizes.bytes
}

#[cfg(test)]
#[cfg(feature = "flex")]
mod tests;
