//! The flags of `doctor`, and of `cargo xtask doctor`, which shares this file: it needs clap alone, and the
//! flags of all programs.

use crate::job_options::JobOptions;
use clap::{Args, value_parser};
use std::path::PathBuf;

/// What to measure, and where to write it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) job: JobOptions,

    /// Samples per replica and step
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..=65536))]
    pub(crate) batch_size: u32,

    /// Size of buckets that the job is to train with, in megabytes [default: that of DdpConfig]
    #[arg(long, value_name = "MB", value_parser = megabytes)]
    pub(crate) bucket_cap_mb: Option<f64>,

    /// Seconds to wait for the job's other processes
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u32).range(1..=86400))]
    pub(crate) timeout: u32,

    /// Write the report to this file as JSON, too [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

fn megabytes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(size) if size.is_finite() && size > 0.0 => Ok(size),
        Ok(size) => Err(format!("{size} is not a number above 0")),
        Err(cause) => Err(cause.to_string()),
    }
}
