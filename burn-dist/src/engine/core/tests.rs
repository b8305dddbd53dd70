//! A group's state by itself, within one process.

use super::*;
use crate::engine::{Arrived, OpHandle};
use crate::error::{Departure, Detail};
use crate::shared_memory::LentBuffer;
use std::time::Duration;

fn call(operation: &'static str, sequence: u64) -> Arc<Call> {
    Arc::new(Call {
        operation: operation.into(),
        sequence,
        dtype: "f32".into(),
        shape: vec![4],
        detail: Detail::default(),
    })
}

fn attend(group: &GroupState, rank: usize, call: Arc<Call>, timeout: Duration) -> Result<()> {
    let op = OpHandle::new(group, rank, call, timeout).begin()?;
    op.share(LentBuffer::Read(&[]), |_| ())
}

const LONG: Duration = Duration::from_mins(5);

#[test]
fn a_rank_that_left_after_its_last_operation_disturbs_nobody() {
    let group = GroupState::local(vec![0, 1], &Reporter::alone(2, None));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            attend(&group, 0, call("barrier", 0), LONG).unwrap();
            group.leave(0, Departure::Returned);
        });
        attend(&group, 1, call("barrier", 0), LONG).unwrap();
        group.leave(1, Departure::Returned);
    });
    assert!(group.failure().is_none());
}

#[test]
fn a_later_operation_fails_at_once_and_names_who_left() {
    let group = GroupState::local(vec![3, 5], &Reporter::alone(6, None));
    group.leave(1, Departure::Returned);
    let error = attend(&group, 0, call("barrier", 0), LONG).unwrap_err();
    assert!(matches!(error, Error::PeerLeft { peer: 5, .. }), "{error}");
}

#[test]
fn one_operation_may_wait_while_a_later_one_is_done() {
    let group = GroupState::local(vec![0, 1], &Reporter::alone(2, None));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| attend(&group, 0, call("all_reduce", 0), LONG));
        let second = scope.spawn(|| attend(&group, 0, call("barrier", 1), LONG));
        attend(&group, 1, call("barrier", 1), LONG).unwrap();
        second.join().unwrap().unwrap();
        attend(&group, 1, call("all_reduce", 0), LONG).unwrap();
        first.join().unwrap().unwrap();
    });
}

#[test]
fn a_sub_groups_members_get_one_state_and_leave_nothing_behind() {
    let group = GroupState::local(vec![0, 1], &Reporter::alone(2, None));
    let first = group.child(7, 1, &[0, 1]);
    let second = group.child(7, 1, &[0, 1]);
    assert!(Arc::ptr_eq(&first, &second));
    assert!(group.lock().children.unfetched.is_empty());
}

#[test]
fn operations_use_the_memory_of_those_before() {
    let group = GroupState::local(vec![0, 1], &Reporter::alone(2, None));
    let attend = |rank, sequence| {
        let op = OpHandle::new(&group, rank, call("barrier", sequence), LONG);
        let op = op.begin().unwrap();
        op.share(LentBuffer::Read(&[]), |_| ()).unwrap();
        op.address()
    };
    let mut seen: Vec<usize> = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            for sequence in 0..100 {
                attend(1, sequence);
            }
        });
        let seen = (0..100).map(|sequence| attend(0, sequence)).collect();
        other.join().unwrap();
        seen
    });
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() <= 4, "{} operations took memory", seen.len());
    // What the ranks share after an operation ends with it.
    let op = OpHandle::new(&group, 0, call("barrier", 100), LONG)
        .begin()
        .unwrap();
    let other = OpHandle::new(&group, 1, call("barrier", 100), LONG)
        .begin()
        .unwrap();
    let arrived = op.deliver(Arrived::default());
    let weak = Arc::downgrade(&arrived);
    drop((op, other, arrived));
    assert!(weak.upgrade().is_none());
}

#[test]
fn calls_that_differ_have_different_hashes() {
    let plain = call("all_reduce", 3);
    let differ = |change: &dyn Fn(&mut Call)| {
        let mut other = (*plain).clone();
        change(&mut other);
        assert!(
            CallHash::of(&plain) != CallHash::of(&other),
            "{plain}, {other}"
        );
    };
    assert!(CallHash::of(&plain) == CallHash::of(&call("all_reduce", 3)));
    differ(&|call| call.sequence = 4);
    differ(&|call| call.operation = "reduce".into());
    differ(&|call| call.dtype = "f64".into());
    differ(&|call| call.shape = vec![2, 2]);
    differ(&|call| call.shape = vec![5]);
    differ(&|call| call.detail.root = Some(0));
    differ(&|call| call.detail.reduction = Some("sum".into()));
    differ(&|call| call.detail.within = Some("sum".into()));
}
