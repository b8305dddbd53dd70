//! What synchronised gradients cost in memory: at most 1.25 times the gradients, for each replica.
//!
//! One test in a binary of its own, because the allocator counts for the whole process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../benches/peaks/mod.rs"]
mod peaks;

use std::net::TcpListener;
use std::sync::Barrier;
use std::time::Duration;

use burn::tensor::Device;
use burn_dist::JobConfig;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::Launcher;
use peaks::Peaks;

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
fn synchronisation_takes_little_more_than_one_copy_of_the_gradients() {
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
