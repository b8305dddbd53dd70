//! The failures of the ranks of a run: what each means, and which started it.
//!
//! Callers: `threads`.

use std::any::Any;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Departure, Error};
use crate::group::ProcessGroup;

/// The failures of the ranks, in the order in which they came.
#[derive(Default)]
pub(super) struct Failures {
    noted: Mutex<Vec<Error>>,
    /// Where a failure is written that began in this process.
    file: Option<PathBuf>,
}

impl Failures {
    pub(super) fn new(file: Option<&Path>) -> Self {
        let file = file.map(Path::to_path_buf);
        let noted = Mutex::default();
        Self { noted, file }
    }

    /// Notes a rank's failure, and then tells the group: what the others make of it comes later.
    pub(super) fn note(&self, group: &ProcessGroup, error: &Error) {
        let own = match error {
            Error::Worker { reason, .. } => Some(reason.clone()),
            Error::System { .. } => Some(Departure::Failed(error.to_string().into())),
            _ => None,
        };
        self.noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(error.clone());
        if let Some(file) = &self.file
            && began_with(group.global_rank(), error)
        {
            write_first(file, error);
        }
        let reason = own.unwrap_or_else(|| {
            // Not this rank's doing, so its other groups are told the cause rather than its end.
            group.fail(error);
            Departure::Failed(error.to_string().into())
        });
        group.leave(&reason);
    }

    /// The failure that started it: the first, unless that only reports another rank's end.
    pub(super) fn first(&self) -> Option<Error> {
        let failures = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let own = failures
            .iter()
            .find(|error| !matches!(error, Error::PeerLeft { .. }));
        own.or(failures.first()).cloned()
    }
}

/// Whether a failure began with the rank that reports it, as far as it can tell.
fn began_with(rank: usize, error: &Error) -> bool {
    match error {
        Error::PeerLeft { peer: at, .. } | Error::Aborted { rank: at, .. } => *at == rank,
        Error::Lost { .. } => false,
        _ => true,
    }
}

/// Writes a failure, unless another was written before.
fn write_first(file: &Path, error: &Error) {
    let written = File::create_new(file).and_then(|mut file| writeln!(file, "{error}"));
    match written {
        Err(cause) if cause.kind() != ErrorKind::AlreadyExists => {
            tracing::warn!("the failure was not written to {}: {cause}", file.display());
        }
        _ => {}
    }
}

/// A worker's error: the group's own error if it is one, at whatever depth; else the rank's failure.
pub(super) fn failure_of(rank: usize, cause: &(dyn std::error::Error + 'static)) -> Error {
    let mut next = Some(cause);
    let mut message = String::new();
    while let Some(error) = next {
        if let Some(
            group @ (Error::Mismatch { .. }
            | Error::Timeout { .. }
            | Error::PeerLeft { .. }
            | Error::Lost { .. }
            | Error::Aborted { .. }),
        ) = error.downcast_ref::<Error>()
        {
            return group.clone();
        }
        if !message.is_empty() {
            message.push_str(": ");
        }
        message.push_str(&error.to_string());
        next = error.source();
    }
    Error::Worker {
        rank,
        reason: Departure::Failed(message.into()),
    }
}

/// What a panic said.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(with a value that is not a message)".to_owned())
}
