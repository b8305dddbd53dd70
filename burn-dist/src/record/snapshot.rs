//! A copy of the last operations of a process's ranks: what travels, is written, and is compared.
//!
//! Times are microseconds since the process began the job. Those of different processes are not
//! compared with one another, only how long something has lasted.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Call;

/// The name of the group that all others are split from.
pub(super) const ROOT: &str = "all ranks";

/// The last operations of the ranks of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// The global ranks of each group's members, by the group's name.
    pub(crate) groups: BTreeMap<String, Vec<usize>>,
    pub(crate) ranks: Vec<RankRecord>,
}

/// The last operations of one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RankRecord {
    /// The global rank.
    pub(crate) rank: usize,
    /// Time of this copy.
    pub(crate) taken: u64,
    /// True if older operations have been dropped.
    pub(crate) full: bool,
    /// The oldest first.
    pub(crate) operations: Vec<Operation>,
}

/// One operation of one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    /// The name of the group.
    pub(crate) group: String,
    pub(crate) call: Call,
    pub(crate) state: State,
    pub(crate) entered: u64,
    /// Time at which all ranks of the process had come, if there are other processes.
    pub(crate) exchanged: Option<u64>,
    pub(crate) ended: Option<u64>,
}

/// Progress of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// For the ranks of its process, or for a message.
    Waiting,
    /// The ranks of its process have met; it waits for other processes.
    Exchanged,
    Done,
    Failed,
}

impl Operation {
    /// True for a message from one rank to another. Messages are counted apart from the operations that all
    /// ranks make.
    pub(crate) fn is_message(&self) -> bool {
        self.call.detail.to.is_some() || self.call.detail.from.is_some()
    }

    /// True if the rank has begun it and not finished it.
    pub(crate) fn is_open(&self) -> bool {
        self.state != State::Done
    }

    /// Returns the time the rank was in it, at `now` of its process.
    pub(crate) fn lasted(&self, now: u64) -> Duration {
        Duration::from_micros(self.ended.unwrap_or(now).saturating_sub(self.entered))
    }
}

impl Snapshot {
    /// Lets the older half of each rank's operations go; false if there is nothing more to let go.
    pub(crate) fn halve(&mut self) -> bool {
        let mut less = false;
        for record in &mut self.ranks {
            let ended = record.operations.len().div_ceil(2);
            less |= ended > 0;
            record.full |= ended > 0;
            record.operations.drain(..ended);
        }
        less
    }

    /// Keeps the records of these ranks alone.
    pub(crate) fn retain(&mut self, is_due: impl Fn(usize) -> bool) {
        self.ranks.retain(|record| is_due(record.rank));
    }
}
