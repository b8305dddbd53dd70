//! A group's state by itself, within one process.

use super::*;
use crate::engine::OpHandle;
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
