//! The flags of `mnist`, and of `cargo xtask train-mnist`, which shares this file: it needs clap alone.

use clap::{Args, ValueEnum, value_parser};
use std::path::PathBuf;

/// What to train, on what, and what to write.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Replicas to train, each on a device of its own (with the CPU backend: on its share of the cores)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1024))]
    pub(crate) gpus: u32,

    /// What to train on; `auto` takes NVIDIA GPUs if there are enough, else other GPUs, else the CPU
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub(crate) backend: Backend,

    /// Passes over the training digits
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = value_parser!(u32).range(1..))]
    pub(crate) epochs: u32,

    /// Samples per replica and step; a step trains on this times the replicas
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..=65536))]
    pub(crate) batch_size: u32,

    /// Learning rate at the start; it falls to zero along a cosine
    #[arg(long, value_name = "RATE", default_value_t = 0.03, value_parser = learning_rate)]
    pub(crate) lr: f64,

    /// Seed of the initial parameters, the order of samples, and dropout
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub(crate) seed: u64,

    /// Folder with the four files of MNIST or a set in its format, plain or gzipped [default: the
    /// 10,000 digits that the program holds]
    #[arg(long, value_name = "DIR", conflicts_with = "download")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Train on the full MNIST: download it once into the user's cache folder [default: off]
    #[arg(long)]
    pub(crate) download: bool,

    /// Folder for the model, metrics.csv and the plot; made if missing
    #[arg(long, value_name = "DIR", default_value = "runs/mnist")]
    pub(crate) output: PathBuf,

    /// Write a JSON report of the run to this file [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Network interface of this machine that the job's other processes reach it by, by name or address
    /// [default: the one towards process 0]
    #[arg(long, value_name = "NAME")]
    pub(crate) interface: Option<String>,

    /// Folder for what each rank did last, if ranks wait for one another in vain [default: one among the
    /// system's temporary files, which is told then]
    #[arg(long, value_name = "DIR")]
    pub(crate) records: Option<PathBuf>,

    /// Let replicas share a GPU where there are fewer GPUs than replicas [default: off]
    #[arg(long)]
    pub(crate) oversubscribe: bool,

    #[command(flatten)]
    pub(crate) tls: Option<TlsOptions>,
}

/// The files with which the processes of a job encrypt what they send one another.
#[derive(Args, Clone, Debug)]
#[group(id = "tls", requires_all = ["tls_cert", "tls_key", "tls_ca"])]
pub(crate) struct TlsOptions {
    /// This process's certificate, in PEM's format: what the job's processes send one another is
    /// encrypted [default: not encrypted]
    #[arg(
        id = "tls_cert",
        long = "tls-cert",
        value_name = "FILE",
        required = false
    )]
    pub(crate) cert: PathBuf,

    /// The private key of the certificate, in PEM's format [default: none]
    #[arg(
        id = "tls_key",
        long = "tls-key",
        value_name = "FILE",
        required = false
    )]
    pub(crate) key: PathBuf,

    /// The certificate of the CA that signed those of all processes [default: none]
    #[arg(id = "tls_ca", long = "tls-ca", value_name = "FILE", required = false)]
    pub(crate) ca: PathBuf,

    /// The name for which the certificates of all processes are [default: burn-dist]
    #[arg(id = "tls_name", long = "tls-name", value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// What replicas train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// The best that this machine has
    Auto,
    /// NVIDIA GPUs
    Cuda,
    /// GPUs through Vulkan, Metal or Direct3D
    Wgpu,
    /// The CPU, each replica with its share of the cores
    Cpu,
}

fn learning_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        Ok(rate) => Err(format!("{rate} is not a number above 0")),
        Err(cause) => Err(cause.to_string()),
    }
}
