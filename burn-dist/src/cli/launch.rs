//! The flags of replicas and of the processes of a job.

use crate::error::{Error, JoinFailure, Result};
use crate::launch::{Backend, Devices};
use crate::net::Tls;
use crate::rendezvous::JobConfig;
use clap::{Args, value_parser};
use std::path::PathBuf;
use std::time::Duration;

/// The longest time that a flag may say: 30 days.
const MAX_TIME: Duration = Duration::from_hours(30 * 24);

/// Devices of the replicas, and connections between the processes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Job")]
pub struct LaunchArgs {
    /// Replicas (ranks) of this process, each on a device of its own, or with the CPU backend on its share of the
    /// cores
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1024))]
    pub gpus: u32,

    /// Devices to train on; `auto` takes NVIDIA GPUs if there are enough, else other GPUs, else the CPU
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,

    /// Let replicas share a GPU where there are fewer GPUs than replicas [default: off]
    #[arg(long)]
    pub oversubscribe: bool,

    /// Network interface by which the job's other processes reach this machine, by name or address
    /// [default: BURN_DIST_INTERFACE, else the one towards process 0]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,

    /// Name that only this job has: processes of jobs with different names never join one another [default:
    /// BURN_DIST_JOB, and the launcher's name of the job]
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,

    /// Seconds to wait for the job's other processes at the start [default: BURN_DIST_JOIN_TIMEOUT, else 300]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub join_timeout: Option<Duration>,

    /// Seconds of silence after which a process counts as lost; the value of process 0 holds for all [default:
    /// BURN_DIST_HEARTBEAT, else 30]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub heartbeat: Option<Duration>,

    /// Seconds that an operation waits for the other ranks [default: BURN_DIST_TIMEOUT, else 300]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub collective_timeout: Option<Duration>,

    /// File of `burn-dist bench tune`: sizes at which operations between processes change their algorithm; process 0's
    /// holds for all [default: built in]
    #[arg(long, value_name = "FILE")]
    pub crossovers: Option<PathBuf>,

    /// Folder of the flight recorder: the last operations of each rank, written on a timeout [default: a folder
    /// among the system's temporary files, named in the log]
    #[arg(long, value_name = "DIR")]
    pub records: Option<PathBuf>,

    /// Certificates of the processes.
    #[command(flatten)]
    pub tls: Option<TlsArgs>,
}

/// Files with which the processes of a job encrypt their connections.
#[derive(Args, Clone, Debug)]
#[group(id = "tls", requires_all = ["tls_cert", "tls_key", "tls_ca"])]
pub struct TlsArgs {
    /// Certificate of this process, in PEM's format; with it, connections between processes are encrypted
    /// [default: BURN_DIST_TLS_CERT, else not encrypted]
    #[arg(
        id = "tls_cert",
        long = "tls-cert",
        value_name = "FILE",
        required = false
    )]
    pub cert: PathBuf,

    /// Private key of the certificate, in PEM's format [default: BURN_DIST_TLS_KEY]
    #[arg(
        id = "tls_key",
        long = "tls-key",
        value_name = "FILE",
        required = false
    )]
    pub key: PathBuf,

    /// Certificate of the CA that signed the certificates of all processes [default: BURN_DIST_TLS_CA]
    #[arg(id = "tls_ca", long = "tls-ca", value_name = "FILE", required = false)]
    pub ca: PathBuf,

    /// Name in the certificates of all processes [default: BURN_DIST_TLS_NAME, else burn-dist]
    #[arg(id = "tls_name", long = "tls-name", value_name = "NAME")]
    pub name: Option<String>,
}

