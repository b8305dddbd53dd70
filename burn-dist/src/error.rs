//! The one error type of the crate: what failed, where (rank, peer, operation, sequence number), and
//! what to do about it.
//!
//! Errors are cheap to clone, because the first fatal error of a group is kept and handed to every
//! rank that waits in it and to every later call: all ranks tell the same story.

mod join;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use join::{DifferentOption, JoinFailure, OptionValue};

/// The result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error of a distributed operation.
///
/// `Debug` writes the same sentence as `Display`, so that a `main` that returns this, and a test that unwraps, say
/// it in words.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two ranks made different calls where the same one was due.
    #[error(
        "rank {rank} called {call} while rank {peer} called {peer_call}; every rank of a group must \
         make the same calls in the same order, with the same shapes and types"
    )]
    Mismatch {
        /// The rank whose call differs.
        rank: usize,
        /// Call of this rank.
        call: Arc<Call>,
        /// The rank it was compared with (the lowest that had called).
        peer: usize,
        /// Call of the other rank.
        peer_call: Arc<Call>,
    },

    /// Some ranks did not come to an operation before its deadline.
    #[error(
        "rank {rank} waited {:.1} s in {call}: {} did not come; look at what they do instead, or \
         give the group a longer timeout",
        after.as_secs_f64(), Ranks(missing)
    )]
    Timeout {
        /// The rank that gave up first.
        rank: usize,
        /// Call in which it waited.
        call: Arc<Call>,
        /// Ranks it waited for.
        missing: Vec<usize>,
        /// Time it waited.
        after: Duration,
    },

    /// A rank ended (its worker panicked, failed or returned) while others still needed it.
    #[error("rank {peer} {reason}; the other ranks stop in {}", Place(call.as_deref()))]
    PeerLeft {
        /// The rank that ended.
        peer: usize,
        /// Way in which it ended.
        reason: Departure,
        /// The operation that needed it, where one was under way.
        call: Option<Arc<Call>>,
    },

    /// A process that hosts ranks of the group can't be reached any more: it died, is stopped, or is
    /// cut off.
    #[error(
        "{} of process {process} at {address} can't be reached in {}: the process {cause}; look at \
         what it said last, and at the network between",
        Ranks(ranks), Place(call.as_deref())
    )]
    Lost {
        /// The process, from 0.
        process: usize,
        /// The ranks of the group that it hosts.
        ranks: Vec<usize>,
        /// Its address.
        address: Arc<str>,
        /// The operation that was under way, if one was.
        call: Option<Arc<Call>>,
        /// Event, as "broke its connection: ...".
        cause: Arc<str>,
    },

    /// Somebody called `abort` on the group.
    #[error("rank {rank} aborted the group: {message}")]
    Aborted {
        /// Rank that called it.
        rank: usize,
        /// The reason given.
        message: Arc<str>,
    },

    /// A call that can't be right on its own, before any other rank is looked at.
    #[error("rank {rank}: {call}: {message}")]
    InvalidArgument {
        /// The rank that made the call.
        rank: usize,
        /// The call.
        call: &'static str,
        /// Fault, and the value that would be right.
        message: String,
    },

    /// The ranks attached models that are not the same.
    #[error(
        "the model of rank {rank} differs from that of rank {peer}: {difference}; build it from the \
         same configuration on every rank"
    )]
    ModelMismatch {
        /// The rank whose model differs.
        rank: usize,
        /// The rank it was compared with.
        peer: usize,
        /// The first parameter that differs, and how.
        difference: String,
    },

    /// Parameters that must be equal on all ranks are not.
    #[error(
        "{} hold other parameters than rank {reference}; they stepped with other gradients, another \
         optimizer or another learning rate",
        Ranks(ranks)
    )]
    ReplicasDiffer {
        /// The rank compared with: the lowest of the largest group of equal replicas.
        reference: usize,
        /// The ranks whose parameters differ from it.
        ranks: Vec<usize>,
    },

    /// Backward and `synchronize` were called in an order that would lose gradients.
    #[error("rank {rank}: {message}")]
    Order {
        /// The rank that made the calls.
        rank: usize,
        /// Calls concerned, and the remedy.
        message: String,
    },

    /// The data module was given something it can't serve.
    #[error("data: {message}")]
    Data {
        /// Fault and remedy.
        message: String,
    },

    /// A checkpoint could not be written, or none can be resumed from.
    #[error("checkpoint {}: {message}", path.display())]
    Checkpoint {
        /// The checkpoint, or the folder of all.
        path: Arc<Path>,
        /// Fault and remedy.
        message: String,
    },

    /// A tensor could not be read from or written to its device, or has a type that can't travel.
    #[error("rank {rank}: {operation}: {message}")]
    Tensor {
        /// The rank whose tensor it is.
        rank: usize,
        /// Operation on the tensor.
        operation: &'static str,
        /// Message of the backend.
        message: String,
    },

    /// A control message could not be encoded or decoded.
    #[error(
        "rank {rank}: control message of rank {peer}: {message}; do all ranks run one version?"
    )]
    Control {
        /// The rank that read it.
        rank: usize,
        /// The rank that wrote it.
        peer: usize,
        /// Fault in it.
        message: String,
    },

    /// There are no such devices, or too few.
    #[error("devices: {message}")]
    Devices {
        /// State found, and the remedy.
        message: String,
    },

    /// The operating system refused something the crate needs (a thread, a pool).
    #[error("rank {rank}: {what}: {message}")]
    System {
        /// The rank that asked.
        rank: usize,
        /// Resource asked for.
        what: &'static str,
        /// Message of the operating system.
        message: String,
    },

    /// Output of a run's figures that can't be written or served.
    #[error("{what} {place}: {message}")]
    Observe {
        /// Action that failed.
        what: &'static str,
        /// The file, folder or address.
        place: String,
        /// Message of the operating system, and the remedy.
        message: String,
    },

    /// A rank's own code failed: the error its worker returned, or the message it panicked with.
    ///
    /// What the worker returned is the source, where it was in this process:
    /// `error.source().and_then(|source| source.downcast_ref::<MyError>())`.
    #[error("rank {rank} {reason}")]
    Worker {
        /// The rank.
        rank: usize,
        /// Way in which it ended.
        reason: Departure,
        /// The error itself; none after a panic.
        #[source]
        source: Option<WorkerError>,
    },

    /// A process could not join its job.
    #[error("{}{failure}", Joining(*process, address))]
    Rendezvous {
        /// The process that tells it, where its number is known.
        process: Option<usize>,
        /// The address it is about; empty where none is.
        address: String,
        /// Fault and remedy.
        failure: JoinFailure,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error that a worker returned: the source of [`Error::Worker`].
#[derive(Clone, Debug)]
pub struct WorkerError(Arc<dyn std::error::Error + Send + Sync>);

impl WorkerError {
    pub(crate) fn new(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self(error.into())
    }

    /// The user's error itself, so that it can be downcast. The derived `source` calls this, in place of
    /// `thiserror`'s own method of this name, which would give the [`Arc`].
    fn as_dyn_error(&self) -> &(dyn std::error::Error + 'static) {
        &*self.0
    }
}

/// One call on a group, as error messages name it: `all_reduce #17 f32[128, 10] sum`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Call {
    /// The operation's name, as in the API.
    pub operation: Cow<'static, str>,
    /// Its number in the group's order, from 0.
    pub sequence: u64,
    /// The element type, as Rust writes it; empty where no elements travel.
    pub dtype: Cow<'static, str>,
    /// The shape, `[length]` for a slice.
    pub shape: Vec<usize>,
    /// Other arguments that must agree: a reduction, a root, a peer and tag.
    pub detail: Detail,
}

