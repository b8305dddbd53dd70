//! The launcher: what a worker gets, and how its end is reported.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::float_cmp, reason = "results are exact")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use burn::nn::LinearConfig;
use burn::tensor::{Device, Tensor};
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::{Launcher, Worker, launch};
use burn_dist::{Departure, Error, JobConfig, ReduceOp, random};

fn devices(ranks: usize) -> Vec<Device> {
    vec![Device::flex(); ranks]
}

#[test]
fn every_rank_runs_once_on_its_device_and_its_own_pool() {
    let runs = AtomicUsize::new(0);
    let run = |worker: Worker| {
        runs.fetch_add(1, Ordering::Relaxed);
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        assert_eq!(name, format!("burn-dist-rank-{}-pool-0", worker.rank()));
        assert_eq!(rayon::current_num_threads(), 1);
        assert_eq!(worker.device(), &Device::flex());
        let tensor = Tensor::<1>::full([3], worker.rank() as f32, worker.device());
        let sum = worker.group().all_reduce(tensor, ReduceOp::Sum)?;
        Ok::<_, Error>((
            worker.rank(),
            worker.world_size(),
            sum.into_data().try_to_vec::<f32>(),
        ))
    };
    let results = Launcher::new(devices(4))
        .with_threads_per_replica(1)
        .run(run)
        .unwrap();
    assert_eq!(runs.into_inner(), 4);
    for (rank, (found, size, sum)) in results.into_iter().enumerate() {
        assert_eq!((found, size), (rank, 4));
        assert_eq!(sum.unwrap(), [6.0; 3]);
    }
}

#[test]
fn replicas_share_the_cores() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let threads = launch(devices(2), |_| Ok::<_, Error>(rayon::current_num_threads())).unwrap();
    assert_eq!(threads, [(cores / 2).max(1); 2]);
    let threads = Launcher::new(devices(2)).with_threads_per_replica(3);
    let threads = threads
        .run(|_| Ok::<_, Error>(rayon::current_num_threads()))
        .unwrap();
    assert_eq!(threads, [3, 3]);
}

#[test]
fn a_panic_ends_the_run_with_its_rank_and_message() {
    let run = |worker: Worker| {
        worker.group().barrier()?;
        assert_ne!(worker.rank(), 2, "no such layer: {}", "conv3");
        worker.group().barrier()
    };
    let error = launch(devices(4), run).unwrap_err();
    let Error::Worker {
        rank: 2,
        reason: Departure::Panicked(message),
        source: None,
    } = &error
    else {
        panic!("{error}");
    };
    assert!(message.contains("no such layer: conv3"), "{message}");
    assert!(
        error.to_string().starts_with("rank 2 panicked: "),
        "{error}"
    );
}

#[test]
fn a_panic_with_a_plain_string_keeps_it() {
    let run = |worker: Worker| {
        assert!(worker.rank() > 0, "plain");
        worker.group().barrier()
    };
    let error = launch(devices(2), run).unwrap_err();
    assert_eq!(error.to_string(), "rank 0 panicked: plain");
}

#[test]
fn an_error_ends_the_run_with_its_rank_and_causes() {
    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("reading the label")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let run = |worker: Worker| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if worker.rank() == 1 {
            "seven".parse::<u8>().map_err(Outer)?;
        }
        worker.group().all_reduce(&mut [0.0_f32], ReduceOp::Sum)?;
        Ok(())
    };
    let error = launch(devices(3), run).unwrap_err();
    let text = "rank 1 failed: reading the label: invalid digit found in string";
    assert_eq!(error.to_string(), text);
}

#[test]
fn the_others_learn_of_a_panic_with_rank_and_message() {
    let seen = std::sync::Mutex::new(Vec::new());
    let run = |worker: Worker| {
        // Also in groups split from the first, whose handles go before the message is known.
        let all = worker.group().split(Some(0), 0)?;
        assert_ne!(worker.rank(), 0, "the first one falls");
        let group = all.as_ref().unwrap_or(worker.group());
        let error = if worker.rank() == 1 {
            group.barrier()
        } else {
            worker.group().barrier()
        };
        if let Err(error) = &error {
            seen.lock().unwrap().push(error.to_string());
        }
        error
    };
    launch(devices(3), run).unwrap_err();
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 2);
    for text in seen {
        assert!(
            text.contains("rank 0 panicked: ") && text.contains("the first one falls"),
            "{text}"
        );
    }
}

