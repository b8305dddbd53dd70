//! The comparison of records that are made up here.

use std::borrow::Cow;

use super::*;
use crate::error::Detail;
use crate::record::snapshot::ROOT;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;
/// Time at which all records are taken.
const NOW: u64 = 100 * SECOND;

fn call(operation: &'static str, sequence: u64) -> Call {
    Call {
        operation: operation.into(),
        sequence,
        dtype: "f32".into(),
        shape: vec![1024],
        detail: Detail::default(),
    }
}

/// An operation that took a second and ended so many seconds ago.
fn done(group: &str, call: Call, ago: u64) -> Operation {
    let ended = NOW - ago * SECOND;
    Operation {
        group: group.to_owned(),
        call,
        state: State::Done,
        entered: ended - SECOND,
        exchanged: None,
        ended: Some(ended),
    }
}

/// An operation that was entered so many seconds ago.
fn open(group: &str, call: Call, state: State, ago: u64) -> Operation {
    Operation {
        group: group.to_owned(),
        call,
        state,
        entered: NOW - ago * SECOND,
        exchanged: None,
        ended: None,
    }
}

fn record(rank: usize, operations: Vec<Operation>) -> RankRecord {
    RankRecord {
        rank,
        taken: NOW,
        full: false,
        operations,
    }
}

/// The text about records of a job with `ranks` ranks and these groups besides that of all.
#[track_caller]
fn text_of(ranks: usize, groups: &[(&str, &[usize])], records: Vec<RankRecord>) -> String {
    let mut snapshot = Snapshot {
        groups: BTreeMap::from([(ROOT.to_owned(), (0..ranks).collect())]),
        ranks: records,
    };
    for (name, members) in groups {
        snapshot.groups.insert((*name).to_owned(), members.to_vec());
    }
    compare(&[snapshot], ranks).to_string()
}

/// A rank that finished #41 and waits in #42.
fn waits(rank: usize) -> RankRecord {
    let finished = done(ROOT, call("all_reduce", 41), 13);
    let waits = open(ROOT, call("all_reduce", 42), State::Waiting, 12);
    record(rank, vec![finished, waits])
}

#[test]
fn a_rank_that_never_came_is_behind() {
    let late = record(3, vec![done(ROOT, call("all_reduce", 41), 13)]);
    assert_eq!(
        text_of(4, &[], vec![waits(0), waits(1), waits(2), late]),
        "rank 3 is behind: it last finished all_reduce #41 f32[1024] 13.0 s ago, and never came to \
         all_reduce #42 f32[1024], in which ranks 0, 1 and 2 have waited for 12.0 s"
    );
    let nothing = [record(1, vec![]), record(2, vec![])];
    let first = record(0, vec![open(ROOT, call("barrier", 0), State::Waiting, 5)]);
    assert_eq!(
        text_of(3, &[], [vec![first], nothing.to_vec()].concat()),
        "ranks 1 and 2 are behind: they have finished nothing before it that is recorded, and never \
         came to barrier #0 f32[1024], in which rank 0 has waited for 5.0 s"
    );
}

#[test]
fn a_rank_in_another_operation_is_elsewhere() {
    let other = open(ROOT, call("broadcast", 42), State::Exchanged, 11);
    assert_eq!(
        text_of(2, &[], vec![waits(0), record(1, vec![other])]),
        "rank 1 is elsewhere: it came to broadcast #42 f32[1024] in the place of all_reduce #42 \
         f32[1024], in which rank 0 has waited for 12.0 s"
    );
}

#[test]
fn a_rank_without_a_record_is_named() {
    assert_eq!(
        text_of(2, &[], vec![waits(0)]),
        "rank 0 has waited for 12.0 s in all_reduce #42 f32[1024]; rank 1 sent no record\n\
         rank 1 sent no record: the process is lost or stopped, or did not answer in time"
    );
    assert_eq!(
        compare(&[], 2).to_string(),
        "no rank whose record is known waits for another\n\
         ranks 0 and 1 sent no record: the process of each is lost or stopped, or did not answer in time"
    );
}

