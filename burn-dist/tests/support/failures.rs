//! What goes wrong with a rank, and what the others must say of it, in one process or in several.
//!
//! Each body is run as every rank of a group, which keeps its default timeout of 5 minutes unless the
//! body is about timeouts: that a test ends at all shows that nobody waited in vain.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use burn_dist::{AnyRank, Departure, Error, P2p, ProcessGroup, ReduceOp, Result, Uneven};

use super::mismatches::Calls;

/// These ranks don't come to an all-reduce of so many elements, for which the others wait 0.2 s.
pub(crate) fn stay_away(group: &ProcessGroup, missing: &[usize], length: usize) -> Error {
    if missing.contains(&group.rank()) {
        // Stays a member, without a call, until the others have given up.
        return group.recv(&mut [0_u8], 0, 9).unwrap_err();
    }
    let group = group.with_timeout(Duration::from_millis(200));
    let reduced = group.all_reduce(&mut vec![0.0_f32; length], ReduceOp::Sum);
    reduced.unwrap_err()
}

/// Every rank's error of [`stay_away`] must name those that did.
#[track_caller]
pub(crate) fn check_stayed_away(errors: &[Error], expected: &[usize], length: usize) {
    for error in errors {
        let Error::Timeout {
            missing,
            call,
            after,
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(missing, expected);
        let due = format!("all_reduce #0 f32[{length}] sum");
        assert_eq!(call.to_string(), due);
        assert_eq!(*after, Duration::from_millis(200));
    }
}

/// Rank 0 of two waits 50 ms for a message that rank 1 does not send.
pub(crate) fn wait_for_a_silent_sender(group: &ProcessGroup) {
    if group.rank() == 0 {
        let group = group.with_timeout(Duration::from_millis(50));
        let text = group.recv(&mut [0_i32; 4], 1, 3).unwrap_err().to_string();
        assert!(
            text.contains("recv #0 i32[4] from rank 1 tag 3: rank 1 did not come"),
            "{text}"
        );
    } else {
        let error = group.barrier().unwrap_err();
        assert!(matches!(error, Error::Timeout { rank: 0, .. }), "{error}");
    }
}

/// Rank 1 goes when the others still need it.
pub(crate) fn go_early(group: &ProcessGroup) {
    group.barrier().unwrap();
    if group.rank() == 1 {
        return;
    }
    let error = group.all_reduce(&mut [0_u8; 2], ReduceOp::Min).unwrap_err();
    let Error::PeerLeft {
        peer: 1,
        reason: Departure::Returned,
        call: Some(call),
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(call.to_string(), "all_reduce #1 u8[2] min");
}

/// Rank 1 of three goes after two messages to rank 0, which wants three; rank 2 waits for rank 0.
pub(crate) fn send_too_little(group: &ProcessGroup) {
    match group.rank() {
        0 => {
            for expected in [1, 2] {
                let mut word = [0_u8];
                group.recv(&mut word, 1, 0).unwrap();
                let what = "what was sent before it went is still there";
                assert_eq!(word, [expected], "{what}");
            }
            assert_left(&group.recv(&mut [0_u8], 1, 0).unwrap_err());
        }
        1 => {
            group.send(&[1_u8], 0, 0).unwrap();
            group.send(&[2_u8], 0, 0).unwrap();
        }
        _ => assert_left(&group.recv(&mut [0_u8], 0, 0).unwrap_err()),
    }
}

/// Rank 1 must be the one that left.
#[track_caller]
fn assert_left(error: &Error) {
    assert!(matches!(error, Error::PeerLeft { peer: 1, .. }), "{error}");
}

/// Rank 2 of three panics; its group goes with it, and the others are told.
pub(crate) fn panic_in_rank_2(group: ProcessGroup) {
    let rank = group.rank();
    let outcome = catch_unwind(AssertUnwindSafe(move || {
        assert_ne!(rank, 2, "rank 2 has a defect");
        group.barrier().unwrap_err()
    }));
    let Ok(error) = outcome else {
        assert_eq!(rank, 2);
        return;
    };
    let panicked = matches!(
        error,
        Error::PeerLeft {
            peer: 2,
            reason: Departure::Panicked(_),
            ..
        }
    );
    assert!(panicked, "{error}");
}

/// The ranks of four, three of them in a half, end as soon as they have what they need.
pub(crate) fn return_together(group: &ProcessGroup) {
    let half = group.split(Some(group.rank() as u64 / 3), 0).unwrap();
    let work = group.start().all_reduce(vec![1_i32], ReduceOp::Sum);
    group.barrier().unwrap();
    assert_eq!(work.wait().unwrap(), [4]);
    half.unwrap().barrier().unwrap();
}

/// Rank 2 aborts a group; another of the same ranks goes on.
pub(crate) fn abort_a_twin(group: &ProcessGroup) {
    let twin = group.split(Some(0), 0).unwrap().unwrap();
    if group.rank() == 2 {
        twin.abort("the data set is gone");
    }
    let text = twin.barrier().unwrap_err().to_string();
    group.barrier().unwrap();
    assert_eq!(text, "rank 2 aborted the group: the data set is gone");
}

/// Rank 1 gives a wrong argument, the others the right one.
pub(crate) struct Refused {
    wrong: Calls,
    right: Calls,
    message: String,
}

impl Refused {
    fn new(
        wrong: impl Fn(&ProcessGroup) -> Result<()> + Sync + 'static,
        right: impl Fn(&ProcessGroup) -> Result<()> + Sync + 'static,
        message: &str,
    ) -> Self {
        Self {
            wrong: Box::new(wrong),
            right: Box::new(right),
            message: message.to_owned(),
        }
    }

    /// Makes the call and checks its error: rank 1 gets its fault, the others the rank at fault.
    pub(crate) fn run(&self, group: &ProcessGroup) {
        let is_wrong = group.rank() == 1;
        let made = if is_wrong { &self.wrong } else { &self.right };
        let error = made(group).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&self.message), "{text}");
        match error {
            Error::InvalidArgument { rank: 1, .. } if is_wrong => {}
            Error::PeerLeft {
                peer: 1,
                reason: Departure::Failed(_),
                ..
            } if !is_wrong => {}
            _ => panic!("{text}"),
        }
    }
}

