//! Two processes of a job train as one: the same model to the bit, and metrics in process 0 alone.
//!
//! Each process is this test program again, run with nothing but the "test" `worker_process` and told its
//! place by a variable.

use crate::net::{Norm, net, net_of};
use crate::recorder::{Recorder, assert_same_values};
use crate::training::{Loader, learner, loader, ranks, run, training};
use burn::tensor::Device;
use burn::train::Interrupter;
use burn_dist::ddp::parameters_sha256;
use burn_dist::launch::Launcher;
use burn_dist::train::Distributed;
use burn_dist::{JobConfig, Secret};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const VARIABLE: &str = "BURN_DIST_TEST_TRAIN";
/// Prefix of lines that are meant for the test.
const MARK: &str = "@@ ";
/// The ranks of each process.
const RANKS: [usize; 2] = [2, 1];

fn loaders() -> (Loader, Loader) {
    (loader(25, 10, Some(3), 0), loader(11, 10, None, 0))
}

/// Not a test of its own: a process of a job.
#[test]
fn worker_process() {
    let Ok(place) = std::env::var(VARIABLE) else {
        return;
    };
    let mut words = place.splitn(3, ' ');
    let mut word = || words.next().unwrap().to_owned();
    let (role, process, folder) = (word(), word(), PathBuf::from(word()));
    let process: usize = process.parse().unwrap();
    let job = JobConfig::new(process, RANKS.len(), "127.0.0.1:0")
        .with_secret(Secret::new(b"0123456789abcdef0123456789abcdef"))
        .with_heartbeat(Duration::from_secs(30))
        .with_address_file(folder.join("address"));
    let launcher = Launcher::new(vec![Device::flex().autodiff(); RANKS[process]])
        .with_threads_per_replica(1)
        .with_timeout(Duration::from_mins(1))
        .with_job(job);
    let (recorder, interrupter) = (Recorder::default(), Interrupter::new());
    if role == "interrupted" && process == 1 {
        interrupter.stop(Some("process 1 has had enough"));
    }
    // Each process begins with a network of its own; that of rank 0 counts.
    let result = training(&folder, loaders(), Distributed::from(launcher), &recorder)
        .with_interrupter(interrupter)
        .launch(learner(net_of(1 + process as u64, Norm::Sync)));
    let told = match (result.error, result.interrupted) {
        (Some(error), _) => format!("failed: {error}"),
        (None, Some(interruption)) => interruption.reason.unwrap(),
        (None, None) => parameters_sha256(&result.model).unwrap(),
    };
    println!("\n{MARK}{told}");
    println!("\n{MARK}{} values", recorder.values().len());
}

fn start(role: &str, process: usize, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["processes::worker_process", "--exact", "--nocapture"])
        .env(VARIABLE, format!("{role} {process} {}", folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns the lines that each process reports.
fn job(role: &str) -> Vec<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let processes: Vec<Child> = (0..RANKS.len())
        .map(|process| start(role, process, folder.path()))
        .collect();
    let tell = |process: Child| {
        let output = process.wait_with_output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let marked = output.lines().filter_map(|line| line.strip_prefix(MARK));
        marked.map(str::to_owned).collect()
    };
    processes.into_iter().map(tell).collect()
}

#[test]
fn two_processes_are_one_process_to_the_bit_and_metrics_are_in_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (first, again) = (Recorder::default(), Recorder::default());
    let one = |recorder| training(folder.path(), loaders(), ranks(3), recorder);
    let model = run(one(&first), net(Norm::Sync));
    let same = run(one(&again), net(Norm::Sync));
    let checksum = parameters_sha256(&model).unwrap();
    assert_eq!(checksum, parameters_sha256(&same).unwrap());
    assert_same_values(&first, &again);

    let values = format!("{} values", first.values().len());
    let expected = [
        [checksum.clone(), values],
        [checksum, "0 values".to_owned()],
    ];
    assert_eq!(job("whole"), expected);
}

#[test]
fn an_interruption_in_one_process_reaches_the_other() {
    for told in job("interrupted") {
        assert_eq!(told[0], "process 1 has had enough");
    }
}
