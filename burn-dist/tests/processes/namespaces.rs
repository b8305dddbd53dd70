//! Jobs whose two processes are on two machines, as namespaces.
//!
//! Where the system does not let the tests make them, they say so and do nothing.

use std::time::{Duration, Instant};

use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor};
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::{Launcher, Worker};
use burn_dist::{ReduceOp, Result, random};

use crate::collectives;
use crate::faults::{AFTER_SILENCE, assert_within, errors};
use crate::job::Plan;
use crate::machines::{ADDRESSES, TwoMachines, run};
use crate::worker::{Failure, tell};

/// None, with a message, where this machine does not let us.
fn two_machines() -> Option<TwoMachines> {
    match TwoMachines::new() {
        Ok(machines) => {
            // The system has let us: what fails from here on is a failure.
            machines.bring_up().unwrap();
            Some(machines)
        }
        Err(reason) => {
            eprintln!("skipped, for this needs root, ip, tc and network namespaces: {reason}");
            None
        }
    }
}

fn plan(machines: &TwoMachines, role: &'static str) -> Plan {
    Plan::new(role, &[1, 1])
        .master(format!("{}:29500", ADDRESSES[0]))
        .namespaces(machines.names())
}

/// The size of the sum by which the speed of a link is seen.
const SLOW_BYTES: usize = 4 << 20;

/// Trains a few steps; gives the hash of the parameters.
fn train(worker: &Worker) -> Result<String> {
    let ddp = DdpConfig::new().init(worker.group())?;
    let build = |device: &Device| LinearConfig::new(64, 8).init(device);
    let mut model: Linear = ddp.attach(random::init(5, worker.device(), build))?;
    let mut optimizer = SgdConfig::new().init();
    for step in 0..10 {
        let sample = (step * worker.world_size() + worker.rank()) as f32;
        let batch = Tensor::<2>::full([4, 64], (sample * 0.37).sin(), worker.device());
        let loss = model.forward(batch).powi_scalar(2).mean();
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        model = optimizer.step(0.1, model, gradients);
    }
    ddp.verify_replicas(&model)
}

/// Every collective, a training run, and a sum that is timed.
pub(crate) fn work(worker: &Worker) -> Result<(), Failure> {
    let group = worker.group();
    collectives::script(group)?.into_iter().for_each(tell);
    tell(format_args!("trained {}", train(worker)?));
    group.barrier()?;
    let start = Instant::now();
    let mut megabytes = vec![1.0_f32; SLOW_BYTES / size_of::<f32>()];
    group.all_reduce(&mut megabytes, ReduceOp::Sum)?;
    tell(format_args!("took {} ms", start.elapsed().as_millis()));
    Ok(())
}

/// Runs a job between the two machines and compares with threads; gives how long the sum took.
#[track_caller]
fn assert_as_threads(machines: &TwoMachines) -> Duration {
    let told = plan(machines, "machines").run();
    let telling = |start: &str| {
        let lines = told.iter().filter_map(|line| line.strip_prefix(start));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let devices = vec![Device::flex().autodiff(); 2];
    let threads = Launcher::new(devices).with_threads_per_replica(1);
    assert_eq!(
        telling("trained "),
        threads.run(|worker| train(&worker)).unwrap()
    );
    let took = telling("took ").into_iter().map(|took| {
        let milliseconds = took.strip_suffix(" ms").unwrap();
        Duration::from_millis(milliseconds.parse().unwrap())
    });
    let took = took.max().unwrap();
    assert_eq!(collectives::results(told), collectives::told_by_threads(2));
    took
}

#[test]
fn two_machines_train_as_threads_do() {
    let Some(machines) = two_machines() else {
        return;
    };
    assert_as_threads(&machines);
    if let Err(reason) = machines.limit("100mbit") {
        eprintln!("skipped, for this needs the token bucket filter: {reason}");
        return;
    }
    let took = assert_as_threads(&machines);
    // 4 MiB in each direction take 335 ms at 100 Mbit/s, less what the bucket lets through at once: a
    // sum that is faster did not go over this link.
    assert!(took > Duration::from_millis(250), "took {took:?}");
}

#[test]
fn a_link_that_goes_down_is_missed_after_a_heartbeat() {
    let Some(machines) = two_machines() else {
        return;
    };
    let heartbeat = Duration::from_secs(1);
    for end in 0..2 {
        let mut job = plan(&machines, "loop").heartbeat(heartbeat).start();
        job.wait_until_told(0, "going");
        job.wait_until_told(1, "going");
        let name = &machines.names()[end];
        let start = Instant::now();
        run("ip", &format!("-n {name} link set {name} down")).unwrap();
        let ended = job.wait_for_all();
        assert_within(heartbeat + AFTER_SILENCE, start, ended, &job);
        for (rank, error) in errors(&job, &[0, 1]).iter().enumerate() {
            let other = 1 - rank;
            let lost = format!("rank {other} of process {other} at {}:", ADDRESSES[other]);
            assert!(error.starts_with(&lost), "{error}");
            assert!(
                error.contains(" can't be reached in all_reduce #"),
                "{error}"
            );
        }
        run("ip", &format!("-n {name} link set {name} up")).unwrap();
    }
}