/// Wrong arguments in a group of so many ranks, two at least.
pub(crate) fn refusals(ranks: usize) -> Vec<Refused> {
    let whole = 2 * ranks;
    let uneven = format!("a multiple of the {ranks} ranks");
    let scatter_async = |length| {
        move |group: &ProcessGroup| {
            let work = group
                .start()
                .reduce_scatter(vec![0_u8; length], ReduceOp::Sum);
            work.wait().map(drop)
        }
    };
    vec![
        Refused::new(
            move |group| group.broadcast(&mut [0_u8; 2], ranks),
            move |group| group.broadcast(&mut [0_u8; 2], ranks - 1),
            &format!("there is no rank {ranks} in a group of {ranks}"),
        ),
        Refused::new(
            move |group| group.all_gather((&[0_u8; 2], &mut vec![0; whole - 1])),
            move |group| group.all_gather((&[0_u8; 2], &mut vec![0; whole])),
            &format!(
                "the output has {} elements where {ranks} ranks with 2 each need {}",
                whole - 1,
                whole
            ),
        ),
        Refused::new(
            |group| group.gather((&[0_u8; 2], None), 1),
            |group| group.gather((&[0_u8; 2], None), 1),
            "the root must give an output",
        ),
        Refused::new(
            move |group| group.scatter((Some(&vec![0_u8; whole][..]), &mut [0; 2]), 0),
            move |group| {
                let input = (group.rank() == 0).then(|| vec![0_u8; whole]);
                group.scatter((input.as_deref(), &mut [0; 2]), 0)
            },
            "only the root has an input",
        ),
        Refused::new(
            move |group| group.reduce_scatter((&vec![0_u8; whole + 1], &mut [0; 2]), ReduceOp::Sum),
            move |group| group.reduce_scatter((&vec![0_u8; whole], &mut [0; 2]), ReduceOp::Sum),
            &format!("the input has {} elements", whole + 1),
        ),
        Refused::new(
            move |group| group.all_to_all((&vec![0_u8; ranks + 1], &mut vec![0; ranks + 1])),
            move |group| group.all_to_all((&vec![0_u8; ranks], &mut vec![0; ranks])),
            &uneven,
        ),
        Refused::new(scatter_async(ranks + 1), scatter_async(ranks), &uneven),
        Refused::new(
            move |group| {
                group
                    .all_to_all(Uneven(vec![vec![0_u8]; ranks + 1]))
                    .map(drop)
            },
            move |group| group.all_to_all(Uneven(vec![vec![0_u8]; ranks])).map(drop),
            &format!(
                "{} parts were given where {ranks} ranks need one each",
                ranks + 1
            ),
        ),
        Refused::new(
            |group| group.objects().scatter(Some(&[7_u8][..0]), 1).map(drop),
            |group| group.objects().scatter::<u8>(None, 1).map(drop),
            &format!("0 parts were given where {ranks} ranks need one each"),
        ),
        Refused::new(
            |group| group.objects().broadcast(Some(&7_u8), 0).map(drop),
            |group| {
                let value = (group.rank() == 0).then_some(&7_u8);
                group.objects().broadcast(value, 0).map(drop)
            },
            "only the root has an input",
        ),
        Refused::new(
            |group| group.batch([P2p::Send(vec![0_u8], 9, 0)]).map(drop),
            |group| group.recv(&mut [0_u8], AnyRank, 0).map(drop),
            "there is no rank 9",
        ),
        Refused::new(
            |group| group.send(&[0_u8], 7, 0),
            |group| group.recv(&mut [0_u8], 1, 0),
            "there is no rank 7",
        ),
    ]
}