#[test]
fn where_all_have_come_it_is_the_network() {
    let carried = |rank| {
        let waits = open(ROOT, call("all_reduce", 42), State::Exchanged, 12);
        record(rank, vec![waits])
    };
    let finished = record(0, vec![done(ROOT, call("all_reduce", 42), 1)]);
    assert_eq!(
        text_of(3, &[], vec![finished, carried(1), carried(2)]),
        "ranks 1 and 2 have waited for 12.0 s in all_reduce #42 f32[1024], to which every rank has \
         come: look at the network between the processes"
    );
}

#[test]
fn a_rank_that_went_on_so_far_that_it_forgot_has_finished() {
    let ahead = open(ROOT, call("all_reduce", 43), State::Waiting, 1);
    let text = text_of(2, &[], vec![waits(0), record(1, vec![ahead])]);
    assert!(
        text.ends_with("look at the network between the processes"),
        "{text}"
    );
}

#[test]
fn the_cause_comes_before_its_consequences() {
    // Ranks 0 and 1 wait for rank 2, which waits for rank 3 in another group, which does nothing.
    let half = "split #3 colour 1";
    let waits_elsewhere = open(half, call("barrier", 5), State::Waiting, 11);
    let records = vec![
        waits(0),
        waits(1),
        record(
            2,
            vec![done(ROOT, call("all_reduce", 41), 13), waits_elsewhere],
        ),
        record(
            3,
            vec![
                done(half, call("barrier", 4), 14),
                open(ROOT, call("all_reduce", 42), State::Waiting, 12),
            ],
        ),
    ];
    let text = text_of(4, &[(half, &[2, 3])], records.clone());
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "rank 2 is behind: it last finished all_reduce #41 f32[1024], is in barrier #5 f32[1024] of \
             split #3 colour 1 for 11.0 s, and never came to all_reduce #42 f32[1024], in which ranks \
             0, 1 and 3 have waited for 12.0 s",
            "rank 3 is behind: it last finished barrier #4 f32[1024], is in all_reduce #42 f32[1024] for \
             12.0 s, and never came to barrier #5 f32[1024] of split #3 colour 1, in which rank 2 has \
             waited for 11.0 s",
        ],
        "a circle has no beginning"
    );
    let mut records = records;
    records[3].operations.pop();
    let text = text_of(4, &[(half, &[2, 3])], records);
    assert!(
        text.starts_with("rank 3 is behind: it last finished barrier #4"),
        "{text}"
    );
}

#[test]
fn a_message_that_does_not_come_is_explained_by_its_sender() {
    let recv = |from, sequence| Call {
        detail: Detail {
            from: Some(from),
            tag: Some(7),
            ..Detail::default()
        },
        ..call("recv", sequence)
    };
    let receiver = record(1, vec![open(ROOT, recv(0, 0), State::Waiting, 9)]);
    let sender = record(0, vec![done(ROOT, call("barrier", 3), 10)]);
    assert_eq!(
        text_of(2, &[], vec![sender, receiver.clone()]),
        "rank 1 has waited for 9.0 s in recv #0 f32[1024] from rank 0 tag 7; rank 0 last finished \
         barrier #3 f32[1024] 10.0 s ago"
    );
    let both = record(0, vec![open(ROOT, recv(1, 4), State::Waiting, 8)]);
    let text = text_of(2, &[], vec![both, receiver.clone()]);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.starts_with(
            "rank 0 has waited for 8.0 s in recv #4 f32[1024] from rank 1 tag 7; rank 1 has finished \
             nothing before it that is recorded, is in recv #0"
        ),
        "{text}"
    );
    let text = text_of(2, &[], vec![receiver]);
    assert!(text.contains("tag 7; rank 0 sent no record"), "{text}");
}

#[test]
fn what_has_failed_counts_as_waited_for() {
    let mut failed = waits(0);
    failed.operations[1].state = State::Failed;
    failed.operations[1].ended = Some(NOW - 2 * SECOND);
    let late = record(1, vec![]);
    let text = text_of(2, &[], vec![failed, late]);
    assert!(text.starts_with("rank 1 is behind"), "{text}");
    assert!(text.ends_with("rank 0 has waited for 10.0 s"), "{text}");
}

