//! Times how fast batches of MNIST-like items come out of our loader, against Burn's own.
//!
//! Two ranks (threads) each go through their half of the items at the same time; passes with our loader
//! and with Burn's alternate, so that both meet the same machine. Prints one line of JSON for each
//! number of workers: `loader-N-workers`, the median time for a batch, of the slower rank; `bytes` are
//! those of a batch of images.

mod report;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::data::dataset::transform::PartialDataset;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::data::ShardedLoaderConfig;
use clap::Parser;
use report::{Measurement, median};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The pixels of an image.
const PIXELS: usize = 28 * 28;
const SEED: u64 = 5;

#[derive(Debug, Parser)]
struct Options {
    /// Number of ranks that share the items.
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// Numbers of workers of each rank, one measurement each.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    workers: Vec<usize>,
    /// Items a rank and batch.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Number of items.
    #[arg(long, default_value_t = 20_000)]
    items: usize,
    /// Number of passes with each loader.
    #[arg(long, default_value_t = 15)]
    passes: usize,
    /// Flag that `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// An image as data sets hold it.
#[derive(Clone, Debug)]
struct Item {
    pixels: Vec<u8>,
    label: u8,
}

/// Makes the tensors that a training step takes.
#[derive(Clone)]
struct Images;

type Batch = (Tensor<3>, Tensor<1, Int>);

impl Batcher<Item, Batch> for Images {
    fn batch(&self, items: Vec<Item>, device: &Device) -> Batch {
        let count = items.len();
        let pixels = items.iter().flat_map(|item| &item.pixels);
        let pixels: Vec<f32> = pixels.map(|&pixel| f32::from(pixel) / 255.0).collect();
        let labels: Vec<i64> = items.iter().map(|item| item.label.into()).collect();
        (
            Tensor::from_data(TensorData::new(pixels, [count, 28, 28]), device),
            Tensor::from_data(TensorData::new(labels, [count]), device),
        )
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let items: Vec<Item> = (0..options.items).map(item).collect();
    for &workers in &options.workers {
        let ours = ours(&options, &items, workers)?;
        let burns = burns(&options, &items, workers);
        // The first passes warm the caches.
        time(&ours);
        time(&burns);
        let (mut seconds, mut peer_seconds) = (Vec::new(), Vec::new());
        for _ in 0..options.passes.max(1) {
            seconds.push(time(&ours));
            peer_seconds.push(time(&burns));
        }
        let measurement = Measurement {
            bench: &format!("loader-{workers}-workers"),
            layout: "threads",
            ranks: options.ranks,
            bytes: options.batch * PIXELS * size_of::<f32>(),
            seconds: median(&mut seconds),
            peer: Some("Burn's DataLoader"),
            peer_seconds: Some(median(&mut peer_seconds)),
        };
        measurement.print()?;
    }
    Ok(())
}

fn item(number: usize) -> Item {
    Item {
        pixels: (0..PIXELS).map(|pixel| (number + pixel) as u8).collect(),
        label: (number % 10) as u8,
    }
}

type Loaders = Vec<Arc<dyn DataLoader<Batch>>>;

/// One loader for each rank.
fn ours(options: &Options, items: &[Item], workers: usize) -> Result<Loaders> {
    let of_rank = |rank| -> Result<Arc<dyn DataLoader<Batch>>> {
        let loader = ShardedLoaderConfig::new()
            .with_batch_size(Some(options.batch))
            .with_seed(Some(SEED))
            .with_num_workers(workers)
            .init_shard(
                (rank, options.ranks),
                &Device::flex(),
                Images,
                InMemDataset::new(items.to_vec()),
            )?;
        Ok(loader)
    };
    (0..options.ranks).map(of_rank).collect()
}

/// The same with Burn's loader, each on its part of the items.
fn burns(options: &Options, items: &[Item], workers: usize) -> Loaders {
    let of_rank = |rank| {
        let all = InMemDataset::new(items.to_vec());
        let [start, end] = [rank, rank + 1].map(|rank| rank * items.len() / options.ranks);
        DataLoaderBuilder::new(Images)
            .batch_size(options.batch)
            .shuffle(SEED)
            .num_workers(workers)
            .set_device(Device::flex())
            .build(PartialDataset::new(all, start, end))
    };
    (0..options.ranks).map(of_rank).collect()
}

/// One pass of all ranks at once; gives the slowest one's time for a batch.
fn time(loaders: &Loaders) -> f64 {
    let together = Barrier::new(loaders.len());
    let pass = |loader: &Arc<dyn DataLoader<Batch>>| {
        together.wait();
        let start = Instant::now();
        let batches = loader.iter().map(std::hint::black_box).count();
        start.elapsed().as_secs_f64() / batches.max(1) as f64
    };
    thread::scope(|scope| {
        let passes: Vec<_> = loaders
            .iter()
            .map(|loader| scope.spawn(move || pass(loader)))
            .collect();
        let times = passes.into_iter().map(|pass| {
            let joined = pass.join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        times.fold(0.0, f64::max)
    })
}
