//! Errors of the command line. A program that was started reports its own failures by its exit code.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// Failure of a subcommand before the work of others begins.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A process could not be started.
    #[error(transparent)]
    Launch(#[from] burn_dist_launcher::Error),

    /// Arguments that are right each, but not together.
    #[error("{0}; `burn-dist run --help` shows examples")]
    Usage(String),

    /// Several nodes have no secret in common.
    #[error(
        "the processes of {nodes} nodes prove a secret to one another, and none is set: make one with `openssl \
         rand -hex 32`, and set BURN_DIST_SECRET to it on every node, or BURN_DIST_SECRET_FILE to the path of a \
         file that holds it"
    )]
    NoSecret { nodes: u32 },

    /// The folder for log files could not be made.
    #[error("cannot make the folder {}: {cause}; give another to --log-dir", folder.display())]
    LogDir { folder: PathBuf, cause: io::Error },

    /// The system refused something that every job needs.
    #[error("cannot {what}: {cause}")]
    System {
        what: &'static str,
        cause: io::Error,
    },

    /// Another program listens on the port of the job.
    #[error(
        "port {port} of this machine is taken by another program (`ss -ltnp` names it on Linux): end that, \
         or choose another port with --master-port, or with MASTER_PORT for the job"
    )]
    PortTaken { port: u16 },

    /// The system lets nobody listen on the port.
    #[error("nobody may listen on port {port} of this machine ({cause}): choose one from 1024 up")]
    Port { port: u16, cause: io::Error },

    /// A variable of the environment has a wrong value.
    #[error("{name} is {value:?}; expected: {expected}")]
    Variable {
        name: &'static str,
        value: OsString,
        expected: &'static str,
    },

    /// No interface has this name.
    #[error(
        "--interface {name}: this machine has no interface of that name or address; it has {known}"
    )]
    Interface { name: String, known: String },
}

impl Error {
    /// For `map_err`: "cannot *what*", with the system's reason.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::System { what, cause }
    }
}
