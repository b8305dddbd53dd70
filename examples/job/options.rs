//! The flags that every program of a job has: what its replicas compute on, and how its processes find one
//! another. `cargo xtask` shares this file: it needs clap alone.

use clap::{Args, ValueEnum, value_parser};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What replicas compute on, and how processes connect.
#[derive(Args, Clone, Debug)]
pub(crate) struct JobOptions {
    /// Replicas to train, each on a device of its own (with the CPU backend: on its share of the cores)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1024))]
    pub(crate) gpus: u32,

    /// What to train on; `auto` takes NVIDIA GPUs if there are enough, else other GPUs, else the CPU
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub(crate) backend: Backend,

    /// Let replicas share a GPU where there are fewer GPUs than replicas [default: off]
    #[arg(long)]
    pub(crate) oversubscribe: bool,

    /// Network interface of this machine that the job's other processes reach it by, by name or address
    /// [default: the one towards process 0]
    #[arg(long, value_name = "NAME")]
    pub(crate) interface: Option<String>,

    /// Name that only this job has: processes of jobs with different names never join one another [default:
    /// BURN_DIST_JOB, and what the launcher calls the job]
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<String>,

    /// Seconds to wait for the job's other processes at the start [default: BURN_DIST_JOIN_TIMEOUT, else 300]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) join_timeout: Option<Duration>,

    /// Seconds of silence after which a process is given up; those of process 0 count [default:
    /// BURN_DIST_HEARTBEAT, else 30]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) heartbeat: Option<Duration>,

    /// Seconds that an operation waits for the other ranks [default: BURN_DIST_TIMEOUT, else 300]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) collective_timeout: Option<Duration>,

    #[command(flatten)]
    pub(crate) tls: Option<TlsOptions>,
}

/// Reads a time, as 90 or 0.5.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|cause| format!("{cause}"))?;
    let longest = Duration::from_hours(30 * 24);
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() && time <= longest => Ok(time),
        _ => Err(format!(
            "{text} is no number of seconds above 0 and at most {} (30 days)",
            longest.as_secs()
        )),
    }
}

impl JobOptions {
    /// The flags that come to these options.
    #[allow(dead_code, reason = "xtask passes them on")]
    pub(crate) fn flags(&self) -> Vec<OsString> {
        let mut flags = Vec::new();
        let mut pair = |flag: &str, value: OsString| flags.extend([flag.into(), value]);
        // `auto` stays `auto`: the program knows better which devices it can use than a look at the
        // machine's files.
        pair("--backend", self.backend.name().into());
        pair("--gpus", self.gpus.to_string().into());
        if let Some(interface) = &self.interface {
            pair("--interface", interface.into());
        }
        if let Some(job) = &self.job {
            pair("--job", job.into());
        }
        for (flag, time) in [
            ("--join-timeout", self.join_timeout),
            ("--heartbeat", self.heartbeat),
            ("--collective-timeout", self.collective_timeout),
        ] {
            if let Some(time) = time {
                pair(flag, time.as_secs_f64().to_string().into());
            }
        }
        if let Some(tls) = &self.tls {
            pair("--tls-cert", (&tls.cert).into());
            pair("--tls-key", (&tls.key).into());
            pair("--tls-ca", (&tls.ca).into());
            if let Some(name) = &tls.name {
                pair("--tls-name", name.into());
            }
        }
        if self.oversubscribe {
            flags.push("--oversubscribe".into());
        }
        flags
    }
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

impl Backend {
    /// As it is written on a command line.
    #[allow(dead_code, reason = "xtask passes it on")]
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::Cpu => "cpu",
        }
    }
}
