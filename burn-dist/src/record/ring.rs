//! The last operations of each rank of a process, recorded as they go on.
//!
//! Each rank has a ring of its own behind a lock of its own: only the rank's threads take it, for some
//! tens of nanoseconds, and whoever takes a snapshot. No memory is taken for an operation: its [`Call`]
//! exists already, and the ring has its size from the start. A full ring lets go of the oldest operation
//! that has ended, so one that hangs stays, whatever is done beside it.
//!
//! An operation goes through these states:
//!
//! ```text
//! Waiting ── met all ranks of its process ──> Exchanged ──> Done or Failed
//!    └──────────────────────────────────────────────────────────┘
//! ```

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::utils::CachePadded;

use super::snapshot::{Operation, ROOT, RankRecord, Snapshot, State};
use crate::error::Call;

/// Number of operations kept for a rank.
const KEPT: usize = 128;

/// A group as records name it, equal in all processes.
#[derive(Debug)]
pub(crate) struct Group {
    name: String,
    /// The global ranks of the members.
    ranks: Arc<[usize]>,
    is_root: bool,
}

impl Group {
    /// The group that all others are split from.
    pub(crate) fn root(ranks: Arc<[usize]>) -> Arc<Self> {
        Arc::new(Self {
            name: ROOT.to_owned(),
            ranks,
            is_root: true,
        })
    }

    /// The group of a colour that a split with this number made.
    pub(crate) fn child(&self, sequence: u64, colour: u64, ranks: Arc<[usize]>) -> Arc<Self> {
        let name = if self.is_root {
            format!("split #{sequence} colour {colour}")
        } else {
            format!("split #{sequence} colour {colour} of {}", self.name)
        };
        Arc::new(Self {
            name,
            ranks,
            is_root: false,
        })
    }
}

/// The last operations of the ranks of one process.
pub(crate) struct Recorder {
    start: Instant,
    /// The first rank of the process.
    first: usize,
    rings: Box<[CachePadded<Mutex<Ring>>]>,
}

/// The oldest operation is in front.
struct Ring(VecDeque<Record>);

struct Record {
    group: Arc<Group>,
    call: Arc<Call>,
    state: State,
    entered: Instant,
    exchanged: Option<Instant>,
    ended: Option<Instant>,
}

impl Recorder {
    /// For these global ranks; times count from now.
    pub(crate) fn new(ranks: Range<usize>) -> Self {
        Self {
            start: Instant::now(),
            first: ranks.start,
            rings: ranks
                .map(|_| CachePadded::new(Mutex::new(Ring(VecDeque::with_capacity(KEPT)))))
                .collect(),
        }
    }

    /// A rank begins an operation.
    pub(crate) fn enter(&self, rank: usize, group: &Arc<Group>, call: &Arc<Call>, now: Instant) {
        let Some(mut ring) = self.ring(rank) else {
            return;
        };
        let call = call.clone();
        let old = match ring.displace() {
            Some(record) if Arc::ptr_eq(&record.group, group) => Ok(record),
            other => Err(other),
        };
        // All ranks use the group's count: it is left alone where it can be.
        let (group, old) = match old {
            Ok(Record { group, call, .. }) => (group, Some(call)),
            Err(other) => (group.clone(), other.map(|record| record.call)),
        };
        ring.0.push_back(Record {
            group,
            call,
            state: State::Waiting,
            entered: now,
            exchanged: None,
            ended: None,
        });
        drop(ring);
        drop(old);
    }

    /// All ranks of this process have come to the operation; what is missing comes over the network.
    pub(crate) fn exchanged(&self, rank: usize, call: &Arc<Call>) {
        self.update(rank, call, |record| {
            if let State::Waiting = record.state {
                record.state = State::Exchanged;
                record.exchanged = Some(Instant::now());
            }
        });
    }

    /// The operation is over.
    pub(crate) fn end(&self, rank: usize, call: &Arc<Call>, well: bool) {
        self.update(rank, call, |record| {
            record.state = if well { State::Done } else { State::Failed };
            record.ended = Some(Instant::now());
        });
    }

    fn update(&self, rank: usize, call: &Arc<Call>, change: impl FnOnce(&mut Record)) {
        let Some(mut ring) = self.ring(rank) else {
            return;
        };
        // Nearly always the last. Two records never share a call: each call makes its own.
        let mut newest = ring.0.iter_mut().rev();
        if let Some(record) = newest.find(|record| Arc::ptr_eq(&record.call, call)) {
            change(record);
        }
    }

