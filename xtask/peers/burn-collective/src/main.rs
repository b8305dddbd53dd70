//! Times burn-collective's all_reduce of f32 between threads, with each of its strategies, as
//! `benches/all_reduce.rs` of burn-dist times its own: tensors are made before, all ranks begin a
//! repetition together, and the median of many is what rank 0 sees.
//!
//! Prints one line of JSON for each size and strategy, which is its `variant`.
//!
//! Threads: one for each rank; burn-collective adds its server's. A rank that fails ends the program,
//! for the others would wait for it. Caller: `cargo xtask bench --peers`.

use burn_backend::TensorData;
use burn_backend::ops::FloatTensorOps;
use burn_collective::{
    AllReduceStrategy, CollectiveConfig, CollectiveError, PeerId, ReduceOperation, all_reduce,
    register, reset_collective,
};
use burn_flex::{Flex, FlexDevice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

fn main() -> Result<(), String> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut strategies = vec![
        ("centralized", AllReduceStrategy::Centralized),
        ("tree of 2", AllReduceStrategy::Tree(2)),
        ("ring", AllReduceStrategy::Ring),
    ];
    // With fewer ranks it is the same as centralized.
    if options.ranks > 5 {
        strategies.push(("tree of 4", AllReduceStrategy::Tree(4)));
    }
    for (variant, strategy) in strategies {
        reset_collective::<Flex>();
        let job = Job {
            options: &options,
            strategy,
            variant,
            meeting: Meeting::default(),
            repetitions: AtomicUsize::new(0),
        };
        std::thread::scope(|scope| {
            for rank in 0..options.ranks {
                let job = &job;
                scope.spawn(move || {
                    if let Err(cause) = job.run(rank) {
                        eprintln!("rank {rank} of burn-collective, {variant}: {cause:?}");
                        std::process::exit(1);
                    }
                });
            }
        });
    }
    Ok(())
}

/// Ranks, sizes and times of a measurement.
struct Options {
    ranks: usize,
    /// In bytes.
    sizes: Vec<usize>,
    /// Seconds that the repetitions of one size take together, about.
    budget: f64,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            ranks: 2,
            sizes: vec![1 << 10, 1 << 20],
            budget: 1.0,
        };
        while let Some(flag) = args.next() {
            let value = args.next().ok_or(format!("{flag} needs a value"))?;
            let wrong = || format!("{flag} {value}: not understood");
            match flag.as_str() {
                "--layout" if value == "threads" => {}
                "--ranks" => options.ranks = value.parse().map_err(|_| wrong())?,
                "--budget" => options.budget = value.parse().map_err(|_| wrong())?,
                "--sizes" => {
                    let sizes: Result<_, _> = value.split(',').map(str::parse).collect();
                    options.sizes = sizes.map_err(|_| wrong())?;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(options)
    }
}

/// The ranks of one strategy.
struct Job<'a> {
    options: &'a Options,
    strategy: AllReduceStrategy,
    variant: &'a str,
    meeting: Meeting,
    /// Number of repetitions that rank 0 finds right.
    repetitions: AtomicUsize,
}

impl Job<'_> {
    fn run(&self, rank: usize) -> Result<(), CollectiveError> {
        let config = CollectiveConfig::default()
            .with_num_devices(self.options.ranks)
            .with_local_all_reduce_strategy(self.strategy);
        register::<Flex>(PeerId::from(rank), FlexDevice, config)?;
        for &bytes in &self.options.sizes {
            let seconds = self.time(rank, bytes)?;
            if rank == 0 {
                println!(
                    "{{\"bench\": \"all-reduce-tensors\", \"layout\": \"threads\", \"ranks\": {}, \
                     \"bytes\": {bytes}, \"seconds\": {seconds:e}, \"variant\": \"{}\"}}",
                    self.options.ranks, self.variant
                );
            }
        }
        Ok(())
    }

    /// The median time of one all_reduce.
    fn time(&self, rank: usize, bytes: usize) -> Result<f64, CollectiveError> {
        // Memory that was never written to is one page of zeros again and again.
        let values = vec![1.0_f32; bytes / size_of::<f32>()];
        let shape = [values.len()];
        let tensor = Flex::float_from_data(TensorData::new(values, shape), &FlexDevice);
        let once = || -> Result<f64, CollectiveError> {
            // Another owner of the same memory: the copy is burn-collective's to make or to avoid.
            let input = tensor.clone();
            self.meeting.wait(self.options.ranks);
            let start = Instant::now();
            let output = all_reduce::<Flex>(PeerId::from(rank), input, ReduceOperation::Sum)?;
            let time = start.elapsed().as_secs_f64();
            drop(output);
            Ok(time)
        };
        once()?;
        let second = once()?;
        if rank == 0 {
            let often = (self.options.budget / second.max(1e-5)) as usize;
            self.repetitions
                .store(often.clamp(5, 2000), Ordering::Relaxed);
        }
        self.meeting.wait(self.options.ranks);
        let repetitions = self.repetitions.load(Ordering::Relaxed);
        let times: Result<Vec<f64>, _> = (0..repetitions).map(|_| once()).collect();
        let mut times = times?;
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

/// Barrier at which all ranks wait for the last of them. They do not sleep, so that they leave it together: waking
/// a thread takes longer than a small all_reduce.
#[derive(Default)]
struct Meeting {
    arrived: AtomicUsize,
}

impl Meeting {
    fn wait(&self, ranks: usize) {
        let place = self.arrived.fetch_add(1, Ordering::AcqRel);
        let full = (place / ranks + 1) * ranks;
        while self.arrived.load(Ordering::Acquire) < full {
            std::thread::yield_now();
        }
    }
}