/// The part of a [`Call`] that only some operations have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Detail {
    /// Reduction of the elements (`sum`, `mean`, ...).
    pub reduction: Option<Cow<'static, str>>,
    /// The root of a rooted collective.
    pub root: Option<usize>,
    /// The receiver of a point-to-point message.
    pub to: Option<usize>,
    /// The sender of a point-to-point message.
    pub from: Option<usize>,
    /// The tag of a point-to-point message.
    pub tag: Option<u64>,
    /// The call of the library that made this one, as a program knows it; none for the program's own.
    pub within: Option<Cow<'static, str>>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.operation, self.sequence)?;
        if !self.dtype.is_empty() {
            write!(f, " {}", self.dtype)?;
        }
        if !self.shape.is_empty() {
            let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
            write!(f, "[{}]", sizes.join(","))?;
        }
        if let Some(reduction) = &self.detail.reduction {
            write!(f, " {reduction}")?;
        }
        if let Some(root) = self.detail.root {
            write!(f, " root {root}")?;
        }
        if let Some(to) = self.detail.to {
            write!(f, " to rank {to}")?;
        }
        if let Some(from) = self.detail.from {
            write!(f, " from rank {from}")?;
        }
        if let Some(tag) = self.detail.tag {
            write!(f, " tag {tag}")?;
        }
        if let Some(within) = &self.detail.within {
            write!(f, " in {within}")?;
        }
        Ok(())
    }
}

