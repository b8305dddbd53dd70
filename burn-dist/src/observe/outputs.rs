//! Where the figures of a run go, beside its logs.

use super::metrics::{Endpoint, Metrics};
use super::summary::StepSummary;
use super::tensorboard::{Beginning, EventFile};
use crate::error::Result;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Destinations of a run's figures: TensorBoard's files, an endpoint for Prometheus, both or neither.
///
/// Only the process that hosts rank 0 has something to write. It makes them before the job begins, so
/// that a folder that can't be written to, or an address that can't be served, costs no training.
///
/// ```no_run
/// use burn::tensor::Device;
/// use burn_dist::{launch::launch, observe::{Outputs, StepMonitor}};
///
/// let outputs = Outputs::new().with_log_dir("runs/first")?.with_metrics("9090")?;
/// launch(vec![Device::flex().autodiff(); 2], |worker| {
///     let monitor = StepMonitor::new(worker.group())?.with_outputs(&outputs);
///     // ...
///     monitor.finish()
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Outputs {
    /// Until a monitor takes it.
    events: Mutex<Option<EventFile>>,
    endpoint: Option<Endpoint>,
}

impl Outputs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes TensorBoard's event files to this folder, which is made if missing. Look at them with
    /// `tensorboard --logdir FOLDER`. A thread of its own writes them: a disk that is full or hangs costs the file, with
    /// a warning, and no training.
    ///
    /// # Errors
    /// [`Error::Observe`](crate::Error::Observe) if a file can't be made there, or not within ten seconds.
    pub fn with_log_dir(mut self, folder: impl AsRef<Path>) -> Result<Self> {
        self.events = Mutex::new(Some(EventFile::create(folder.as_ref())?));
        Ok(self)
    }

    /// Serves the figures to Prometheus, at `http://ADDRESS/metrics`, from now until this is dropped. A
    /// port alone is served to this machine alone; `0.0.0.0:PORT` to all that reach it, without a
    /// password.
    ///
    /// # Errors
    /// [`Error::Observe`](crate::Error::Observe) if that is no address, or it can't be listened on.
    pub fn with_metrics(mut self, address: &str) -> Result<Self> {
        self.endpoint = Some(Endpoint::start(address)?);
        Ok(self)
    }

    /// Returns the address of the metrics endpoint, if there is one.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.endpoint.as_ref().map(Endpoint::address)
    }

    /// Hands the outputs to a monitor; the event file to the first that asks.
    pub(super) fn take(&self) -> Sinks {
        Sinks {
            events: self.events.lock().take(),
            begun: false,
            metrics: self.endpoint.as_ref().map(Endpoint::metrics),
        }
    }
}

/// The outputs in the hands of rank 0's monitor.
#[derive(Debug, Default)]
pub(super) struct Sinks {
    events: Option<EventFile>,
    begun: bool,
    metrics: Option<Arc<Metrics>>,
}

impl Sinks {
    /// Writes that a run begins, unless that is written.
    pub(super) fn begin(&mut self, beginning: Beginning) {
        if !std::mem::replace(&mut self.begun, true) {
            self.write(|events| events.begin(beginning));
        }
    }

    /// Writes that an epoch ended with this step, for a run that resumes after it.
    #[cfg(feature = "train")]
    pub(super) fn end_epoch(&mut self, epoch: usize, step: u64) {
        self.scalar(super::tensorboard::MARKS[0], epoch as f64, step);
        self.flush();
    }

    pub(super) fn step(&mut self, summary: &StepSummary, stragglers: impl Iterator<Item = bool>) {
        if let Some(metrics) = &self.metrics {
            metrics.step(summary, stragglers);
        }
        let scalars = [
            ("step/seconds", summary.seconds()),
            ("step/samples_per_second", summary.samples_per_second()),
            ("sync/wait_seconds", summary.wait()),
            ("sync/gradient_bytes", summary.bytes()),
            ("sync/sent_bytes_total", summary.sent()),
            ("ranks/slowest", summary.slowest_rank() as f64),
        ];
        for (name, value) in scalars {
            self.scalar(name, value, summary.number);
        }
    }

    pub(super) fn scalar(&mut self, name: &str, value: f64, step: u64) {
        self.write(|events| events.scalar(name, value, step));
    }

    pub(super) fn flush(&mut self) {
        self.write(EventFile::flush);
    }

    /// Gives the file up with a warning if it can't be written to: a disk that is full or hangs must not end a
    /// training.
    fn write(&mut self, write: impl FnOnce(&mut EventFile) -> Result<()>) {
        if let Some(events) = &mut self.events
            && let Err(error) = write(events)
        {
            tracing::warn!("{error}; training goes on without it");
            self.events = None;
        }
    }
}