#[test]
fn a_rank_that_returns_early_is_the_groups_error() {
    let run = |worker: Worker| {
        if worker.rank() == 1 {
            return Ok(());
        }
        worker.group().barrier()
    };
    let error = launch(devices(3), run).unwrap_err();
    let early = matches!(
        error,
        Error::PeerLeft {
            peer: 1,
            reason: Departure::Returned,
            ..
        }
    );
    assert!(early, "{error}");
}

#[test]
fn an_early_return_that_keeps_its_group_is_found_too() {
    let run = |worker: Worker| {
        if worker.rank() == 1 {
            return Ok(Some(worker.group().clone()));
        }
        worker.group().barrier().map(|()| None)
    };
    let error = launch(devices(2), run).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::PeerLeft { peer: 1, .. }), "{error}");
}

#[test]
fn a_mismatch_is_reported_as_itself() {
    let run = |worker: Worker| {
        worker
            .group()
            .all_reduce(&mut vec![0_u8; worker.rank()], ReduceOp::Sum)
    };
    let error = launch(devices(2), run).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
}

#[test]
fn a_mismatch_names_the_call_of_the_program() {
    let run = |worker: Worker| -> Result<(), Error> {
        let ddp = DdpConfig::new().init(worker.group())?;
        let model = ddp.attach(LinearConfig::new(2, 1).init(worker.device()))?;
        if worker.rank() == 1 {
            return ddp.verify_replicas(&model).map(drop);
        }
        ddp.weight(1.0).map(drop)
    };
    let error = launch(vec![Device::flex().autodiff(); 2], run).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    let text = error.to_string();
    for call in [" in Ddp::verify_replicas", " in Ddp::weight"] {
        assert!(text.contains(call), "{text}");
    }
}

#[test]
fn an_error_of_the_library_that_caused_another_keeps_its_kind() {
    #[derive(Debug)]
    struct Training(Error);
    impl std::fmt::Display for Training {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("training")
        }
    }
    impl std::error::Error for Training {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let run = |worker: Worker| -> Result<(), Training> {
        if worker.rank() == 1 {
            return Err(Training(Error::Data {
                message: "no samples".into(),
            }));
        }
        worker.group().barrier().map_err(Training)
    };
    let error = launch(devices(2), run).unwrap_err();
    assert!(matches!(error, Error::Data { .. }), "{error}");
    assert_eq!(error.to_string(), "data: rank 1: no samples");
}

#[test]
fn asynchronous_calls_that_nobody_waits_for_are_finished() {
    let run = |worker: Worker| {
        let work = worker
            .group()
            .start()
            .all_reduce(vec![1_i32; 10], ReduceOp::Sum);
        if worker.rank() == 0 {
            return Ok(vec![4; 10]);
        }
        work.wait()
    };
    assert_eq!(launch(devices(4), run).unwrap(), vec![vec![4; 10]; 4]);
}

#[test]
fn a_worker_that_panics_with_operations_under_way_ends() {
    let run = |worker: Worker| {
        let group = worker.group();
        let works: Vec<_> = (0..20)
            .map(|_| group.start().all_reduce(vec![1.0_f32; 100], ReduceOp::Sum))
            .collect();
        assert_ne!(worker.rank(), 1, "in the middle");
        works
            .into_iter()
            .try_for_each(|work| work.wait().map(drop))?;
        group.barrier()
    };
    for _ in 0..20 {
        let error = launch(devices(3), run).unwrap_err();
        assert!(matches!(error, Error::Worker { rank: 1, .. }), "{error}");
    }
}

