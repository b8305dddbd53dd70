//! What can go wrong before a started program has its say; what it reports itself is told by its exit
//! code.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What failed, where, and what to do about it.
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

    /// One of the processes could not be started. Those that ran already have been ended.
    #[error(
        "cannot start `{}` as process {process}: {cause}; give its path, or put it on the PATH",
        program.display()
    )]
    Start {
        program: OsString,
        process: usize,
        cause: io::Error,
    },

    /// The system refused what processes are started and ended with.
    #[error("cannot {what}: {cause}")]
    System {
        what: &'static str,
        cause: io::Error,
    },

    /// Arguments that are right each, but not together.
    #[error("{0}; --help lists what goes together")]
    Usage(String),

    /// A file for the user.
    #[error("cannot write {}: {cause}; name a file in a folder that is there", file.display())]
    Write { file: PathBuf, cause: io::Error },

    /// The library that draws.
    #[error("cannot draw the plot: {0}; leave out --plot")]
    Plot(String),

    /// Another program listens where the job's processes are to meet.
    #[error(
        "port {port} of this machine is taken by another program (`ss -ltnp` names it on Linux): end that, \
         or choose another port with --master-port, or with MASTER_PORT for the job"
    )]
    PortTaken { port: u16 },

    /// The system does not let anyone listen there.
    #[error("nobody may listen on port {port} of this machine ({cause}): choose one from 1024 up")]
    Port { port: u16, cause: io::Error },

    /// A variable of the environment holds what can't be right.
    #[error("{name} is {value:?}; expected: {expected}")]
    Variable {
        name: &'static str,
        value: OsString,
        expected: &'static str,
    },

    /// There is no such interface.
    #[error(
        "--interface {name}: this machine has no interface of that name or address; it has {known}"
    )]
    Interface { name: String, known: String },

    /// `launch-guard` was started by hand.
    #[error("launch-guard is a part of `cargo xtask launch`, which starts it itself")]
    Guard,
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

    /// What the program ends with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}