    /// A copy of what is recorded now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let mut snapshot = Snapshot::default();
        for (place, ring) in self.rings.iter().enumerate() {
            let ring = ring.lock();
            for record in &ring.0 {
                let group = &record.group;
                if !snapshot.groups.contains_key(&group.name) {
                    let ranks = group.ranks.to_vec();
                    snapshot.groups.insert(group.name.clone(), ranks);
                }
            }
            snapshot.ranks.push(RankRecord {
                rank: self.first + place,
                taken: self.since_start(now),
                full: ring.0.len() == KEPT,
                operations: ring.0.iter().map(|record| self.copy(record)).collect(),
            });
        }
        snapshot
    }

    fn copy(&self, record: &Record) -> Operation {
        Operation {
            group: record.group.name.clone(),
            call: (*record.call).clone(),
            state: record.state,
            entered: self.since_start(record.entered),
            exchanged: record.exchanged.map(|time| self.since_start(time)),
            ended: record.ended.map(|time| self.since_start(time)),
        }
    }

    /// Microseconds from the start.
    fn since_start(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.start).as_micros() as u64
    }

    /// The ring of a rank of this process.
    fn ring(&self, rank: usize) -> Option<MutexGuard<'_, Ring>> {
        let ring = self.rings.get(rank.checked_sub(self.first)?)?;
        Some(ring.lock())
    }
}

impl Ring {
    /// Makes room for a record, and gives what had it.
    fn displace(&mut self) -> Option<Record> {
        if self.0.len() < KEPT {
            return None;
        }
        let ended = self.0.iter().position(|record| record.ended.is_some());
        self.0.remove(ended.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Detail;

    fn call(sequence: u64) -> Arc<Call> {
        Arc::new(Call {
            operation: "all_reduce".into(),
            sequence,
            dtype: "f32".into(),
            shape: vec![4],
            detail: Detail::default(),
        })
    }

    fn group() -> Arc<Group> {
        Group::root(vec![0, 1, 2, 3].into())
    }

    fn states(recorder: &Recorder, place: usize) -> Vec<(u64, State)> {
        let record = &recorder.snapshot().ranks[place];
        let operations = record.operations.iter();
        operations
            .map(|operation| (operation.call.sequence, operation.state))
            .collect()
    }

    #[test]
    fn an_operation_goes_through_its_states() {
        let (recorder, group) = (Recorder::new(2..4), group());
        let (first, second) = (call(0), call(1));
        recorder.enter(3, &group, &first, Instant::now());
        recorder.exchanged(3, &first);
        assert_eq!(states(&recorder, 1), [(0, State::Exchanged)]);
        recorder.end(3, &first, true);
        recorder.enter(3, &group, &second, Instant::now());
        assert_eq!(
            states(&recorder, 1),
            [(0, State::Done), (1, State::Waiting)]
        );
        recorder.end(3, &second, false);
        let snapshot = recorder.snapshot();
        assert_eq!(snapshot.ranks[0].rank, 2);
        assert!(snapshot.ranks[0].operations.is_empty());
        assert_eq!(snapshot.groups["all ranks"], [0, 1, 2, 3]);
        let [done, failed] = &snapshot.ranks[1].operations[..] else {
            panic!("{snapshot:?}");
        };
        assert_eq!(failed.state, State::Failed);
        assert!(done.entered <= done.exchanged.unwrap());
        assert!(done.exchanged <= done.ended && done.ended.unwrap() <= failed.entered);
        assert!(failed.exchanged.is_none() && failed.ended.unwrap() <= snapshot.ranks[1].taken);
    }

    #[test]
    fn the_ring_keeps_the_last_and_what_has_not_ended() {
        let (recorder, group) = (Recorder::new(0..1), group());
        let hangs = call(0);
        recorder.enter(0, &group, &hangs, Instant::now());
        let rounds = 3 * KEPT as u64;
        for sequence in 1..=rounds {
            let call = call(sequence);
            recorder.enter(0, &group, &call, Instant::now());
            recorder.end(0, &call, true);
        }
        let states = states(&recorder, 0);
        assert_eq!(states.len(), KEPT);
        assert_eq!(states[0], (0, State::Waiting));
        assert_eq!(states[1].0, rounds + 2 - KEPT as u64);
        assert_eq!(states[KEPT - 1], (rounds, State::Done));
    }

    #[test]
    fn operations_that_never_end_are_bounded_too() {
        let (recorder, group) = (Recorder::new(0..1), group());
        for sequence in 0..2 * KEPT as u64 {
            recorder.enter(0, &group, &call(sequence), Instant::now());
        }
        assert_eq!(states(&recorder, 0).len(), KEPT);
    }

    #[test]
    fn a_rank_of_another_process_has_no_record_here() {
        let recorder = Recorder::new(2..3);
        recorder.enter(0, &group(), &call(0), Instant::now());
        recorder.enter(3, &group(), &call(0), Instant::now());
        assert_eq!(states(&recorder, 0), []);
    }

    #[test]
    fn groups_are_named_by_the_splits_they_came_from() {
        let ranks: Arc<[usize]> = vec![0].into();
        let child = group().child(7, 1, ranks.clone());
        assert_eq!(child.name, "split #7 colour 1");
        let grandchild = child.child(2, 0, ranks);
        assert_eq!(grandchild.name, "split #2 colour 0 of split #7 colour 1");
    }
}