#[test]
fn bad_settings_are_errors() {
    let nothing = |_: Worker| Ok::<_, Error>(());
    let error = launch(Vec::new(), nothing).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    let error = Launcher::new(devices(1))
        .with_threads_per_replica(0)
        .run(nothing)
        .unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

#[test]
fn the_launchers_timeout_is_the_groups() {
    let launcher = Launcher::new(devices(2)).with_timeout(Duration::from_secs(7));
    let timeouts = launcher
        .run(|worker| Ok::<_, Error>(format!("{:?}", worker.group())))
        .unwrap();
    for group in timeouts {
        assert!(group.contains("timeout: 7s"), "{group}");
    }
}

/// Runs two ranks, the second of which does not come until the first has given up.
fn wait_in_vain(records: &std::path::Path) -> Error {
    let given_up = std::sync::Barrier::new(2);
    Launcher::new(devices(2))
        .with_timeout(Duration::from_millis(100))
        .with_records(records)
        .run(|worker| {
            let group = worker.group();
            group.barrier()?;
            let outcome = match worker.rank() {
                0 => group.all_reduce(&mut [1.0_f32; 3], ReduceOp::Mean),
                _ => Ok(()),
            };
            given_up.wait();
            outcome
        })
        .unwrap_err()
}

#[test]
fn ranks_that_wait_in_vain_leave_their_records() {
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("new/records");
    let error = wait_in_vain(&records);
    assert!(matches!(error, Error::Timeout { rank: 0, .. }), "{error}");
    let text = std::fs::read_to_string(records.join("burn-dist-comparison-0.txt")).unwrap();
    assert!(
        text.starts_with("rank 1 is behind: it last finished barrier #0 "),
        "{text}"
    );
    for (rank, last) in [(0, "all_reduce"), (1, "barrier")] {
        let file = records.join(format!("burn-dist-rank-{rank}.json"));
        let record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(record["rank"], rank);
        assert_eq!(record["groups"]["all ranks"], serde_json::json!([0, 1]));
        let operations = record["operations"].as_array().unwrap();
        assert_eq!(operations.last().unwrap()["operation"], last);
    }
    assert_eq!(std::fs::read_dir(&records).unwrap().count(), 3);
}

#[test]
fn records_that_cannot_be_written_do_not_hide_the_failure() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = wait_in_vain(file.path());
    assert!(matches!(error, Error::Timeout { rank: 0, .. }), "{error}");
}

/// Returns the result of dropout on ones, for each rank.
fn masks(launcher: Launcher, seed: Option<u64>) -> Vec<Vec<f32>> {
    let masks = launcher.run(|worker| {
        if let Some(seed) = seed {
            random::seed(seed, worker.rank());
        }
        let dropout = random::DropoutConfig::new(0.5).init();
        let output = dropout.forward(Tensor::<1>::ones([64], worker.device()));
        Ok::<_, Error>(output.into_data().iter::<f32>().collect())
    });
    masks.unwrap()
}

#[test]
fn ranks_draw_apart_and_as_in_the_last_run_without_a_call() {
    // Three threads compute for each rank, and one pool does not know the other's streams.
    let launcher = || Launcher::new(vec![Device::flex().autodiff(); 3]).with_threads_per_replica(3);
    let first = masks(launcher(), None);
    assert_ne!(first[0], first[1]);
    assert_ne!(first[0], first[2]);
    assert_ne!(first[1], first[2]);
    assert_eq!(masks(launcher(), None), first);
    assert_eq!(masks(launcher().with_seed(0), None), first);
    let other = masks(launcher().with_seed(7), None);
    assert_ne!(other[0], first[0]);
    // A worker's own call is what it was before.
    assert_eq!(masks(launcher(), Some(7)), other);
}

#[test]
fn a_job_of_one_process_opens_no_port_and_needs_no_secret() {
    // An address of no machine: whoever listened there, or asked for a secret, would fail.
    let job = JobConfig::new(0, 1, "192.0.2.1:29500");
    let sizes = Launcher::new(devices(2)).with_job(job).run(|worker| {
        assert_eq!(worker.address(), None);
        Ok::<_, Error>(worker.world_size())
    });
    assert_eq!(sizes.unwrap(), [2, 2]);
    // What can't be right is still told.
    let wrong = Launcher::new(devices(1)).with_job(JobConfig::new(1, 1, "192.0.2.1:29500"));
    let error = wrong.run(|_| Ok::<_, Error>(())).unwrap_err().to_string();
    assert!(error.contains("no process 1 in a job of 1"), "{error}");
}

#[test]
fn a_time_that_no_clock_can_hold_is_an_error_and_no_panic() {
    let forever = JobConfig::new(0, 2, "127.0.0.1:0").with_join_timeout(Duration::MAX);
    let run = Launcher::new(devices(1)).with_job(forever);
    let error = run.run(|_| Ok::<_, Error>(())).unwrap_err().to_string();
    assert!(error.contains("join timeout"), "{error}");
}
