//! Bounds on memory: synchronised gradients take at most 1.25 times the gradients for each replica, and a blocking
//! call on borrowed memory takes none of its size.
//!
//! A binary of its own, whose tests take turns, because the allocator counts for the whole process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../benches/peaks/mod.rs"]
mod peaks;

use std::net::TcpListener;
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use burn::tensor::Device;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::Launcher;
use burn_dist::{JobConfig, ProcessGroup, ReduceOp};
use peak_alloc::PeakAlloc;
use peaks::Peaks;

/// Held by the test that measures.
static TURN: Mutex<()> = Mutex::new(());

const REPLICAS: usize = 2;

fn launcher(replicas: usize) -> Launcher {
    Launcher::new(vec![Device::flex().autodiff(); replicas])
        .with_threads_per_replica(1)
        .with_timeout(Duration::from_mins(1))
}

fn as_threads(config: &DdpConfig) -> Peaks {
    let turn = Barrier::new(REPLICAS);
    let peaks = launcher(REPLICAS)
        .run(|worker| peaks::measure(&worker, config, &turn, REPLICAS, worker.rank() == 0));
    peaks.unwrap()[0]
}

/// Over TCP, as one process each would, but in this one.
fn over_tcp(config: &DdpConfig) -> Peaks {
    let turn = Barrier::new(REPLICAS);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let master = listener.local_addr().unwrap().to_string();
    let run = |process: usize, job: JobConfig| {
        let peaks = launcher(1)
            .with_job(job)
            .run(|worker| peaks::measure(&worker, config, &turn, REPLICAS, process == 0));
        peaks.unwrap()[0]
    };
    std::thread::scope(|scope| {
        let second = JobConfig::new(1, REPLICAS, master.clone());
        let second = scope.spawn(|| run(1, second));
        let first = run(
            0,
            JobConfig::new(0, REPLICAS, master.clone()).with_listener(listener),
        );
        second.join().unwrap();
        first
    })
}

#[test]
fn a_blocking_call_on_borrowed_memory_takes_no_memory_of_its_size() {
    const RANKS: usize = 2;
    let _turn = TURN.lock();
    let meeting = Barrier::new(RANKS);
    let work = |group: ProcessGroup| {
        let mut buffer = vec![1.0_f32; 256 << 10];
        // The first call makes the group's state.
        group.all_reduce(&mut buffer, ReduceOp::Sum).unwrap();
        meeting.wait();
        let before = PeakAlloc.current_usage();
        if meeting.wait().is_leader() {
            PeakAlloc.reset_peak_usage();
        }
        meeting.wait();
        group.all_reduce(&mut buffer, ReduceOp::Mean).unwrap();
        meeting.wait();
        PeakAlloc.peak_usage().saturating_sub(before)
    };
    std::thread::scope(|scope| {
        for group in ProcessGroup::threads(RANKS).unwrap() {
            let work = &work;
            scope.spawn(move || {
                let taken = work(group);
                // A block of partial sums, and little else.
                assert!(taken < RANKS * (10 << 10), "{taken} bytes");
            });
        }
    });
}

#[test]
fn synchronisation_takes_little_more_than_one_copy_of_the_gradients() {
    let _turn = TURN.lock();
    // Gradients are averaged where they lie, or copied to buckets.
    for first_bucket in [1.0, 25.0] {
        let config = DdpConfig::new().with_first_bucket_mb(first_bucket);
        for (layout, peaks) in [("threads", as_threads(&config)), ("tcp", over_tcp(&config))] {
            let (gradients, extra) = (peaks.gradients, peaks.extra());
            // The measurement measures: parameters and gradients, and little else.
            assert!(
                peaks.alone > 2 * gradients && peaks.alone < 4 * gradients,
                "{layout}: {peaks:?}"
            );
            assert!(extra <= 1.25, "{layout}: {extra:.3}, {peaks:?}");
        }
    }
}
