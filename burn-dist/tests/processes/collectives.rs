//! The collectives over TCP give what they give over threads, to the bit, in every layout.

use std::hash::{DefaultHasher, Hash, Hasher};

use burn_dist::launch::Worker;
use burn_dist::{ProcessGroup, ReduceOp, Result};

use crate::job::Plan;
use crate::support::program::check_program;
use crate::support::{all_values, assert_same, on_ranks, reduced, values};
use crate::worker::{Failure, tell};

const LENGTHS: [usize; 4] = [0, 1, 1001, 100_003];

/// The names and contents of all results of one rank, as lines.
type Results = Vec<String>;

fn note(results: &mut Results, group: &ProcessGroup, what: &str, values: &[f32]) {
    let mut hasher = DefaultHasher::new();
    bytemuck::cast_slice::<f32, u8>(values).hash(&mut hasher);
    results.push(format!(
        "rank {} has {:016x} after {what} of {} values",
        group.ranks()[group.rank()],
        hasher.finish(),
        values.len()
    ));
}

/// Every collective once for each length, in groups of several shapes.
pub(crate) fn script(group: &ProcessGroup) -> Result<Results> {
    let mut results = Results::new();
    for (seed, length) in (1..).zip(LENGTHS) {
        reductions(&mut results, group, seed, length)?;
        moves(&mut results, group, seed, length)?;
    }
    // A stream of many chunks.
    let mut buffer = values::<f32>(9, group.rank(), 2_000_003);
    group.all_reduce(&mut buffer, ReduceOp::Mean)?;
    note(&mut results, group, "all_reduce", &buffer);
    for seed in 0..3 {
        check_program::<f32>(group, seed, 30);
    }
    // Groups that lie across processes, in the opposite order of ranks; and a group of one of them.
    let rank = group.rank();
    for (seed, colour) in [(11, rank % 2), (12, rank.div_ceil(2))] {
        let part = group.split(Some(colour as u64), -(rank as i64))?;
        if let Some(part) = part {
            moves(&mut results, &part, seed, 1001)?;
            reductions(
                &mut results,
                &part.split(Some(0), 0)?.unwrap(),
                seed,
                100_003,
            )?;
        }
    }
    Ok(results)
}

fn reductions(results: &mut Results, group: &ProcessGroup, seed: u64, length: usize) -> Result<()> {
    let ranks = group.world_size();
    let inputs = all_values::<f32>(seed, ranks, length);
    for op in [ReduceOp::Sum, ReduceOp::Mean] {
        let mut buffer = values::<f32>(seed, group.rank(), length);
        group.all_reduce(&mut buffer, op)?;
        assert_same(&buffer, &reduced(&inputs, op), "all_reduce");
        note(results, group, "all_reduce", &buffer);
    }
    // Two under way at once.
    let input = values::<f32>(seed, group.rank(), length);
    let first = group.start().all_reduce(input.clone(), ReduceOp::Max);
    let second = group.start().all_reduce(input, ReduceOp::Sum);
    note(results, group, "all_reduce_async", &second.wait()?);
    note(results, group, "all_reduce_async", &first.wait()?);

    let input = values::<f32>(seed, group.rank(), length * ranks);
    let mut output = vec![0.0; length];
    group.reduce_scatter((&input, &mut output), ReduceOp::Sum)?;
    note(results, group, "reduce_scatter", &output);
    Ok(())
}

fn moves(results: &mut Results, group: &ProcessGroup, seed: u64, length: usize) -> Result<()> {
    let (rank, ranks) = (group.rank(), group.world_size());
    let mine = values::<f32>(seed, rank, length);
    for root in [0, ranks - 1] {
        let mut buffer = mine.clone();
        group.broadcast(&mut buffer, root)?;
        assert_same(&buffer, &values(seed, root, length), "broadcast");
        note(results, group, "broadcast", &buffer);
    }
    let mut output = vec![0.0; length * ranks];
    group.all_gather((&mine, &mut output))?;
    note(results, group, "all_gather", &output);
    let input = values::<f32>(seed, rank, length * ranks);
    group.all_to_all((&input, &mut output))?;
    note(results, group, "all_to_all", &output);

    // To the next rank and on, and from the one before it.
    let before = (rank + ranks - 1) % ranks;
    if before != rank {
        let mut buffer = vec![0.0; length];
        group.send(&mine, (rank + 1) % ranks, seed)?;
        group.recv(&mut buffer, before, seed)?;
        assert_same(&buffer, &values(seed, before, length), "recv");
        note(results, group, "recv", &buffer);
    }
    Ok(())
}

pub(crate) fn work(worker: &Worker) -> Result<(), Failure> {
    script(worker.group())?.into_iter().for_each(tell);
    Ok(())
}

/// Returns the lines that a job of threads reports.
pub(crate) fn told_by_threads(ranks: usize) -> Vec<String> {
    let results = on_ranks(ranks, |group| script(&group).unwrap());
    let mut lines = results.concat();
    lines.sort();
    lines
}

/// The lines of results among those that a job told, in the order of [`told_by_threads`].
pub(crate) fn results(told: Vec<String>) -> Vec<String> {
    let mut lines = told;
    lines.retain(|line| line.starts_with("rank "));
    lines.sort();
    lines
}

#[track_caller]
fn assert_as_threads(layout: &[usize]) {
    let found = results(Plan::new("collectives", layout).run());
    let expected = told_by_threads(layout.iter().sum());
    assert!(!expected.is_empty());
    assert_eq!(found, expected, "layout {layout:?}");
}

#[test]
fn one_rank_in_each_process() {
    for processes in [2, 4, 8] {
        assert_as_threads(&vec![1; processes]);
    }
}

#[test]
fn several_ranks_in_each_process() {
    assert_as_threads(&[2, 2]);
    assert_as_threads(&[2, 2, 2]);
}

#[test]
fn uneven_processes() {
    assert_as_threads(&[1, 3]);
    assert_as_threads(&[3, 1, 2]);
}
