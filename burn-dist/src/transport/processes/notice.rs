//! What processes tell one another: of a group, its failure and how ranks left it; of themselves, what
//! their ranks did last.
//!
//! Invariant: a notice is small whatever a user's message says, and whatever bytes come are a letter or
//! an error.
//!
//! Callers: `registry` reads them, `threads` makes and heeds them, as `reporter` does those of records.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control;
use crate::error::{Call, Departure, Error};
use crate::record::Snapshot;

/// The most of a message's text that travels.
const LONGEST_TEXT: usize = 8 << 10;

/// Something that the other processes of a group must know at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// The group has failed.
    Failed {
        failure: Box<Failure>,
        /// The operations before this one are done, as far as the process that tells it goes: it has
        /// sent all that the others need for them.
        done: u64,
        /// Whether the process makes its part of a report.
        reports: bool,
    },
    /// A rank has ended.
    Left {
        /// The rank within the group.
        rank: usize,
        reason: Parting,
        /// It has come to all operations before this one.
        reached: u64,
        /// How many messages it has sent to ranks elsewhere.
        sent: Vec<(usize, u64)>,
    },
}

/// What one process tells all others.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Letter {
    /// Of the group with this number.
    Of(u64, Notice),
    /// What the ranks of the process did last: a report is under way.
    Records(Snapshot),
    /// The records of all have been compared.
    Compared,
}

impl Letter {
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        control::encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        control::decode(bytes)
    }
}

impl Notice {
    /// The bytes that tell the other processes.
    pub(crate) fn encode(self, group: u64) -> Result<Vec<u8>, String> {
        Letter::Of(group, self).encode()
    }

    /// How a rank ended.
    pub(crate) fn left(
        rank: usize,
        reason: &Departure,
        reached: u64,
        sent: Vec<(usize, u64)>,
    ) -> Self {
        Self::Left {
            rank,
            reason: reason.into(),
            reached,
            sent,
        }
    }
}

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

/// What must hold of any bytes that come as a notice.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_notice(bytes: &[u8]) {
    use crate::record::compare;
    crate::fuzzing::check_message::<Letter>(bytes);
    match Letter::decode(bytes) {
        Ok(Letter::Of(_, Notice::Failed { failure, .. })) => {
            let error = Error::from(*failure);
            assert!(!error.to_string().is_empty());
            // It is told on in turn.
            let again = Notice::Failed {
                failure: Box::new(Failure::new(&error, 0)),
                done: 0,
                reports: false,
            };
            assert!(again.encode(0).is_ok());
        }
        Ok(Letter::Records(mut snapshot)) => {
            let comparison = compare(&[snapshot.clone(), Snapshot::default()], 4);
            assert!(!comparison.to_string().is_empty());
            // In the end there is nothing to let go.
            while snapshot.halve() {}
            assert!(snapshot.ranks.iter().all(|rank| rank.operations.is_empty()));
        }
        Ok(Letter::Of(..) | Letter::Compared) | Err(_) => {}
    }
}

/// Notices of each kind, about a call.
#[cfg(test)]
pub(crate) fn notice_seeds(call: &Call) -> Vec<(&'static str, Vec<u8>)> {
    use crate::record::{Operation, RankRecord, State};
    let call = Arc::new(call.clone());
    let failed = |error: Error| {
        let failure = Box::new(Failure::new(&error, 3));
        let notice = Notice::Failed {
            failure,
            done: 4,
            reports: true,
        };
        notice.encode(9).unwrap()
    };
    let reason = Departure::Panicked("index 7 is out of bounds".into());
    let operation = |state, ended| Operation {
        group: "all ranks".to_owned(),
        call: (*call).clone(),
        state,
        entered: 70_000,
        exchanged: None,
        ended,
    };
    let record = |rank, operations| RankRecord {
        rank,
        taken: 90_000,
        full: true,
        operations,
    };
    let records = Snapshot {
        groups: [("all ranks".to_owned(), vec![0, 1, 2])].into(),
        ranks: vec![
            record(0, vec![operation(State::Waiting, None)]),
            record(1, vec![operation(State::Done, Some(80_000))]),
        ],
    };
    vec![
        ("records", Letter::Records(records).encode().unwrap()),
        ("compared", Letter::Compared.encode().unwrap()),
        (
            "left",
            Notice::left(1, &reason, 70_000, vec![(0, 3), (2, 1)])
                .encode(9)
                .unwrap(),
        ),
        (
            "mismatch",
            failed(Error::Mismatch {
                rank: 1,
                call: call.clone(),
                peer: 0,
                peer_call: call.clone(),
            }),
        ),
        (
            "timeout",
            failed(Error::Timeout {
                rank: 1,
                call: call.clone(),
                missing: vec![2, 3],
                after: Duration::from_millis(1500),
            }),
        ),
        (
            "lost",
            failed(Error::Lost {
                process: 1,
                ranks: vec![2, 3],
                address: "10.0.0.2:7000".into(),
                call: Some(call),
                cause: "broke its connection".into(),
            }),
        ),
        (
            "aborted",
            failed(Error::Aborted {
                rank: 2,
                message: "enough".into(),
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Detail;
    use proptest::prelude::*;

    fn round_trip(error: &Error) -> Error {
        let bytes = Notice::Failed {
            failure: Box::new(Failure::new(error, 3)),
            done: 4,
            reports: true,
        };
        let bytes = bytes.encode(9).unwrap();
        match Letter::decode(&bytes).unwrap() {
            Letter::Of(
                9,
                Notice::Failed {
                    failure,
                    done: 4,
                    reports: true,
                },
            ) => (*failure).into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn failures_read_the_same_elsewhere() {
        let call = Arc::new(Call {
            operation: "all_reduce".into(),
            sequence: 5,
            dtype: "f32".into(),
            shape: vec![2, 3],
            detail: Detail {
                reduction: Some("sum".into()),
                ..Detail::default()
            },
        });
        let failures = [
            Error::Mismatch {
                rank: 1,
                call: call.clone(),
                peer: 0,
                peer_call: call.clone(),
            },
            Error::Timeout {
                rank: 1,
                call: call.clone(),
                missing: vec![2, 3],
                after: Duration::from_millis(1500),
            },
            Error::PeerLeft {
                peer: 4,
                reason: Departure::Panicked("oh".into()),
                call: Some(call.clone()),
            },
            Error::Aborted {
                rank: 2,
                message: "enough".into(),
            },
            Error::Lost {
                process: 1,
                ranks: vec![2, 3],
                address: "10.0.0.2:7000".into(),
                call: Some(call),
                cause: "broke its connection".into(),
            },
        ];
        for error in failures {
            assert_eq!(round_trip(&error).to_string(), error.to_string());
        }
        let own = Error::Data {
            message: "x".repeat(1 << 20),
        };
        let told = round_trip(&own).to_string();
        assert!(told.starts_with("rank 3 failed: data: xxx"), "{told}");
        assert!(told.len() < 2 * LONGEST_TEXT);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_letter_or_an_error(bytes: Vec<u8>) {
            // It must return; what it returns depends on the bytes.
            let _ = Letter::decode(&bytes);
        }
    }
}