/// End of a rank that others still needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Its worker panicked, with this message.
    Panicked(Arc<str>),
    /// Its worker returned this error.
    Failed(Arc<str>),
    /// Its worker returned, or dropped its last handle of the group.
    Returned,
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::Failed(message) => write!(f, "failed: {message}"),
            Self::Returned => f.write_str("left the group before the others were done"),
        }
    }
}

/// Writes `rank 3`, `ranks 3 and 5` or `ranks 1, 3 and 5`.
pub(crate) struct Ranks<'a>(pub(crate) &'a [usize]);

impl fmt::Display for Ranks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no rank"),
            [one] => write!(f, "rank {one}"),
            [first @ .., last] => {
                let first: Vec<String> = first.iter().map(usize::to_string).collect();
                write!(f, "ranks {} and {last}", first.join(", "))
            }
        }
    }
}

/// Writes `process 3, joining the job at 10.0.0.1:29500: `, as far as it is known.
struct Joining<'a>(Option<usize>, &'a str);

impl fmt::Display for Joining<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (None, "") => f.write_str("joining the job: "),
            (None, address) => write!(f, "joining the job at {address}: "),
            (Some(process), "") => write!(f, "process {process}, joining the job: "),
            (Some(process), address) => {
                write!(f, "process {process}, joining the job at {address}: ")
            }
        }
    }
}

/// Writes the operation that was interrupted, or says that there was none.
struct Place<'a>(Option<&'a Call>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(call) => call.fmt(f),
            None => f.write_str("their next operation"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_both_sides() {
        let call = |operation: &'static str, shape: &[usize]| {
            Arc::new(Call {
                operation: operation.into(),
                sequence: 17,
                dtype: "f32".into(),
                shape: shape.to_vec(),
                detail: Detail::default(),
            })
        };
        let error = Error::Mismatch {
            rank: 2,
            call: call("broadcast", &[128]),
            peer: 0,
            peer_call: call("all_reduce", &[128, 10]),
        };
        assert!(error.to_string().starts_with(
            "rank 2 called broadcast #17 f32[128] while rank 0 called all_reduce #17 f32[128,10]"
        ));
    }

    #[test]
    fn ranks_are_listed_as_a_person_would() {
        assert_eq!(Ranks(&[3]).to_string(), "rank 3");
        assert_eq!(Ranks(&[3, 5]).to_string(), "ranks 3 and 5");
        assert_eq!(Ranks(&[1, 3, 5]).to_string(), "ranks 1, 3 and 5");
    }
}