/// Progress of a rank of a made-up job: the number of operations it finished, and true if it is in the next.
fn progress() -> impl Strategy<Value = (u64, bool)> {
    (0..4_u64, any::<bool>())
}

fn arbitrary_operation() -> impl Strategy<Value = Operation> {
    let state = prop_oneof![
        Just(State::Waiting),
        Just(State::Exchanged),
        Just(State::Done),
        Just(State::Failed)
    ];
    let detail = (any::<Option<usize>>(), any::<Option<usize>>());
    let call = ("[a-c]", 0..4_u64, detail).prop_map(|(operation, sequence, (to, from))| Call {
        operation: Cow::Owned(operation),
        sequence,
        dtype: "f32".into(),
        shape: vec![],
        detail: Detail {
            to: to.map(|to| to % 8),
            from: from.filter(|from| from % 2 == 0),
            ..Detail::default()
        },
    });
    let times = (any::<u64>(), any::<Option<u64>>(), any::<Option<u64>>());
    ("[x-z]", call, state, times).prop_map(|(group, call, state, times)| Operation {
        group,
        call,
        state,
        entered: times.0,
        exchanged: times.1,
        ended: times.2,
    })
}

proptest! {
    /// Of ranks that all make the same operations, exactly those are behind that did not come to the
    /// first that somebody waits in.
    #[test]
    fn exactly_those_who_did_not_come_are_behind(ranks in prop::collection::vec(progress(), 1..6)) {
        let first = ranks.iter().filter(|(_, inside)| *inside).map(|(done, _)| *done).min();
        let records = ranks.iter().enumerate().map(|(rank, &(finished, inside))| {
            let mut operations: Vec<_> =
                (0..finished).map(|number| done(ROOT, call("barrier", number), 20 - number)).collect();
            if inside {
                operations.push(open(ROOT, call("barrier", finished), State::Waiting, 1));
            }
            record(rank, operations)
        });
        let snapshot = Snapshot {
            groups: BTreeMap::from([(ROOT.to_owned(), (0..ranks.len()).collect())]),
            ranks: records.collect(),
        };
        let comparison = compare(&[snapshot], ranks.len());
        let Some(first) = first else {
            prop_assert!(comparison.findings.is_empty());
            return Ok(());
        };
        let finding = &comparison.findings[0];
        prop_assert_eq!(finding.call.sequence, first);
        let mut behind: Vec<usize> = finding
            .others
            .iter()
            .filter(|other| matches!(other.what, What::Behind { .. }))
            .flat_map(|other| other.ranks.clone())
            .collect();
        behind.sort_unstable();
        let waits = |&(finished, inside): &(u64, bool)| inside && finished == first;
        let is_behind = |rank: &(u64, bool)| rank.0 <= first && !waits(rank);
        let ranks_that = |is: &dyn Fn(&(u64, bool)) -> bool| -> Vec<usize> {
            (0..ranks.len()).filter(|&rank| is(&ranks[rank])).collect()
        };
        prop_assert_eq!(behind, ranks_that(&is_behind));
        prop_assert_eq!(&finding.waiting, &ranks_that(&waits));
    }

    /// Records come from other processes, and may say anything.
    #[test]
    fn any_records_are_compared(
        groups in prop::collection::btree_map("[x-z]", prop::collection::vec(0..9_usize, 0..4), 0..3),
        ranks in prop::collection::vec(
            (0..9_usize, any::<u64>(), prop::collection::vec(arbitrary_operation(), 0..6)),
            0..6,
        ),
        size in 0..6_usize,
    ) {
        let ranks = ranks.into_iter().map(|(rank, taken, operations)| RankRecord {
            rank,
            taken,
            full: false,
            operations,
        });
        let snapshot = Snapshot { groups, ranks: ranks.collect() };
        let comparison = compare(&[snapshot.clone(), snapshot], size);
        let named = comparison.findings.iter().flat_map(|finding| {
            finding.waiting.iter().chain(finding.others.iter().flat_map(|other| &other.ranks))
        });
        for &rank in named.chain(&comparison.silent) {
            prop_assert!(rank < size);
        }
        prop_assert!(!comparison.to_string().is_empty());
    }
}
