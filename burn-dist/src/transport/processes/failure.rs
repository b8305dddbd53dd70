//! How a group fails, and how a rank ends, as it travels between processes.
//!
//! Invariant: the wire form is small, whatever a user's message says; what is read of it says the same as
//! what was told, but for the length of texts.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Call, Departure, Error};

/// The most of a message's text that travels.
pub(super) const LONGEST_TEXT: usize = 8 << 10;

/// A [`Departure`] as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Parting {
    Panicked(String),
    Failed(String),
    Returned,
}

impl From<&Departure> for Parting {
    fn from(reason: &Departure) -> Self {
        match reason {
            Departure::Panicked(message) => Self::Panicked(shortened(message)),
            Departure::Failed(message) => Self::Failed(shortened(message)),
            Departure::Returned => Self::Returned,
        }
    }
}

impl From<Parting> for Departure {
    fn from(reason: Parting) -> Self {
        match reason {
            Parting::Panicked(message) => Self::Panicked(message.into()),
            Parting::Failed(message) => Self::Failed(message.into()),
            Parting::Returned => Self::Returned,
        }
    }
}

/// A group's failure as it travels. Ranks are global ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    Mismatch {
        rank: usize,
        call: Call,
        peer: usize,
        peer_call: Call,
    },
    Timeout {
        rank: usize,
        call: Call,
        missing: Vec<usize>,
        after: Duration,
    },
    PeerLeft {
        peer: usize,
        reason: Parting,
        call: Option<Call>,
    },
    Aborted {
        rank: usize,
        message: String,
    },
    Lost {
        process: usize,
        ranks: Vec<usize>,
        address: String,
        call: Option<Call>,
        cause: String,
    },
}

impl Failure {
    /// The wire form of a failure that `rank` found. One that concerns that rank alone tells the
    /// others how it ended.
    pub(crate) fn new(error: &Error, rank: usize) -> Self {
        match error.clone() {
            Error::Mismatch {
                rank,
                call,
                peer,
                peer_call,
            } => Self::Mismatch {
                rank,
                call: Arc::unwrap_or_clone(call),
                peer,
                peer_call: Arc::unwrap_or_clone(peer_call),
            },
            Error::Timeout {
                rank,
                call,
                missing,
                after,
            } => Self::Timeout {
                rank,
                call: Arc::unwrap_or_clone(call),
                missing,
                after,
            },
            Error::PeerLeft { peer, reason, call } => Self::PeerLeft {
                peer,
                reason: (&reason).into(),
                call: call.map(Arc::unwrap_or_clone),
            },
            Error::Aborted { rank, message } => Self::Aborted {
                rank,
                message: shortened(&message),
            },
            Error::Lost {
                process,
                ranks,
                address,
                call,
                cause,
            } => Self::Lost {
                process,
                ranks,
                address: shortened(&address),
                call: call.map(Arc::unwrap_or_clone),
                cause: shortened(&cause),
            },
            other => Self::PeerLeft {
                peer: rank,
                reason: Parting::Failed(shortened(&other.to_string())),
                call: None,
            },
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Mismatch {
                rank,
                call,
                peer,
                peer_call,
            } => Self::Mismatch {
                rank,
                call: call.into(),
                peer,
                peer_call: peer_call.into(),
            },
            Failure::Timeout {
                rank,
                call,
                missing,
                after,
            } => Self::Timeout {
                rank,
                call: call.into(),
                missing,
                after,
            },
            Failure::PeerLeft { peer, reason, call } => Self::PeerLeft {
                peer,
                reason: reason.into(),
                call: call.map(Arc::new),
            },
            Failure::Aborted { rank, message } => Self::Aborted {
                rank,
                message: message.into(),
            },
            Failure::Lost {
                process,
                ranks,
                address,
                call,
                cause,
            } => Self::Lost {
                process,
                ranks,
                address: address.into(),
                call: call.map(Arc::new),
                cause: cause.into(),
            },
        }
    }
}

/// The beginning of a text, if it is long.
fn shortened(text: &str) -> String {
    if text.len() <= LONGEST_TEXT {
        return text.to_owned();
    }
    let end = (0..=LONGEST_TEXT)
        .rev()
        .find(|&end| text.is_char_boundary(end));
    format!("{} ...", &text[..end.unwrap_or(0)])
}
