//! Ranks whose batches don't come out even train as one process: the loop of the README, losses that are means
//! over tokens or weighed by classes, ranks that have nothing.

use super::{Failure, assert_close, run};
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::nn::loss::{CrossEntropyLossConfig, MseLoss, Reduction};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::data::{ShardedBatches, ShardedLoaderConfig};
use burn_dist::ddp::{Ddp, DdpConfig};
use burn_dist::random;

#[derive(Module, Debug)]
struct Net {
    a: Linear,
    b: Linear,
}

fn net(device: &Device) -> Net {
    random::init(3, device, |device| Net {
        a: LinearConfig::new(1, 4).init(device),
        b: LinearConfig::new(4, 1).init(device),
    })
}

struct Columns;

impl Batcher<f32, Tensor<2>> for Columns {
    fn batch(&self, items: Vec<f32>, device: &Device) -> Tensor<2> {
        let rows = items.len();
        Tensor::from_data(TensorData::new(items, [rows, 1]), device)
    }
}

fn points(samples: usize) -> InMemDataset<f32> {
    let point = |i| (i * 7 % 101) as f32 / 50.0 - 1.0;
    InMemDataset::new((0..samples).map(point).collect())
}

fn mean_loss(net: &Net, x: Tensor<2>) -> Tensor<1> {
    let y = net.b.forward(net.a.forward(x.clone()).tanh());
    // Far from the mean of others where a sample is counted twice.
    MseLoss::new().forward(y, (x * 3.0).exp(), Reduction::Mean)
}

/// Trains for an epoch or two as one process, whose batches are those of all ranks together.
fn alone(samples: usize, global_batch: usize) -> Net {
    let device = Device::flex().autodiff();
    let loader = ShardedLoaderConfig::new()
        .with_batch_size(Some(global_batch))
        .with_seed(Some(5));
    let loader = loader
        .init_shard((0, 1), &device, Columns, points(samples))
        .unwrap();
    let (mut net, mut optimizer) = (net(&device), SgdConfig::new().init());
    for _epoch in 0..2 {
        for batch in loader.batches() {
            let gradients = mean_loss(&net, batch.unwrap().batch).backward();
            let gradients = GradientsParams::from_grads(gradients, &net);
            net = optimizer.step(0.05, net, gradients);
        }
    }
    net
}

fn epoch(
    batches: ShardedBatches<Tensor<2>>,
    ddp: &Ddp,
    mut net: Net,
    optimizer: &mut burn::optim::ModuleOptimizer,
) -> Result<Net, Failure> {
    for batch in batches {
        let batch = batch?;
        let weight = ddp.weight(batch.real as f64)?;
        let loss = mean_loss(&net, batch.batch) * weight;
        let gradients = ddp.synchronize(loss.backward(), &net)?;
        net = optimizer.step(0.05, net, gradients);
    }
    Ok(net)
}

#[test]
fn data_sets_of_odd_lengths() {
    // The last step of 1,009 samples: 2 ranks × 8 have one sample left, 3 × 7 one, 4 × 6 one; of 1,013 five each
    // (3 and 2; 2, 2 and 1; 2, 1, 1 and 1); of 3 all there is, and a rank of four has none.
    for samples in [1_009, 1_013, 3] {
        for (ranks, batch) in [(1, 16), (2, 8), (3, 7), (4, 6)] {
            let one = alone(samples, ranks * batch);
            let replicas = run(ranks, |worker| {
                let loader = ShardedLoaderConfig::new()
                    .with_batch_size(Some(batch))
                    .with_seed(Some(5))
                    .with_num_workers(worker.rank())
                    .init(worker.group(), worker.device(), Columns, points(samples))?;
                let ddp = DdpConfig::new().init(worker.group())?;
                let mut net = ddp.attach(net(worker.device()))?;
                let mut optimizer = SgdConfig::new().init();
                for _epoch in 0..2 {
                    net = epoch(loader.batches(), &ddp, net, &mut optimizer)?;
                }
                ddp.verify_replicas(&net)?;
                Ok(net)
            });
            for replica in replicas.unwrap() {
                assert_close(&one, &replica, 1e-4);
            }
        }
    }
}

/// The tokens of each rank; 0 is padding.
const TOKENS: [[&[i64]; 3]; 2] = [
    [&[1, 2, 0, 3, 4, 1, 2], &[0, 0, 0, 5], &[2, 3, 3]],
    // All padding.
    [&[3, 0, 0], &[0, 0], &[4, 4, 1, 0, 0, 0]],
];

