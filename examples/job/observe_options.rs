//! The flags with which a training program shows what happens. `cargo xtask` shares this file: it needs clap
//! alone.

use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

/// What to write down of the run while it runs.
#[derive(Args, Clone, Debug)]
pub(crate) struct ObserveOptions {
    /// Write a trace of all ranks' threads for ui.perfetto.dev to this file; process 3 of a job writes
    /// FILE's name with a 3 in it [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,

    /// Folder for TensorBoard's event files; made if missing [default: none]
    #[arg(long, value_name = "DIR")]
    pub(crate) log_dir: Option<PathBuf>,

    /// Serve Prometheus at this port of this machine, or at this HOST:PORT, as /metrics [default: off]
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<String>,
}

impl ObserveOptions {
    /// The flags that come to these options.
    #[allow(dead_code, reason = "xtask passes them on")]
    pub(crate) fn flags(&self) -> Vec<OsString> {
        let mut flags = Vec::new();
        let mut pair = |flag: &str, value: Option<OsString>| {
            flags.extend(value.into_iter().flat_map(|value| [flag.into(), value]));
        };
        pair("--trace", self.trace.clone().map(Into::into));
        pair("--log-dir", self.log_dir.clone().map(Into::into));
        pair("--metrics", self.metrics.clone().map(Into::into));
        flags
    }
}
