//! The flags of trace, TensorBoard and Prometheus.

use crate::error::Result;
use crate::observe::Outputs;
use clap::Args;
use std::path::PathBuf;

/// Outputs to write while a program runs.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Observation")]
pub struct ObserveArgs {
    /// Write a trace of all ranks' threads for ui.perfetto.dev to this file; process 3 of a job writes to FILE's
    /// name with a 3 in it [default: none]
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Folder for TensorBoard's event files; made if missing [default: none]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,

    /// Serve Prometheus at this port of this machine, or at this HOST:PORT, as /metrics [default: off]
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
}

impl ObserveArgs {
    /// Opens TensorBoard's files and the endpoint for Prometheus, for the process of rank 0.
    ///
    /// # Errors
    /// [`Error::Observe`](crate::Error::Observe) if a file can't be made or the address can't be served.
    pub fn outputs(&self) -> Result<Outputs> {
        let mut outputs = Outputs::new();
        if let Some(folder) = &self.log_dir {
            outputs = outputs.with_log_dir(folder)?;
        }
        if let Some(address) = &self.metrics {
            outputs = outputs.with_metrics(address)?;
        }
        Ok(outputs)
    }
}
