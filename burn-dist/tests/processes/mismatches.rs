//! Ranks that make different calls are told so across processes in the words that threads hear.

use burn_dist::launch::Worker;
use burn_dist::{Error, ProcessGroup, Result};

use crate::job::Plan;
use crate::support::mismatches::{
    Mismatch, another_operation, another_order, another_reduction, another_root, another_shape,
    another_type,
};
use crate::support::on_ranks;
use crate::worker::{Failure, tell};

fn cases() -> [Mismatch; 6] {
    [
        another_operation(),
        another_shape(),
        another_type(),
        another_reduction(),
        another_root(2),
        another_order(),
    ]
}

const RANKS: usize = 4;

/// Every case with every rank as the one that differs, each in a group of its own.
fn script(group: &ProcessGroup) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (case, mismatch) in cases().iter().enumerate() {
        for odd in 0..RANKS {
            let part = group.split(Some(0), 0)?.unwrap();
            part.barrier()?;
            let text = match mismatch.call(&part, group.rank() == odd) {
                Err(error @ Error::Mismatch { .. }) => error.to_string(),
                other => format!("not a mismatch: {other:?}"),
            };
            lines.push(format!(
                "case {case} odd {odd} rank {}: {text}",
                group.rank()
            ));
        }
    }
    Ok(lines)
}

pub(crate) fn work(worker: &Worker) -> Result<(), Failure> {
    script(worker.group())?.into_iter().for_each(tell);
    Ok(())
}

/// Checks what all ranks heard. Which of two ranks is named first, and with which of those that agree
/// the other one is compared, depends on who came first. Threads and pairs of processes agree about it;
/// of more processes, every pair may find the mismatch for itself.
#[track_caller]
fn assert_named(told: &[String], one_story: bool) {
    for (case, mismatch) in cases().iter().enumerate() {
        let [usual, other] = &mismatch.sides;
        for odd in 0..RANKS {
            let start = format!("case {case} odd {odd} rank ");
            let texts: Vec<&str> = told
                .iter()
                .filter_map(|line| line.strip_prefix(&start)?.split_once(": "))
                .map(|(_, text)| text)
                .collect();
            assert_eq!(texts.len(), RANKS, "{told:#?}");
            let wording = |one: &str, two: &str| {
                format!(
                    "{one} while {two}; every rank of a group must make the same calls in the same \
                     order, with the same shapes and types"
                )
            };
            let differs = format!("rank {odd} called {other}");
            let possible: Vec<String> = (0..RANKS)
                .filter(|&peer| peer != odd)
                .map(|peer| format!("rank {peer} called {usual}"))
                .flat_map(|usual| [wording(&differs, &usual), wording(&usual, &differs)])
                .collect();
            for text in &texts {
                assert!(!one_story || text == &texts[0], "{text}\n{}", texts[0]);
                assert!(possible.iter().any(|one| one == text), "{start}: {text}");
            }
        }
    }
}

#[test]
fn a_mismatch_names_both_sides_as_among_threads() {
    let threads = on_ranks(RANKS, |group| script(&group).unwrap());
    assert_named(&threads.concat(), true);
    for layout in [&[1, 1, 1, 1][..], &[2, 2], &[1, 3]] {
        let told = Plan::new("mismatches", layout).run();
        assert_named(&told, layout.len() <= 2);
    }
}
