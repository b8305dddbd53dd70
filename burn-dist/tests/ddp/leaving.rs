//! What belongs to a model is told and freed when it is dropped, while the rank goes on.

use super::{Failure, linear, run};
use burn::nn::Linear;
use burn::tensor::{Gradients, Tensor};
use burn_dist::ddp::{Ddp, DdpConfig, SyncStats};
use burn_dist::launch::Worker;
use burn_dist::observe::StepMonitor;
use burn_dist::{Departure, Error};

fn attached(worker: &Worker) -> burn_dist::Result<(Ddp, Linear)> {
    let ddp = DdpConfig::new().init(worker.group())?;
    let model = ddp.attach(linear(3, 2, worker.device()))?;
    Ok((ddp, model))
}

fn pass(model: &Linear, worker: &Worker) -> Gradients {
    let batch = Tensor::<2>::ones([1, 3], worker.device());
    model.forward(batch).sum().backward()
}

#[track_caller]
fn assert_left(error: &Error) {
    let left = matches!(
        error,
        Error::PeerLeft {
            peer: 1,
            reason: Departure::Returned,
            ..
        }
    );
    assert!(left, "{error}");
}

#[test]
fn a_dropped_ddp_is_told_to_the_others_at_once() {
    run(2, |worker| -> Result<(), Failure> {
        let (ddp, model) = attached(worker)?;
        ddp.synchronize(pass(&model, worker), &model)?;
        if worker.rank() == 1 {
            drop(ddp);
        } else {
            let error = ddp.synchronize(pass(&model, worker), &model).unwrap_err();
            assert_left(&error);
        }
        // Both go on without it.
        Ok(worker.group().barrier()?)
    })
    .unwrap();
}

#[test]
fn a_dropped_monitor_is_told_to_the_others_at_once() {
    run(2, |worker| -> Result<(), Failure> {
        let mut monitor = StepMonitor::new(worker.group())?;
        monitor.step(1, SyncStats::default())?;
        if worker.rank() == 1 {
            drop(monitor);
        } else {
            monitor.step(1, SyncStats::default())?;
            assert_left(&monitor.finish().unwrap_err());
        }
        Ok(worker.group().barrier()?)
    })
    .unwrap();
}

#[test]
fn a_rank_that_caught_an_error_still_tells_what_it_drops() {
    run(2, |worker| -> Result<(), Failure> {
        let (ddp, model) = attached(worker)?;
        let twin = worker.group().split(Some(0), 0)?.unwrap();
        twin.abort("tried and given up");
        assert!(twin.barrier().is_err());
        if worker.rank() == 1 {
            drop(ddp);
        } else {
            let error = ddp.synchronize(pass(&model, worker), &model).unwrap_err();
            assert_left(&error);
        }
        Ok(worker.group().barrier()?)
    })
    .unwrap();
}
