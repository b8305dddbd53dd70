//! Errors of starting processes. A process that was started reports its own failures by its exit code.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// A process could not be started, or the system refused what its life needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program could not be started. Processes that ran already have been ended.
    #[error(
        "cannot start `{}` as process {process}: {cause}; {}",
        program.display(), advice(cause)
    )]
    Start {
        /// The program as it was given.
        program: OsString,
        /// Label of the process.
        process: String,
        /// Reason of the system.
        cause: io::Error,
    },

    /// A log file could not be made. Processes that ran already have been ended.
    #[error("cannot write the log file {}: {cause}; give a folder that can be written to", file.display())]
    Log {
        /// The file.
        file: PathBuf,
        /// Reason of the system.
        cause: io::Error,
    },

    /// The system refused a thread, a signal handler or a process group.
    #[error("cannot {what}: {cause}")]
    System {
        /// The attempt, after "cannot".
        what: &'static str,
        /// Reason of the system.
        cause: io::Error,
    },

    /// The guard was started by hand.
    #[error("launch-guard is started by the launcher itself: use `burn-dist run`")]
    Guard,
}

impl Error {
    /// For `map_err`: "cannot *what*", with the system's reason.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::System { what, cause }
    }

    /// For `map_err`: the log file can't be written, with the system's reason.
    pub(crate) fn log(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |cause| Self::Log { file, cause }
    }
}

/// Returns what helps against a program that could not be started.
fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "give a file that is executable",
        _ => "give its path, or put it on the PATH",
    }
}