impl LaunchArgs {
    /// Returns this process's place in its job, as the launcher's variables and these flags say; `None` if no
    /// launcher started it as one of several.
    ///
    /// # Errors
    /// [`Error::Rendezvous`] if a variable, a flag or a certificate is wrong, or if a flag is given that only a job
    /// of several processes has.
    pub fn place(&self) -> Result<Option<JobConfig>> {
        let Some(mut job) = JobConfig::from_env()? else {
            return self.check_alone().map(|()| None);
        };
        if let Some(interface) = &self.interface {
            job = job.with_interface(interface);
        }
        if let Some(name) = &self.job {
            job = job.with_name(name)?;
        }
        if let Some(file) = &self.crossovers {
            let chosen = job.clone().with_crossovers_file(file);
            // The others would wait for this process otherwise.
            job = chosen.inspect_err(|error| drop(job.abandon(error)))?;
        }
        if let Some(timeout) = self.join_timeout {
            job = job.with_join_timeout(timeout);
        }
        if let Some(heartbeat) = self.heartbeat {
            job = job.with_heartbeat(heartbeat);
        }
        if let Some(files) = &self.tls {
            let mut tls = Tls::from_files(&files.cert, &files.key, &files.ca)?;
            if let Some(name) = &files.name {
                tls = tls.with_name(name)?;
            }
            job = job.with_tls(tls);
        }
        Ok(Some(job))
    }

    /// Refuses flags that only a job of several processes has.
    fn check_alone(&self) -> Result<()> {
        let given = [
            ("--interface", self.interface.is_some()),
            ("--job", self.job.is_some()),
            ("--crossovers", self.crossovers.is_some()),
            ("--tls-cert", self.tls.is_some()),
        ];
        let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) else {
            return Ok(());
        };
        Err(Error::Rendezvous {
            process: None,
            address: String::new(),
            failure: JoinFailure::Configuration(format!(
                "{flag} is for a job of several processes, and no launcher started this process as one of \
                 several; start it with `burn-dist run`, torchrun or Slurm, or leave the flag out"
            )),
        })
    }

    /// Chooses the devices of this process's replicas.
    ///
    /// # Errors
    /// As [`Devices::select`].
    pub fn devices(&self, job: Option<&JobConfig>) -> Result<Devices> {
        Devices::select_for(job, self.backend, self.gpus as usize, self.oversubscribe)
    }
}

/// Reads a time, as 90 or 0.5.
fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|cause| format!("{cause}"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() && time <= MAX_TIME => Ok(time),
        _ => Err(format!(
            "expected a number of seconds above 0 and at most {} (30 days)",
            MAX_TIME.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct LaunchProgram {
        #[command(flatten)]
        launch: LaunchArgs,
    }

    fn parse(flags: &[&str]) -> std::result::Result<LaunchArgs, String> {
        let parsed = LaunchProgram::try_parse_from(["program"].iter().chain(flags));
        parsed
            .map(|program| program.launch)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_there_is_one_replica() {
        let args = parse(&[]).unwrap();
        assert_eq!((args.gpus, args.backend), (1, Backend::Auto));
        assert!(args.tls.is_none() && args.join_timeout.is_none());
    }

    #[test]
    fn times_are_bounded() {
        let args = parse(&["--heartbeat", "0.5"]).unwrap();
        assert_eq!(args.heartbeat, Some(Duration::from_millis(500)));
        for wrong in ["0", "-1", "nan", "1e99", "soon"] {
            let flag = format!("--heartbeat={wrong}");
            let error = parse(&[&flag]).unwrap_err();
            assert!(error.contains("--heartbeat"), "{wrong}: {error}");
        }
    }

    #[test]
    fn certificates_come_all_together() {
        let error = parse(&["--tls-cert", "a.pem"]).unwrap_err();
        assert!(error.contains("--tls-key"), "{error}");
        let all = ["--tls-cert", "a", "--tls-key", "b", "--tls-ca", "c"];
        assert_eq!(parse(&all).unwrap().tls.unwrap().ca, PathBuf::from("c"));
    }

    #[test]
    fn flags_of_several_processes_are_refused_alone() {
        for flags in [
            &["--interface", "eth0"][..],
            &["--job", "a"],
            &["--tls-cert", "a", "--tls-key", "b", "--tls-ca", "c"],
        ] {
            let error = parse(flags).unwrap().check_alone().unwrap_err().to_string();
            assert!(error.contains(flags[0]), "{error}");
            assert!(error.contains("for a job of several processes"), "{error}");
        }
        assert!(parse(&["--gpus", "2"]).unwrap().check_alone().is_ok());
    }
}
