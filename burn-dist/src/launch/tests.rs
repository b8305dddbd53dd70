//! How a run ends that only the library knows to have failed, or whose ranks are stuck.

use parking_lot::Mutex;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use burn::tensor::Device;

use super::{Launcher, launch};
use crate::element::ReduceOp;
use crate::error::{Departure, Error};

fn devices(ranks: usize) -> Vec<Device> {
    vec![Device::flex(); ranks]
}

fn fault(rank: usize) -> Error {
    let message = "a gradient was never averaged".to_owned();
    Error::Order { rank, message }
}

#[test]
fn a_fault_fails_a_run_whose_workers_all_return_well() {
    let error = launch(devices(2), |worker| {
        if worker.rank() == 1 {
            worker.group().fault(fault(1));
        }
        Ok::<_, Error>(())
    })
    .unwrap_err();
    assert!(matches!(error, Error::Order { rank: 1, .. }), "{error}");
}

#[test]
fn the_failure_of_a_dropped_work_fails_the_run() {
    let mismatch = launch(devices(2), |worker| {
        let buffer = vec![1_i32; 10 + worker.rank()];
        drop(worker.group().start().all_reduce(buffer, ReduceOp::Sum));
        Ok::<_, Error>(())
    });
    let error = mismatch.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");

    let no_such_root = launch(devices(2), |worker| {
        drop(worker.group().start().broadcast(vec![1_i32; 10], 7));
        Ok::<_, Error>(())
    });
    let error = no_such_root.unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
}

#[test]
fn a_fault_ends_the_others_at_the_next_call_of_its_rank() {
    let seen = Mutex::new(Vec::new());
    let error = launch(devices(3), |worker| {
        let twin = worker.group().duplicate()?;
        if worker.rank() == 2 {
            twin.fault(fault(2));
            // The error of the first call is left unheeded.
            let _ = worker.group().barrier();
            return Ok(());
        }
        let error = twin.barrier().unwrap_err();
        seen.lock().push(error.to_string());
        Ok::<_, Error>(())
    })
    .unwrap_err();
    assert!(matches!(error, Error::Order { rank: 2, .. }), "{error}");
    let seen = seen.into_inner();
    assert_eq!(seen, [error.to_string(), error.to_string()]);
}

#[test]
fn an_error_that_a_worker_returns_is_told_and_not_its_fault() {
    let seen = Mutex::new(Vec::new());
    let error = launch(devices(2), |worker| {
        if worker.rank() == 1 {
            worker.group().fault(fault(1));
            return Err("no batch is left".into());
        }
        let error = worker.group().barrier().unwrap_err();
        seen.lock().push(error.to_string());
        Err::<(), Box<dyn std::error::Error + Send + Sync>>(error.into())
    })
    .unwrap_err();
    let failed = matches!(
        &error,
        Error::Worker { rank: 1, reason: Departure::Failed(message), .. } if &**message == "no batch is left"
    );
    assert!(failed, "{error}");
    let seen = seen.into_inner();
    assert!(seen[0].contains("no batch is left"), "{seen:?}");
}

const SHORT: Duration = Duration::from_millis(100);

/// Two ranks, of which the second is stuck until the other end of the channel goes.
fn stuck(release: mpsc::Receiver<()>) -> impl Fn(super::Worker) -> Result<(), Error> + Send + Sync {
    let release = Mutex::new(release);
    move |worker| {
        if worker.rank() == 1 {
            while release.lock().recv().is_ok() {}
            return Ok(());
        }
        worker.group().barrier()
    }
}

#[test]
fn a_run_with_a_stuck_rank_returns_its_failure_and_leaves_the_rank_behind() {
    let (release, stays) = mpsc::channel();
    let launcher = Launcher::new(devices(2)).with_timeout(SHORT);
    let error = launcher.run_detached(stuck(stays)).unwrap_err();
    assert!(matches!(error, Error::Timeout { rank: 0, .. }), "{error}");
    // Its end of the channel is there: it was stuck until now.
    drop(release.send(()).map(|()| release).unwrap());
}

#[test]
fn a_run_that_waits_for_a_stuck_rank_says_why() {
    let (release, stays) = mpsc::channel();
    let (told, release) = (
        Arc::new(Mutex::new(String::new())),
        Mutex::new(Some(release)),
    );
    let tell = told.clone();
    let error = Launcher::new(devices(2))
        .with_timeout(SHORT)
        .with_grace(SHORT)
        .with_on_stuck(move |error| {
            *tell.lock() = error.to_string();
            drop(release.lock().take());
        })
        .run(stuck(stays))
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { rank: 0, .. }), "{error}");
    assert_eq!(*told.lock(), error.to_string());
}

#[test]
fn a_stuck_rank_is_left_behind_where_another_process_has_failed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let master = listener.local_addr().unwrap().to_string();
    let (release, stays) = mpsc::channel();
    let stuck = Arc::new(stuck(stays));
    let run = |job: crate::JobConfig| {
        let stuck = Arc::clone(&stuck);
        let launcher = Launcher::new(devices(1))
            .with_timeout(SHORT * 10)
            .with_grace(SHORT);
        launcher
            .with_job(job)
            .run_detached(move |worker| stuck(worker))
    };
    let first = crate::JobConfig::new(0, 2, master.clone()).with_listener(listener);
    let second = crate::JobConfig::new(1, 2, master);
    let errors = std::thread::scope(|scope| {
        let second = scope.spawn(|| run(second).unwrap_err());
        [run(first).unwrap_err(), second.join().unwrap()]
    });
    for error in errors {
        assert!(matches!(error, Error::Timeout { rank: 0, .. }), "{error}");
    }
    drop(release);
}
