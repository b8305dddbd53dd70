//! Errors of building and starting programs. A program that was started reports its own failures by its exit code.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Cargo could not be started at all.
    #[error(
        "cannot start `{}`: {cause}; install Rust with its cargo, or put cargo on the PATH",
        program.display()
    )]
    Cargo { program: OsString, cause: io::Error },

    /// Cargo built the program, but did not say where it is.
    #[error("cargo built `{name}` but named no file for it: {cause}")]
    Unbuilt { name: String, cause: String },

    /// A program that cargo has built could not be started.
    #[error("cannot start `{}`, which cargo has built: {cause}", program.display())]
    Start { program: OsString, cause: io::Error },

    /// A program could not be started or watched.
    #[error(transparent)]
    Launch(#[from] burn_dist_launcher::Error),

    /// The system refused something.
    #[error("cannot {what}: {cause}")]
    System {
        what: &'static str,
        cause: io::Error,
    },

    /// Arguments that are right each, but not together.
    #[error("{0}; --help lists the flags")]
    Usage(String),

    /// A file could not be written.
    #[error("cannot write {}: {cause}; name a file in a folder that is there", file.display())]
    Write { file: PathBuf, cause: io::Error },

    /// The plot could not be drawn.
    #[error("cannot draw the plot: {0}; leave out --plot")]
    Plot(String),
}

impl Error {
    /// For `map_err`: "cannot *what*", with the system's reason.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::System { what, cause }
    }

    /// For `map_err`: the file can't be written, with the system's reason.
    pub(crate) fn write(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |cause| Self::Write { file, cause }
    }

    /// Returns the exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}
