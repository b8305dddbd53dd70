//! Who is behind, in which operation: what the records of all ranks say together.
//!
//! In each group, the first operation that a rank has come to and not finished is looked at, and what
//! every other member did about it. Messages between two ranks, which are counted apart, are looked at
//! one by one. The result is a pure function of the records, which may say anything: they come from
//! other processes.

mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use super::snapshot::{Operation, RankRecord, Snapshot, State};
use crate::error::Call;

/// Result of comparing the records of all ranks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Waits found, those first that no other finding explains.
    findings: Vec<BlockedCall>,
    /// Ranks without a record.
    silent: Vec<usize>,
}

/// An operation in which ranks wait.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BlockedCall {
    group: String,
    call: Call,
    /// Ranks that wait in it; at least one.
    waiting: Vec<usize>,
    longest: Duration,
    is_message: bool,
    /// State of the ranks that are waited for.
    others: Vec<Other>,
}

/// Ranks that do the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    ranks: Vec<usize>,
    what: What,
    /// Time it has lasted, if known; of several ranks, the longest.
    since: Option<Duration>,
}

/// State of a rank with regard to an operation in which others wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a report has few")]
enum What {
    /// It has not come to it.
    Behind {
        /// Last operation it finished in the group, or in any group if a message is waited for.
        last: Option<Call>,
        /// Group and call in which it waits itself.
        now: Option<(String, Call)>,
    },
    /// It came to another operation with this number.
    Differs(Call),
    /// It has finished it.
    Done,
    /// There is no record of it.
    Silent,
}

/// Compares the records of a job with this number of ranks. The first record of a rank counts.
pub(crate) fn compare(snapshots: &[Snapshot], ranks: usize) -> Comparison {
    let mut records = BTreeMap::new();
    let mut groups = BTreeMap::new();
    for snapshot in snapshots {
        for (name, members) in &snapshot.groups {
            groups.entry(name.as_str()).or_insert(members.as_slice());
        }
        for record in snapshot.ranks.iter().filter(|record| record.rank < ranks) {
            records.entry(record.rank).or_insert(record);
        }
    }
    let silent = (0..ranks).filter(|rank| !records.contains_key(rank));
    let silent = silent.collect();
    let records = Records { records, ranks };
    let collectives = groups
        .iter()
        .filter_map(|(name, members)| records.collective(name, members));
    let mut findings: Vec<BlockedCall> = collectives.chain(records.messages()).collect();
    findings.sort_by_key(BlockedCall::order);
    Comparison { findings, silent }
}

/// The record of each rank that has one.
struct Records<'s> {
    records: BTreeMap<usize, &'s RankRecord>,
    /// Number of records there should be.
    ranks: usize,
}

impl Records<'_> {
    /// The first operation of a group that a member has come to and not finished.
    fn collective(&self, group: &str, members: &[usize]) -> Option<BlockedCall> {
        let members = || members.iter().filter(|&&rank| rank < self.ranks);
        let open = members()
            .filter_map(|rank| self.records.get(rank))
            .flat_map(|record| operations_of(record, group));
        let open = open.filter(|operation| operation.is_open());
        let call = &open.min_by_key(|operation| operation.call.sequence)?.call;
        let mut finding = BlockedCall {
            group: group.to_owned(),
            call: call.clone(),
            waiting: Vec::new(),
            longest: Duration::ZERO,
            is_message: false,
            others: Vec::new(),
        };
        for &rank in members() {
            let Some(record) = self.records.get(&rank) else {
                finding.add(rank, What::Silent, None);
                continue;
            };
            let mut own = operations_of(record, group);
            let same = own.find(|operation| operation.call.sequence == call.sequence);
            match same {
                Some(same) if same.call != *call => {
                    let lasted = same.lasted(record.taken);
                    finding.add(rank, What::Differs(same.call.clone()), Some(lasted));
                }
                Some(same) if same.is_open() => {
                    finding.waiting.push(rank);
                    finding.longest = finding.longest.max(same.lasted(record.taken));
                }
                Some(_) => finding.add(rank, What::Done, None),
                None => {
                    let mut own = operations_of(record, group);
                    if own.any(|operation| operation.call.sequence > call.sequence) {
                        // What is so old is let go only when it has ended.
                        finding.add(rank, What::Done, None);
                    } else {
                        finding.add_behind(record, operations_of(record, group));
                    }
                }
            }
        }
        Some(finding)
    }

    /// The messages that ranks wait for, or can't get rid of: of each rank the oldest.
    fn messages(&self) -> impl Iterator<Item = BlockedCall> {
        self.records.iter().filter_map(|(&rank, record)| {
            let mut open = record.operations.iter();
            let open = open.find(|operation| operation.is_message() && operation.is_open())?;
            let detail = &open.call.detail;
            let peer = detail
                .from
                .or(detail.to)
                .filter(|&peer| peer < self.ranks)?;
            let mut finding = BlockedCall {
                group: open.group.clone(),
                call: open.call.clone(),
                waiting: vec![rank],
                longest: open.lasted(record.taken),
                is_message: true,
                others: Vec::new(),
            };
            match self.records.get(&peer) {
                Some(peer) => finding.add_behind(peer, peer.operations.iter()),
                None => finding.add(peer, What::Silent, None),
            }
            Some(finding)
        })
    }
}

/// The operations that the rank made with all ranks of a group.
fn operations_of<'s, 'g>(
    record: &'s RankRecord,
    group: &'g str,
) -> impl Iterator<Item = &'s Operation> + use<'s, 'g> {
    let all = record.operations.iter();
    all.filter(move |operation| operation.group == group && !operation.is_message())
}

impl BlockedCall {
    /// Adds a rank that has not come, of whose operations these are of interest.
    fn add_behind<'s>(
        &mut self,
        record: &RankRecord,
        operations: impl Iterator<Item = &'s Operation>,
    ) {
        let done = operations.filter(|operation| operation.state == State::Done);
        let last = done.max_by_key(|operation| operation.ended);
        let waits =
            |operation: &&Operation| matches!(operation.state, State::Waiting | State::Exchanged);
        let now = record.operations.iter().find(waits);
        let since = match (now, last) {
            (Some(now), _) => Some(now.lasted(record.taken)),
            (None, Some(last)) => {
                let ended = last.ended.unwrap_or(record.taken);
                Some(Duration::from_micros(record.taken.saturating_sub(ended)))
            }
            (None, None) => None,
        };
        let what = What::Behind {
            last: last.map(|last| last.call.clone()),
            now: now.map(|now| (now.group.clone(), now.call.clone())),
        };
        self.add(record.rank, what, since);
    }

    fn add(&mut self, rank: usize, what: What, since: Option<Duration>) {
        match self.others.iter_mut().find(|other| other.what == what) {
            Some(other) => {
                other.ranks.push(rank);
                other.since = other.since.max(since);
            }
            None => self.others.push(Other {
                ranks: vec![rank],
                what,
                since,
            }),
        }
    }

    /// Causes come first: 0 where all that are missing wait for nobody themselves, 1 where some do, 2
    /// where other findings or the network explain it all.
    fn order(&self) -> u8 {
        let missing = self.others.iter().filter(|other| other.what != What::Done);
        let causes = missing.clone().filter(|other| match &other.what {
            What::Behind { now, .. } => now.is_none(),
            What::Differs(_) | What::Silent => true,
            What::Done => false,
        });
        match (causes.count(), missing.count()) {
            (0, _) => 2,
            (causes, missing) => u8::from(causes < missing),
        }
    }
}

#[cfg(test)]
mod tests;
