//! From flags and environment to a job that is ready to start.

use super::launch::LaunchArgs;
use super::log;
use super::observe::ObserveArgs;
use crate::error::Result;
use crate::launch::{Devices, Launcher};
use crate::observe::{ChromeTrace, Outputs};
use crate::rendezvous::JobConfig;
use clap::Args;
use std::fmt::{self, Display};
use std::sync::Arc;

/// The flags of a training program's job, to be flattened into the program's own: see the [module](super).
#[derive(Args, Clone, Debug)]
pub struct JobArgs {
    /// Devices and processes.
    #[command(flatten)]
    pub launch: LaunchArgs,
    /// Outputs while the program runs.
    #[command(flatten)]
    pub observe: ObserveArgs,
}

/// This process's part of a job, made by [`JobArgs::init`]: its place, devices, trace and outputs.
#[derive(Debug)]
pub struct Job {
    args: LaunchArgs,
    config: Option<JobConfig>,
    devices: Devices,
    trace: Option<ChromeTrace>,
    outputs: Arc<Outputs>,
    settings: Vec<(String, String)>,
}

impl JobArgs {
    /// Starts the log on standard error, reads the place in the job, chooses devices, and opens trace and outputs.
    /// Does not join the job; the [launcher](Job::launcher) does when it runs.
    ///
    /// A note on the choice of devices goes to the log (`warn`). A program that has set a subscriber of its own keeps
    /// it.
    ///
    /// # Errors
    /// [`Error::Rendezvous`](crate::Error::Rendezvous) if a variable or a flag of the job is wrong,
    /// [`Error::Devices`](crate::Error::Devices) if there are too few devices, and
    /// [`Error::Observe`](crate::Error::Observe) if an output can't be opened. The job's other processes hear of it.
    pub fn init(&self) -> Result<Job> {
        let trace = self.observe.trace.as_ref().map(|_| ChromeTrace::new());
        log::start(trace.as_ref())?;
        let config = self.launch.place()?;
        or_abandon(config.as_ref(), self.open(trace, config.as_ref())).map(
            |(devices, trace, outputs)| Job {
                args: self.launch.clone(),
                config,
                devices,
                trace,
                outputs: Arc::new(outputs),
                settings: Vec::new(),
            },
        )
    }

    /// Chooses devices, and opens what this process writes.
    fn open(
        &self,
        mut trace: Option<ChromeTrace>,
        config: Option<&JobConfig>,
    ) -> Result<(Devices, Option<ChromeTrace>, Outputs)> {
        let process = config.map_or(0, JobConfig::process);
        if let (Some(trace), Some(file)) = (&mut trace, &self.observe.trace) {
            trace.start(file, process)?;
        }
        let outputs = match process {
            0 => self.observe.outputs()?,
            _ => Outputs::new(),
        };
        let devices = self.launch.devices(config)?;
        if let Some(note) = &devices.note {
            tracing::warn!("{note}");
        }
        Ok((devices, trace, outputs))
    }
}

impl Job {
    /// Declares settings that must be the same in all processes, as [`JobConfig::with_options`].
    #[must_use]
    pub fn with_options<N: Into<String>, V: AsRef<str>>(
        mut self,
        options: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.config = self.config.map(|config| config.with_options(options));
        self
    }

    /// Declares settings that a run and its continuation must have alike, in all processes: see
    /// [`CheckpointArgs::init`](super::CheckpointArgs::init).
    #[must_use]
    pub fn with_settings<N: Into<String>>(
        mut self,
        settings: impl IntoIterator<Item = (N, String)>,
    ) -> Self {
        let settings = settings.into_iter();
        let settings: Vec<_> = settings.map(|(name, value)| (name.into(), value)).collect();
        self.settings.extend(settings.iter().cloned());
        self.with_options(settings)
    }

    /// Returns the settings of [`with_settings`](Self::with_settings).
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// Returns the number of this process in the job, from 0.
    pub fn process(&self) -> usize {
        self.config.as_ref().map_or(0, JobConfig::process)
    }

    /// Returns the number of processes of the job.
    pub fn processes(&self) -> usize {
        self.config.as_ref().map_or(1, JobConfig::processes)
    }

    /// Returns the devices of this process's replicas.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Returns the outputs of the process of rank 0; empty in other processes.
    pub fn outputs(&self) -> Arc<Outputs> {
        Arc::clone(&self.outputs)
    }

    /// Returns a result as it is. If it is an error, tells the job's other processes, which would wait for this one
    /// otherwise.
    ///
    /// # Errors
    /// The error that is given.
    pub fn or_abandon<T, E: Display>(
        &self,
        result: std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        or_abandon(self.config.as_ref(), result)
    }

    /// Makes the launcher of this process's replicas.
    pub fn launcher(&self) -> Launcher {
        let mut launcher =
            Launcher::new(self.devices.devices.clone()).with_job(self.config.clone());
        if let Some(timeout) = self.args.collective_timeout {
            launcher = launcher.with_timeout(timeout);
        }
        if let Some(folder) = &self.args.records {
            launcher = launcher.with_records(folder);
        }
        launcher
    }

    /// Completes the trace.
    ///
    /// # Errors
    /// [`Error::Observe`](crate::Error::Observe) if a part of the trace could not be written.
    pub fn finish(self) -> Result<()> {
        self.trace.map_or(Ok(()), ChromeTrace::finish)
    }
}

/// Tells processes, replicas, devices and the address of metrics, in a few words.
impl Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Devices {
            devices, backend, ..
        } = &self.devices;
        write!(
            f,
            "{} process(es) with {} replica(s) on {backend}",
            self.processes(),
            devices.len()
        )?;
        match self.outputs.metrics_address() {
            Some(address) => write!(f, ", metrics at http://{address}/metrics"),
            None => Ok(()),
        }
    }
}

fn or_abandon<T, E: Display>(
    config: Option<&JobConfig>,
    result: std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    result.inspect_err(|error| {
        if let Some(config) = config {
            // A process that can't be told waits until its deadline.
            let _ = config.abandon(error);
        }
    })
}
