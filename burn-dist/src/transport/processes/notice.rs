//! What processes tell one another: of a group, its failure and how ranks left it; of themselves, what
//! their ranks did last.
//!
//! Invariant: whatever bytes come are a letter or an error.

use serde::{Deserialize, Serialize};

use super::failure::{Failure, Parting};
use super::spans::Spans;
use crate::codec;
use crate::error::Departure;
use crate::record::Snapshot;
#[cfg(any(test, fuzzing))]
pub(crate) use fuzzing::check_notice;
#[cfg(test)]
pub(crate) use fuzzing::notice_seeds;

/// Something that the other processes of a group must know at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// The group has failed.
    Failed {
        failure: Box<Failure>,
        /// The operations that are done, as far as the process that tells it goes: it has sent all that the
        /// others need for them.
        done: Spans,
        /// True if the process makes its part of a report.
        reports: bool,
    },
    /// A rank has ended.
    Left {
        /// The rank within the group.
        rank: usize,
        reason: Parting,
        /// The operations that it has come to.
        reached: Spans,
        /// Number of messages it has sent to each rank of other processes.
        sent: Vec<(usize, u64)>,
        /// True if a better reason may come.
        early: bool,
    },
}

/// Message from one process to all others.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Letter {
    /// Of the group with this number.
    Of(u64, Notice),
    /// Last operations of the process's ranks: a report is under way.
    Records(Snapshot),
    /// The records of all have been compared.
    Compared,
}

impl Letter {
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        codec::encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        codec::decode(bytes)
    }
}

impl Notice {
    /// The same departure, for which a better reason may come.
    pub(crate) fn with_early(mut self, is_early: bool) -> Self {
        if let Self::Left { early, .. } = &mut self {
            *early = is_early;
        }
        self
    }

    /// A failure of the group, and the operations that are done.
    pub(crate) fn failed(failure: Failure, done: &Spans, reports: bool) -> Self {
        Self::Failed {
            failure: Box::new(failure),
            done: done.shortened(),
            reports,
        }
    }

    /// The bytes that tell the other processes.
    pub(crate) fn encode(self, group: u64) -> Result<Vec<u8>, String> {
        Letter::Of(group, self).encode()
    }

    /// Makes the notice of a rank's end.
    pub(crate) fn left(
        rank: usize,
        reason: &Departure,
        reached: &Spans,
        sent: Vec<(usize, u64)>,
    ) -> Self {
        Self::Left {
            rank,
            reason: reason.into(),
            reached: reached.shortened(),
            sent,
            early: false,
        }
    }
}

#[cfg(any(test, fuzzing))]
mod fuzzing;
#[cfg(test)]
mod tests;
