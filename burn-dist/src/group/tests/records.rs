//! What is left of a job whose ranks wait in vain: a record of each rank, and a comparison of all.
//!
//! Ranks that don't come stay until the others have given up, so nothing here depends on timing but that
//! a timeout passes.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::HEARTBEAT;
use super::support::on_groups;
use crate::transport::faults::Breakable;
use crate::transport::memory::{MemoryNetwork, networks};
use crate::{Crossovers, Error, ProcessGroup, ReduceOp};

/// The ranks of a job whose processes write to a folder each, `<folder>/<process>`.
fn job(networks: &[Arc<MemoryNetwork>], layout: &[usize], folder: &Path) -> Vec<ProcessGroup> {
    let begin = |(process, network): (usize, &Arc<MemoryNetwork>)| {
        let folder = folder.join(process.to_string());
        ProcessGroup::begin(
            network.clone(),
            layout,
            Some(folder),
            Crossovers::default(),
            false,
        )
        .unwrap()
    };
    networks.iter().enumerate().flat_map(begin).collect()
}

fn record(folder: &TempDir, process: usize, rank: usize) -> Value {
    let name = format!("{process}/burn-dist-rank-{rank}.json");
    serde_json::from_slice(&fs::read(folder.path().join(name)).unwrap()).unwrap()
}

fn comparison(folder: &TempDir, process: usize) -> Option<String> {
    let name = format!("{process}/burn-dist-comparison-{process}.txt");
    fs::read_to_string(folder.path().join(name)).ok()
}

/// Runs `work` as the ranks of a job; gives its folder, complete.
fn run(layout: &[usize], work: impl Fn(ProcessGroup, &Barrier) + Sync) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let networks = networks(layout.len(), HEARTBEAT);
    let groups = job(&networks, layout, folder.path());
    let given_up = Barrier::new(groups.len());
    on_groups(groups, |group| work(group, &given_up));
    folder
}

fn impatient(group: &ProcessGroup) -> ProcessGroup {
    group.with_timeout(Duration::from_millis(200))
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    for layout in [&[2, 2][..], &[4], &[1, 3], &[1, 1, 2]] {
        let folder = run(layout, |group, given_up| {
            group.barrier().unwrap();
            if group.rank() < 3 {
                let reduced = impatient(&group)
                    .start()
                    .all_reduce(vec![1.0_f32; 5], ReduceOp::Sum);
                assert!(matches!(reduced.wait(), Err(Error::Timeout { .. })));
            }
            given_up.wait();
        });
        let text = comparison(&folder, 0).unwrap();
        assert!(
            text.starts_with("rank 3 is behind: it last finished barrier #0 "),
            "{layout:?}: {text}"
        );
        assert!(
            text.contains(
                "never came to all_reduce #1 f32[5] sum, in which ranks 0, 1 and 2 have waited for "
            ),
            "{layout:?}: {text}"
        );
        assert_eq!(text.lines().count(), 1, "{layout:?}: {text}");
        let hosts = layout.iter().enumerate();
        let hosts = hosts.flat_map(|(process, &ranks)| vec![process; ranks]);
        for (rank, process) in hosts.enumerate() {
            let record = record(&folder, process, rank);
            assert_eq!(record["rank"], rank);
            let operations = record["operations"].as_array().unwrap();
            assert_eq!(operations[0]["operation"], "barrier");
            assert_eq!(operations[0]["state"], "done");
            assert_eq!(operations.len(), if rank < 3 { 2 } else { 1 });
            if let Some(waits) = operations.get(1) {
                assert_eq!(waits["operation"], "all_reduce");
                assert_eq!(
                    (&waits["dtype"], &waits["shape"][0]),
                    (&"f32".into(), &5.into())
                );
                assert_ne!(waits["state"], "done");
            }
        }
    }
}

#[test]
fn a_group_without_process_0_is_compared_by_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let groups = job(&networks(3, HEARTBEAT), &[1, 1, 1], folder.path());
    on_groups(groups, |group| {
        let pair = group.split((group.rank() > 0).then_some(4), 0).unwrap();
        if group.rank() == 1 {
            let error = impatient(&pair.unwrap()).barrier().unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        } else {
            wait_until(|| comparison(&folder, 0).is_some());
        }
    });
    let text = comparison(&folder, 0).unwrap();
    assert!(text.starts_with("rank 2 is behind: "), "{text}");
    assert!(
        text.contains("barrier #0 of split #0 colour 4, in which rank 1 has"),
        "{text}"
    );
    assert_eq!(record(&folder, 0, 0)["operations"][0]["operation"], "split");
}

#[test]
fn a_message_that_is_never_sent_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let groups = job(&networks(2, HEARTBEAT), &[1, 1], folder.path());
    on_groups(groups, |group| {
        if group.rank() == 0 {
            group.send(&[1_u8], 1, 7).unwrap();
            wait_until(|| comparison(&folder, 0).is_some());
        } else {
            group.recv(&mut [0_u8], 0, 7).unwrap();
            impatient(&group).recv(&mut [0_u8], 0, 8).unwrap_err();
        }
    });
    let text = comparison(&folder, 0).unwrap();
    let start = text.starts_with("rank 1 has waited for 0.");
    let words =
        "s in recv #1 u8[1] from rank 0 tag 8; rank 0 last finished send #0 u8[1] to rank 1 tag 7";
    assert!(start && text.contains(words), "{text}");
    let operations = &record(&folder, 1, 1)["operations"];
    let [taken, missing] = [&operations[0], &operations[1]];
    assert_eq!(
        (&taken["state"], &taken["tag"]),
        (&"done".into(), &7.into())
    );
    assert_eq!(
        (&missing["state"], &missing["from"]),
        (&"waiting".into(), &0.into())
    );
}

/// Waits for something that another thread does.
#[track_caller]
fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A job of three processes whose process `frozen` freezes.
fn freeze(frozen: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let networks = networks(3, HEARTBEAT);
    let groups = job(&networks, &[1, 1, 1], folder.path());
    on_groups(groups, |group| {
        group.barrier().unwrap();
        if group.rank() == frozen {
            networks[frozen].freeze();
        }
        let outcome = group.barrier();
        // The frozen process may have all it needs.
        if group.rank() != frozen {
            let error = outcome.unwrap_err();
            assert!(matches!(error, Error::Lost { .. }), "{error}");
        }
    });
    folder
}

#[test]
fn a_silent_process_has_no_record_in_the_comparison() {
    let folder = freeze(1);
    let text = comparison(&folder, 0).unwrap();
    assert!(text.starts_with("ranks 0 and 2 have waited for "), "{text}");
    assert!(
        text.contains(" in barrier #1; rank 1 sent no record"),
        "{text}"
    );
    for rank in [0, 2] {
        assert_eq!(
            record(&folder, rank, rank)["operations"][0]["state"],
            "done"
        );
    }
}

#[test]
fn where_process_0_is_silent_the_next_compares() {
    let folder = freeze(0);
    let text = comparison(&folder, 1).unwrap();
    assert!(
        text.contains(" in barrier #1; rank 0 sent no record"),
        "{text}"
    );
}

#[test]
fn other_failures_leave_nothing() {
    let folder = run(&[1, 2], |group, given_up| {
        group.barrier().unwrap();
        if group.rank() == 2 {
            group.abort("enough");
        }
        group.barrier().unwrap_err();
        given_up.wait();
    });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
