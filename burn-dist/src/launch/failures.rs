//! The failures of the ranks of a run: what each means, and which started it.

use parking_lot::Mutex;
use std::any::Any;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Departure, Error, WorkerError};
use crate::group::ProcessGroup;

/// The failures of the ranks, in the order in which they came.
#[derive(Default)]
pub(super) struct Failures {
    noted: Mutex<Vec<Error>>,
    /// File for a failure that began in this process.
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
        self.noted.lock().push(error.clone());
        if let Some(file) = &self.file
            && began_with(group.global_rank(), error)
        {
            write_first(file, error);
        }
        let reason = match error {
            Error::Worker { reason, .. } => reason.clone(),
            other => Departure::Failed(other.to_string().into()),
        };
        if of_a_group(error) {
            // Not this rank's doing, so its other groups are told the cause rather than its end.
            group.fail(error);
        }
        group.leave(&reason);
    }

    /// The failure that started it: the first, unless that only reports another rank's end.
    pub(super) fn first(&self) -> Option<Error> {
        let failures = self.noted.lock();
        let own = failures
            .iter()
            .find(|error| !matches!(error, Error::PeerLeft { .. }));
        own.or(failures.first()).cloned()
    }
}

/// True for the failure of a whole group.
fn of_a_group(error: &Error) -> bool {
    matches!(
        error,
        Error::Mismatch { .. }
            | Error::Timeout { .. }
            | Error::PeerLeft { .. }
            | Error::Lost { .. }
            | Error::Aborted { .. }
    )
}

/// True if a failure began with the rank that reports it, as far as the rank can tell.
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

/// A worker's error: the library's own if it is one or was caused by one, at whatever depth; else the rank's failure.
pub(super) fn failure_of(rank: usize, cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&*cause);
    let mut message = String::new();
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref::<Error>() {
            return with_rank(rank, own.clone());
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
        source: Some(WorkerError::new(cause)),
    }
}

/// Names the rank in an error that does not by itself. (A checkpoint's is the same on all ranks; devices, outputs and
/// joining are a process's.)
fn with_rank(rank: usize, error: Error) -> Error {
    match error {
        Error::Data { message } => Error::Data {
            message: format!("rank {rank}: {message}"),
        },
        other => other,
    }
}

/// Returns the message of a panic.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(with a value that is not a message)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as StdError;

    /// An error that was caused by another.
    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        source: Option<Box<dyn StdError + Send + Sync>>,
    }

    fn in_two(error: impl StdError + Send + Sync + 'static) -> Box<dyn StdError + Send + Sync> {
        let outer = |text, source| {
            Box::new(Outer {
                text,
                source: Some(source),
            })
        };
        outer("training", outer("epoch 3", Box::new(error)))
    }

    #[test]
    fn the_library_s_errors_keep_their_kind_at_any_depth() {
        let order = || Error::Order {
            rank: 1,
            message: "synchronize twice".into(),
        };
        let differ = || Error::ReplicasDiffer {
            reference: 0,
            ranks: vec![1],
        };
        let data = || Error::Data {
            message: "no samples".into(),
        };
        for (failure, due) in [
            (failure_of(1, Box::new(order())), order().to_string()),
            (failure_of(1, in_two(order())), order().to_string()),
            (failure_of(1, in_two(differ())), differ().to_string()),
            (
                failure_of(1, in_two(data())),
                "data: rank 1: no samples".into(),
            ),
        ] {
            assert!(!matches!(failure, Error::Worker { .. }), "{failure}");
            assert_eq!(failure.to_string(), due);
        }
    }

    #[test]
    fn the_user_s_own_error_is_the_source() {
        let own = Outer {
            text: "no label 11",
            source: None,
        };
        let failure = failure_of(2, Box::new(own));
        assert_eq!(failure.to_string(), "rank 2 failed: no label 11");
        assert_eq!(format!("{failure:?}"), failure.to_string());
        let source = failure.source().unwrap().downcast_ref::<Outer>();
        assert_eq!(source.unwrap().text, "no label 11");
    }
}