#[derive(Module, Debug)]
struct Words {
    embedding: Embedding,
    head: Linear,
}

fn words(device: &Device) -> Words {
    random::init(4, device, |device| Words {
        embedding: EmbeddingConfig::new(6, 5).init(device),
        head: LinearConfig::new(5, 6).init(device),
    })
}

/// Forms of a loss that is a mean over tokens.
#[derive(Clone, Copy, Debug)]
enum Mean {
    Burns,
    /// Padding gets its gradient as `0 × no number`, which is none.
    Masked,
    Weighted,
}

const CLASSES: [f32; 6] = [1.0, 0.5, 2.0, 3.0, 0.25, 1.5];

/// The loss, and what it is a mean over.
fn token_loss(words: &Words, tokens: &[i64], mean: Mean, device: &Device) -> (Tensor<1>, f64) {
    let len = tokens.len();
    let input = Tensor::<1, Int>::from_data(TensorData::new(tokens.to_vec(), [len]), device);
    let hidden = words
        .embedding
        .forward(input.clone().unsqueeze::<2>())
        .squeeze_dim::<2>(0);
    let logits = words.head.forward(hidden);
    let real = |token: &&i64| **token != 0;
    let padded = CrossEntropyLossConfig::new().with_pad_tokens(Some(vec![0]));
    match mean {
        Mean::Burns => {
            let count = tokens.iter().filter(real).count();
            (padded.init(device).forward(logits, input), count as f64)
        }
        Mean::Masked => {
            let mask = input.clone().not_equal_scalar(0).float();
            let count = mask.clone().sum();
            let each = (logits.sum_dim(1).flatten::<1>(0, 1) - input.float()).square() * mask;
            let mean = (each / count.clone()).sum();
            (mean, count.into_scalar::<f32>().into())
        }
        Mean::Weighted => {
            let weights = padded.with_weights(Some(CLASSES.to_vec()));
            let count = tokens
                .iter()
                .filter(real)
                .map(|&token| f64::from(CLASSES[token as usize]));
            (weights.init(device).forward(logits, input), count.sum())
        }
    }
}

/// A term of the loss that every rank has in full.
fn penalty(words: &Words) -> Tensor<1> {
    words.head.weight.val().square().sum() * 0.1
}

#[test]
fn means_over_tokens_and_classes() {
    for mean in [Mean::Burns, Mean::Masked, Mean::Weighted] {
        let device = Device::flex().autodiff();
        let (mut one, mut optimizer) = (words(&device), SgdConfig::new().init());
        for tokens in TOKENS {
            let (loss, _) = token_loss(&one, &tokens.concat(), mean, &device);
            let gradients = (loss + penalty(&one)).backward();
            let gradients = GradientsParams::from_grads(gradients, &one);
            one = optimizer.step(0.1, one, gradients);
        }
        let replicas = run(3, |worker| {
            let ddp = DdpConfig::new().init(worker.group())?;
            let mut words = ddp.attach(words(worker.device()))?;
            let mut optimizer = SgdConfig::new().init();
            for tokens in TOKENS {
                let tokens = tokens[worker.rank()];
                let (loss, count) = token_loss(&words, tokens, mean, worker.device());
                let loss = loss * ddp.weight(count)? + penalty(&words);
                let gradients = ddp.synchronize(loss.backward(), &words)?;
                words = optimizer.step(0.1, words, gradients);
            }
            ddp.verify_replicas(&words)?;
            Ok(words)
        });
        for replica in replicas.unwrap() {
            assert_close(&one, &replica, 1e-5);
        }
    }
}

#[test]
fn counts_that_can_not_be_are_errors_on_all_ranks() {
    for wrong in [-2.0, f64::NAN, f64::INFINITY] {
        let errors = run(3, |worker| {
            let ddp = DdpConfig::new().init(worker.group())?;
            let count = if worker.rank() == 1 { wrong } else { 4.0 };
            let error = ddp.weight(count).unwrap_err();
            // What is right again works again.
            assert_eq!(ddp.weight(4.0)?.to_bits(), 1.0_f64.to_bits());
            assert_eq!(ddp.weight(0.0)?.to_bits(), 0);
            Ok(error.to_string())
        });
        for error in errors.unwrap() {
            let due = format!("rank 1: Ddp::weight: the count is {wrong};");
            assert!(error.starts_with(&due), "{error}");
        }
    }
}
