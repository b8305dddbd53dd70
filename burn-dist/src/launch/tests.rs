//! How a job ends that only the library knows to have failed.

use std::sync::Mutex;

use burn::tensor::Device;

use super::launch;
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
        seen.lock().unwrap().push(error.to_string());
        Ok::<_, Error>(())
    })
    .unwrap_err();
    assert!(matches!(error, Error::Order { rank: 2, .. }), "{error}");
    let seen = seen.into_inner().unwrap();
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
        seen.lock().unwrap().push(error.to_string());
        Err::<(), Box<dyn std::error::Error + Send + Sync>>(error.into())
    })
    .unwrap_err();
    let failed = matches!(
        &error,
        Error::Worker { rank: 1, reason: Departure::Failed(message) } if &**message == "no batch is left"
    );
    assert!(failed, "{error}");
    let seen = seen.into_inner().unwrap();
    assert!(seen[0].contains("no batch is left"), "{seen:?}");
}
