//! Four ranks with batch 16 train as one rank with batch 64.

use super::{assert_close, run};
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{GradientsParams, SgdConfig, momentum::MomentumConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::ddp::DdpConfig;
use burn_dist::random;
use models::{EncoderConfig, EncoderHead, MlpConfig, MnistCnnConfig};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

const RANKS: usize = 4;
const BATCH: usize = 16;
const STEPS: usize = 20;

/// A number in [0, 1) that depends on its arguments alone.
fn noise(step: usize, index: usize) -> f32 {
    let mut random = SplitMix64::seed_from_u64((step * 7_919 + index) as u64);
    (random.next_u64() >> 40) as f32 / (1 << 24) as f32
}

/// Samples `from..to` of the global batch of a step, `features` numbers each.
fn floats<const D: usize>(
    step: usize,
    (from, to): (usize, usize),
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    let features: usize = shape[1..].iter().product();
    let values: Vec<f32> = (from * features..to * features)
        .map(|i| noise(step, i))
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn ints<const D: usize>(
    step: usize,
    (from, to): (usize, usize),
    below: usize,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D, Int> {
    let features: usize = shape[1..].iter().product();
    let value = |i| (noise(step + 1_000, i) * below as f32) as i64;
    let values: Vec<i64> = (from * features..to * features).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Trains `build`'s model on four ranks and on one, and compares.
fn compare<M: Module + Sync + 'static>(
    build: impl Fn(&Device) -> M + Sync,
    loss: impl Fn(&M, usize, (usize, usize), &Device) -> Tensor<1> + Sync,
) {
    let optimizer = || {
        let momentum = MomentumConfig::new().with_momentum(0.9);
        SgdConfig::new().with_momentum(Some(momentum)).init()
    };
    let device = Device::flex().autodiff();
    let mut alone = random::init(1, &device, &build);
    let mut optim = optimizer();
    for step in 0..STEPS {
        let gradients = loss(&alone, step, (0, RANKS * BATCH), &device).backward();
        let gradients = GradientsParams::from_grads(gradients, &alone);
        alone = optim.step(0.02, alone, gradients);
    }

    let replicas = run(RANKS, |worker| {
        let (rank, device) = (worker.rank(), worker.device());
        // Each rank starts from parameters of its own: `attach` must make them rank 0's.
        let model = random::init(1 + rank as u64, device, &build);
        // Small buckets, so that there are several.
        let config = DdpConfig::new()
            .with_bucket_cap_mb(0.02)
            .with_first_bucket_mb(0.001);
        let ddp = config.init(worker.group())?;
        let mut model = ddp.attach(model)?;
        let mut optim = optimizer();
        for step in 0..STEPS {
            let samples = (rank * BATCH, (rank + 1) * BATCH);
            let gradients = loss(&model, step, samples, device).backward();
            let gradients = ddp.synchronize(gradients, &model)?;
            model = optim.step(0.02, model, gradients);
        }
        ddp.verify_replicas(&model)?;
        let stats = ddp.stats();
        assert_eq!(stats.steps, STEPS as u64);
        assert!(stats.during_backward > stats.at_end, "{stats:?}");
        Ok(model)
    });
    for replica in replicas.unwrap() {
        assert_close(&alone, &replica, 1e-5);
    }
}

fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let device = logits.device();
    CrossEntropyLossConfig::new()
        .init(&device)
        .forward(logits, targets)
}

#[test]
fn the_cnn() {
    compare(
        |device| {
            MnistCnnConfig::new()
                .with_conv_dropout(0.0)
                .with_linear_dropout(0.0)
                .init(device)
        },
        |model, step, samples, device| {
            let batch = samples.1 - samples.0;
            let images = floats(step, samples, [batch, 1, 28, 28], device);
            cross_entropy(
                model.forward(images),
                ints(step, samples, 10, [batch], device),
            )
        },
    );
}

#[test]
fn the_mlp() {
    compare(
        |device| MlpConfig::new(vec![20, 32, 32, 5]).init(device),
        |model, step, samples, device| {
            let batch = samples.1 - samples.0;
            let inputs = floats(step, samples, [batch, 20], device);
            cross_entropy(
                model.forward(inputs),
                ints(step, samples, 5, [batch], device),
            )
        },
    );
}

/// Compares transformers with this head, which tells so many classes apart.
fn compare_transformers(head: &EncoderHead, classes: usize) {
    compare(
        |device| EncoderConfig::new(17, 6, head.clone()).init(device),
        |model, step, samples, device| {
            let batch = samples.1 - samples.0;
            let tokens = ints(step, samples, 17, [batch, 6], device);
            cross_entropy(
                model.forward(tokens),
                ints(step, samples, classes, [batch], device),
            )
        },
    );
}

#[test]
fn the_transformer_with_tied_weights() {
    compare_transformers(&EncoderHead::TiedVocabulary, 17);
}

#[test]
fn the_transformer() {
    compare_transformers(&EncoderHead::Classes(5), 5);
}

/// Two uses of an embedding, and a branch that is never taken.
#[derive(Module, Debug)]
struct TiedWithUnused {
    embedding: Embedding,
    middle: Linear,
    unused: Linear,
}

#[test]
fn tied_weights_and_an_unused_branch() {
    compare(
        |device| TiedWithUnused {
            embedding: EmbeddingConfig::new(11, 8).init(device),
            middle: LinearConfig::new(8, 8).init(device),
            unused: LinearConfig::new(8, 8).init(device),
        },
        |model, step, samples, device| {
            let batch = samples.1 - samples.0;
            let tokens = ints(step, samples, 11, [batch, 1], device);
            let hidden = model.embedding.forward(tokens).flatten::<2>(1, 2);
            let hidden = relu(model.middle.forward(hidden));
            let logits = hidden.matmul(model.embedding.weight.val().transpose());
            cross_entropy(logits, ints(step, samples, 11, [batch], device))
        },
    );
}

/// One layer, used at each of many time steps.
#[derive(Module, Debug)]
struct Recurrent {
    input: Linear,
    hidden: Linear,
}

#[test]
fn a_recurrent_network_over_many_time_steps() {
    compare(
        |device| Recurrent {
            input: LinearConfig::new(3, 6).init(device),
            hidden: LinearConfig::new(6, 6).init(device),
        },
        |model, step, samples, device| {
            let batch = samples.1 - samples.0;
            let mut hidden = Tensor::<2>::zeros([batch, 6], device);
            for time in 0..12 {
                let x = floats(step * 100 + time, samples, [batch, 3], device);
                hidden = (model.input.forward(x) + model.hidden.forward(hidden)).tanh();
            }
            cross_entropy(hidden, ints(step, samples, 6, [batch], device))
        },
    );
}
