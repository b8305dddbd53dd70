//! A process that dies or freezes is an error on the ranks of all others, with its ranks, its address and
//! the operation.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{HEARTBEAT, job_on};
use crate::transport::faults::Breakable;
use crate::transport::memory::{MemoryNetwork, networks};
use crate::{Error, ProcessGroup, ReduceOp};

/// A job whose last process can be broken.
fn breakable(ranks_per_process: &[usize]) -> (Vec<ProcessGroup>, Arc<MemoryNetwork>) {
    let networks = networks(ranks_per_process.len(), HEARTBEAT);
    let last = networks[networks.len() - 1].clone();
    (job_on(networks, ranks_per_process), last)
}

/// Breaks the last process of three while the others are in an all-reduce, and checks what all say.
fn assert_lost(breaks: impl Fn(&MemoryNetwork) + Sync, cause: &str) {
    let (groups, last) = breakable(&[2, 1, 2]);
    let start = Instant::now();
    thread::scope(|scope| {
        let (last, breaks) = (&last, &breaks);
        for group in groups {
            scope.spawn(move || {
                group.barrier().unwrap();
                match group.rank() {
                    // The last process does not come to the operation, and is broken when the
                    // others have left the barrier.
                    3 => {
                        for peer in 0..3 {
                            group.recv(&mut [0_u8], peer, 0).unwrap();
                        }
                        breaks(last);
                    }
                    4 => {}
                    _ => {
                        group.send(&[0_u8], 3, 0).unwrap();
                        let error = group
                            .all_reduce(&mut [0.0_f32; 9], ReduceOp::Sum)
                            .unwrap_err();
                        let text = error.to_string();
                        let Error::Lost {
                            process: 2,
                            ranks,
                            address,
                            call: Some(call),
                            ..
                        } = error
                        else {
                            panic!("{text}");
                        };
                        assert_eq!((&ranks[..], &*address), (&[3, 4][..], "memory:2"));
                        assert_eq!(call.to_string(), "all_reduce #1 f32[9] sum");
                        assert!(text.contains(cause), "{text}");
                    }
                }
                // Its ranks stay until the others have their error, as those of a dead process do.
                if group.rank() >= 3 {
                    group.barrier().unwrap_err();
                }
            });
        }
    });
    assert!(start.elapsed() < HEARTBEAT + Duration::from_secs(2));
}

#[test]
fn a_process_that_dies_is_named_with_its_ranks_address_and_the_operation() {
    assert_lost(Breakable::die, "broke its connection");
}

#[test]
fn a_process_that_freezes_is_named_after_a_heartbeat() {
    assert_lost(Breakable::freeze, "was silent for 0.3 s");
}

#[test]
fn a_process_that_is_done_and_dies_disturbs_nobody() {
    let (groups, last) = breakable(&[1, 1, 1]);
    thread::scope(|scope| {
        let last = &last;
        for group in groups {
            scope.spawn(move || {
                let pair = group.split((group.rank() < 2).then_some(0), 0).unwrap();
                if group.rank() == 2 {
                    // Only when the others have all of the split, or they would fail in it.
                    group.recv(&mut [0_u8], 0, 0).unwrap();
                    group.recv(&mut [0_u8], 1, 0).unwrap();
                    last.die();
                    return;
                }
                let pair = pair.unwrap();
                // A group that was not used yet fails with the one that it was split from.
                pair.barrier().unwrap();
                group.send(&[0_u8], 2, 0).unwrap();
                for _ in 0..20 {
                    pair.barrier().unwrap();
                }
                group.barrier().unwrap_err();
                pair.barrier().unwrap();
            });
        }
    });
}
