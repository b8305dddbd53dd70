//! From flags and environment to a place in the job and the devices for its replicas.

use super::job_options::{self, JobOptions};
use burn::tensor::Device;
use burn_dist::launch::{Backend, Devices, Launcher};
use burn_dist::{JobConfig, Tls};
use std::error::Error;

/// This process's place in its job, if a launcher started it as one of several: it says so in the
/// environment.
pub(crate) fn place(
    options: &JobOptions,
) -> Result<Option<JobConfig>, Box<dyn Error + Send + Sync>> {
    let Some(mut job) = JobConfig::from_env()? else {
        return alone(options).map(|()| None);
    };
    if let Some(interface) = &options.interface {
        job = job.with_interface(interface);
    }
    if let Some(name) = &options.job {
        job = job.with_name(name)?;
    }
    if let Some(timeout) = options.join_timeout {
        job = job.with_join_timeout(timeout);
    }
    if let Some(heartbeat) = options.heartbeat {
        job = job.with_heartbeat(heartbeat);
    }
    if let Some(files) = &options.tls {
        let mut tls = Tls::from_files(&files.cert, &files.key, &files.ca)?;
        if let Some(name) = &files.name {
            tls = tls.with_name(name)?;
        }
        job = job.with_tls(tls);
    }
    Ok(Some(job))
}

/// Refuses what only a job of several processes has.
fn alone(options: &JobOptions) -> Result<(), Box<dyn Error + Send + Sync>> {
    for (flag, is_set) in [
        ("--interface", options.interface.is_some()),
        ("--job", options.job.is_some()),
    ] {
        if is_set {
            return Err(format!(
                "{flag} is for a job of several processes, and nothing in the environment says that this is \
                 one of them"
            )
            .into());
        }
    }
    if options.tls.is_some() {
        return Err(
            "there is nothing to encrypt: no launcher started this process as one of several \
             (`burn-dist run --nproc-per-node 2` would)"
                .into(),
        );
    }
    Ok(())
}

/// Tells the job's other processes of a failure before they would wait for this one.
pub(crate) fn or_abandon<T, E: std::fmt::Display>(
    job: Option<&JobConfig>,
    result: Result<T, E>,
) -> Result<T, E> {
    result.inspect_err(|error| {
        if let Some(job) = job {
            // Who can't be told waits.
            let _ = job.abandon(error);
        }
    })
}

/// The launcher for these devices, with the times that the flags say.
#[allow(dead_code, reason = "doctor has a time of its own")]
pub(crate) fn launcher(
    devices: Vec<Device>,
    job: Option<JobConfig>,
    options: &JobOptions,
) -> Launcher {
    let launcher = Launcher::new(devices).with_job(job);
    match options.collective_timeout {
        Some(timeout) => launcher.with_timeout(timeout),
        None => launcher,
    }
}

/// The devices of this process's replicas.
pub(crate) fn devices(
    job: Option<&JobConfig>,
    options: &JobOptions,
) -> Result<Devices, burn_dist::Error> {
    let backend = match options.backend {
        job_options::Backend::Auto => Backend::Auto,
        job_options::Backend::Cuda => Backend::Cuda,
        job_options::Backend::Wgpu => Backend::Wgpu,
        job_options::Backend::Cpu => Backend::Cpu,
    };
    Devices::select_for(job, backend, options.gpus as usize, options.oversubscribe)
}
