//! What a preflight finds: plain figures that are written as JSON, and what follows from them.
//!
//! Times are seconds, sizes bytes, unless a name says otherwise.

use super::host::Interface;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Measurements of a [`Preflight`](super::Preflight), its forecast of training, and its findings; the same on
/// every rank. It is written as a text for people (`Display`), and by any format of serde.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The figures.
    pub measured: Measurements,
    /// Forecast of the steps of a training.
    pub forecast: Forecast,
    /// Faults and facts found: the worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The severity of the worst finding, if there are any.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// The bucket sizes to train with: the best by the forecast, or the planned ones where their steps
    /// waited hardly longer.
    pub fn advised(&self) -> &Prediction {
        match &self.measured.trials[..] {
            [planned, other, ..] if !other.saves(planned) => &self.forecast.planned,
            _ => &self.forecast.best,
        }
    }
}

/// The figures of a preflight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurements {
    /// The processes of the job.
    pub processes: Vec<Process>,
    /// Its replicas.
    pub replicas: Vec<Replica>,
    /// The ways between processes.
    pub links: Vec<Link>,
    /// Number of pairs of processes; of many, only some are measured.
    pub pairs: usize,
    /// The model.
    pub model: Model,
    /// The time of an all_reduce of f32 over all replicas, by size.
    pub all_reduces: Vec<AllReduce>,
    /// Steps as in training, with the planned buckets and, if others are better by the forecast, with
    /// those.
    pub trials: Vec<Trial>,
}

/// A process of a job, and its machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// The name of its machine.
    pub host: String,
    /// The cores that it may use.
    pub cores: usize,
    /// The numbers of these cores; none where the system doesn't tell.
    pub cpus: Vec<u32>,
    /// Address at which the others reach it; none in a job of one process.
    pub address: Option<IpAddr>,
    /// The machine's interfaces.
    pub interfaces: Vec<Interface>,
}

impl Process {
    /// The interface that has the process's address.
    pub(super) fn interface(&self) -> Option<&Interface> {
        let address = self.address?;
        let mut interfaces = self.interfaces.iter();
        interfaces.find(|interface| interface.addresses.contains(&address))
    }
}

/// A replica of the model: one rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    /// Its process.
    pub process: usize,
    /// Device it computes on.
    pub device: String,
    /// True if the device is a GPU in name only, computed by the CPU.
    pub software: bool,
    /// Number of threads that compute for it, on the CPU backend; none on others.
    pub threads: Option<usize>,
    /// The time of a forward pass: median, with all replicas at once.
    pub forward_s: f64,
    /// The time of a backward pass, likewise.
    pub backward_s: f64,
}

impl Replica {
    /// The time of a step without synchronisation and without the optimizer.
    pub fn compute_s(&self) -> f64 {
        self.forward_s + self.backward_s
    }
}

/// The way between two processes, measured with no other at work (in large jobs: with few).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The processes.
    pub processes: [usize; 2],
    /// Seconds a small message takes, one way: half the median of round trips.
    pub latency_s: f64,
    /// Bytes a second of large messages: from the first to the second, and back.
    pub bytes_per_s: [f64; 2],
}

impl Link {
    /// The bandwidth of the slower direction.
    pub fn slower(&self) -> f64 {
        self.bytes_per_s[0].min(self.bytes_per_s[1])
    }
}

/// The model that is to be trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The bytes of each trained parameter's gradient, as it travels, in the order of the module.
    pub gradients: Vec<usize>,
}

impl Model {
    /// The bytes that are averaged in a step.
    pub fn gradient_bytes(&self) -> usize {
        self.gradients.iter().sum()
    }
}

/// An all_reduce of so many bytes over all replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllReduce {
    /// The buffer of each replica.
    pub bytes: usize,
    /// The time: the median of the slowest replica.
    pub seconds: f64,
}

/// Steps of the model as in training: forward, backward, averaging; without an optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The size of the buckets, in `DdpConfig::bucket_cap_mb`'s unit.
    pub bucket_cap_mb: f64,
    /// The time of a step without averaging: the median of the slowest replica. It was measured in turn
    /// with the next.
    pub compute_s: f64,
    /// The time of a step, likewise.
    pub step_s: f64,
    /// Additional time of a step with averaging, as a share of one without.
    pub exposed_share: f64,
}

/// Share of a step that other buckets must save to be worth a change.
const GAIN: f64 = 0.04;

impl Trial {
    /// True if the exposed share is less than that of another trial by more than chance explains.
    pub(super) fn saves(&self, other: &Self) -> bool {
        self.exposed_share + GAIN < other.exposed_share
    }
}

/// Forecast of a training, from the measurements and a simple model of it: see [`Preflight`](super::Preflight).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Forward and backward of the slowest replica.
    pub compute_s: f64,
    /// Backward of the slowest replica.
    pub backward_s: f64,
    /// With the buckets that are planned.
    pub planned: Prediction,
    /// With the best of those that were tried.
    pub best: Prediction,
    /// With each size of buckets that was tried, the smallest first; sizes that come to the same buckets
    /// as a smaller one are left out.
    pub tried: Vec<Prediction>,
}

/// Forecast for one bucket size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The size, in `DdpConfig::bucket_cap_mb`'s unit.
    pub bucket_cap_mb: f64,
    /// That of the first bucket.
    pub first_bucket_mb: f64,
    /// Number of buckets the model has with it.
    pub buckets: usize,
    /// Seconds that averaging takes, hidden or not.
    pub communication_s: f64,
    /// Seconds that a step waits for averaging after backward.
    pub exposed_s: f64,
    /// The same as a share of the step (forward, backward and this; without the optimizer).
    pub exposed_share: f64,
}

/// Something that a user should know before the job starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Severity of the finding.
    pub severity: Severity,
    /// Subject of the finding.
    pub topic: Topic,
    /// Fact and remedy, in a sentence.
    pub message: String,
}

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// The job would run, but worse than it could.
    Warning,
    /// The job would not run, or not as it was meant.
    Error,
}

/// Subject of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Topic {
    /// Replicas and the cores of their machine.
    Cores,
    /// Devices that replicas compute on.
    Devices,
    /// Speed of replicas.
    Replicas,
    /// The network interfaces of the processes.
    Interface,
    /// Time of small messages.
    Latency,
    /// Rate of large messages.
    Bandwidth,
    /// The size of buckets.
    Buckets,
    /// Cost of averaging in a step.
    Exposed,
}
