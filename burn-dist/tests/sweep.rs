//! A launch in which models come and go, as in a sweep: each leaves no thread and no memory behind.
//!
//! One test in a binary of its own, because threads and bytes are those of the whole process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use burn_dist::ddp::{DdpConfig, SyncStats};
use burn_dist::launch::{Launcher, Worker};
use burn_dist::observe::StepMonitor;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The threads and bytes of this process.
fn used() -> (i64, i64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("Threads:"));
    let threads = line.unwrap().split_whitespace().nth(1).unwrap();
    (threads.parse().unwrap(), MEMORY.current_usage() as i64)
}

fn monitor(worker: &Worker) -> burn_dist::Result<()> {
    let mut monitor = StepMonitor::new(worker.group())?;
    monitor.step(1, SyncStats::default())
}

fn model(worker: &Worker) -> burn_dist::Result<()> {
    let ddp = DdpConfig::new().init(worker.group())?;
    let model: Linear = ddp.attach(LinearConfig::new(3, 2).init(worker.device()))?;
    let batch = Tensor::<2>::ones([1, 3], worker.device());
    let gradients = model.forward(batch).sum().backward();
    ddp.synchronize(gradients, &model).map(drop)
}

/// Checks, on rank 0, the growth between the hundredth call and the last.
fn sweep(
    worker: &Worker,
    times: usize,
    each: fn(&Worker) -> burn_dist::Result<()>,
) -> burn_dist::Result<()> {
    let mut before = (0, 0);
    for number in 0..times {
        each(worker)?;
        if number == 99 || number + 1 == times {
            // No rank makes a next one meanwhile.
            worker.group().barrier()?;
            if worker.rank() == 0 && number == 99 {
                before = used();
            } else if worker.rank() == 0 {
                grown_little(before);
            }
            worker.group().barrier()?;
        }
    }
    Ok(())
}

/// Threads may take a moment to end.
fn grown_little(before: (i64, i64)) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = used();
        let (threads, bytes) = (now.0 - before.0, now.1 - before.1);
        if threads <= 1 && bytes <= 1 << 20 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{threads} threads and {bytes} bytes more"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_was_dropped_leaves_no_thread_and_no_memory_behind() {
    Launcher::new(vec![Device::flex().autodiff(); 2])
        .with_threads_per_replica(1)
        .with_timeout(Duration::from_mins(1))
        .run(|worker| {
            sweep(&worker, 1000, monitor)?;
            sweep(&worker, 200, model)
        })
        .unwrap();
}
