//! Losses that are means over tokens, of which every rank has another number, or none.

use crate::net::data;
use crate::recorder::{Recorder, assert_same_values};
use crate::training::{assert_close, numbers, ranks};
use burn::data::dataloader::DataLoader;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, ExecutionError, Int, Tensor, TensorData};
use burn::train::metric::{AccuracyMetric, Adaptor, LossInput, LossMetric, NumericEntry};
use burn::train::{
    ExecutionStrategy, InferenceStep, ItemLazy, Learner, LearningResult, SequenceOutput,
    SupervisedTraining, TrainOutput, TrainStep, TrainingStrategy,
};
use burn_dist::random;
use burn_dist::train::{DataLoaderBuilder, Distributed, Gather, GatherOutput, LossOver};
use std::sync::Arc;

const FEATURES: usize = 3;
const CLASSES: usize = 3;
/// The class of a target that counts for nothing.
const PAD: usize = CLASSES - 1;
const LONGEST: usize = 4;

/// Makes sequences of 0 to 4 tokens: `[3, 0, 1, 4, 0, 0, 2, 1]`, and so on.
#[derive(Clone, Copy)]
struct Texts {
    /// Pads to the longest of the batch and not to 4.
    short: bool,
}

#[derive(Clone, Debug)]
struct Text {
    inputs: Tensor<3>,
    targets: Tensor<2, Int>,
    tokens: usize,
}

fn length(item: usize) -> usize {
    [3, 0, 1, 4, 0, 0, 2, 1][item % 8]
}

impl Batcher<usize, Text> for Texts {
    fn batch(&self, items: Vec<usize>, device: &Device) -> Text {
        let longest = if self.short {
            items.iter().map(|&item| length(item)).max().unwrap().max(1)
        } else {
            LONGEST
        };
        let mut inputs = Vec::new();
        let mut targets = Vec::new();
        for &item in &items {
            for at in 0..longest {
                let class = (item + at) % PAD;
                targets.push(if at < length(item) { class } else { PAD } as i32);
                let noise = |feature: usize| (item * 7919 + at * 104_729 + feature * 31) % 101;
                inputs.extend((0..FEATURES).map(|feature| noise(feature) as f32 / 101.0));
            }
        }
        let rows = items.len();
        Text {
            inputs: Tensor::from_data(TensorData::new(inputs, [rows, longest, FEATURES]), device),
            targets: Tensor::from_data(TensorData::new(targets, [rows, longest]), device),
            tokens: items.iter().map(|&item| length(item)).sum(),
        }
    }
}

#[derive(Module, Debug)]
struct Tagger {
    layer: Linear,
}

impl Tagger {
    fn new() -> Self {
        random::init(1, &Device::flex().autodiff(), |device| Self {
            layer: LinearConfig::new(FEATURES, CLASSES).init(device),
        })
    }

    /// The mean over tokens that are not padding: not a number where there are none.
    fn tag(
        &self,
        Text {
            inputs, targets, ..
        }: Text,
    ) -> SequenceOutput {
        let logits = self.layer.forward(inputs);
        let indices = targets.clone().unsqueeze_dim(2);
        let losses = -log_softmax(logits.clone(), 2).gather(2, indices);
        let counts = targets.clone().not_equal_scalar(PAD as i64).float();
        let counts = counts.unsqueeze_dim::<3>(2);
        let loss = (losses * counts.clone()).sum() / counts.sum();
        SequenceOutput::new(loss, logits, None, targets)
    }
}

impl TrainStep for Tagger {
    type Input = Text;
    type Output = SequenceOutput;

    fn step(&self, batch: Text) -> TrainOutput<SequenceOutput> {
        let output = self.tag(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Tagger {
    type Input = Text;
    type Output = SequenceOutput;

    fn step(&self, batch: Text) -> SequenceOutput {
        self.tag(batch)
    }
}

fn burns(samples: usize) -> Arc<dyn DataLoader<Text>> {
    let builder = burn::data::dataloader::DataLoaderBuilder::new(Texts { short: false });
    builder.batch_size(8).build(data(samples))
}

fn ours(samples: usize, short: bool) -> Arc<dyn DataLoader<Text>> {
    let builder = DataLoaderBuilder::new(Texts { short });
    builder.global_batch_size(8).build(data(samples))
}

fn one_device<M: burn::train::LearnerModel>() -> TrainingStrategy<M> {
    TrainingStrategy::Default(ExecutionStrategy::single(Device::flex().autodiff()))
}

fn launch(
    (train, valid): (Arc<dyn DataLoader<Text>>, Arc<dyn DataLoader<Text>>),
    strategy: impl Into<TrainingStrategy<Tagger>>,
    recorder: &Recorder,
    accumulation: usize,
) -> LearningResult<Tagger> {
    let folder = tempfile::tempdir().unwrap();
    SupervisedTraining::new(folder.path(), train, valid)
        .metrics((LossMetric::new(), AccuracyMetric::new().with_pad_token(PAD)))
        .with_metric_logger(recorder.logger())
        .with_application_logger(None)
        .with_training_strategy(strategy.into())
        .grads_accumulation(accumulation)
        .num_epochs(2)
        .launch(Learner::new(Tagger::new(), SgdConfig::new().init(), 0.5))
}

/// Ranks that weigh by tokens.
fn by_tokens(world_size: usize) -> Distributed {
    ranks(world_size).with_loss_count(|batch: &Text| batch.tokens as f64)
}

#[test]
fn means_over_tokens_of_uneven_padding_are_those_of_one_device() {
    // On three ranks, the parts of a batch have 3, 5 and 3 tokens; on four, 3, 5, 0 and 3; the last batch of 13
    // has 3 + 0, 1, 4 and 0 + ... .
    for (world_size, accumulation) in [(2, 1), (3, 1), (4, 1), (4, 2)] {
        let (alone, together) = (Recorder::default(), Recorder::default());
        let loaders = (burns(13), burns(8));
        let one = launch(loaders, one_device(), &alone, accumulation);
        let loaders = (ours(13, false), ours(8, false));
        let many = launch(loaders, by_tokens(world_size), &together, accumulation);
        assert!(many.error.is_none(), "{:?}", many.error);
        assert_same_values(&alone, &together);
        assert_close(&one.model, &many.model);
        assert_ne!(numbers(&many.model), numbers(&Tagger::new()));
    }
}

#[test]
fn a_step_that_counts_nothing_on_any_rank_changes_nothing() {
    // One device would divide by the number of its tokens, and have no number for a parameter then.
    let nothing = || {
        let builder = DataLoaderBuilder::new(Texts { short: false });
        let items = InMemDataset::new(vec![1, 4, 5, 9]);
        builder.global_batch_size(4).build(items)
    };
    for accumulation in [1, 2] {
        let recorder = Recorder::default();
        let result = launch(
            (nothing(), nothing()),
            by_tokens(2),
            &recorder,
            accumulation,
        );
        assert!(result.error.is_none(), "{:?}", result.error);
        assert_eq!(numbers(&result.model), numbers(&Tagger::new()));
    }
}

#[test]
fn a_loss_over_tokens_that_nobody_counts_is_refused_before_training() {
    let loaders = || (ours(8, false), ours(8, false));
    for (strategy, said) in [
        (
            ranks(2),
            "`Distributed::with_loss_count(|batch: &train::tokens::Text| ..)`",
        ),
        (
            ranks(2).with_loss_count(|batch: &crate::net::Batch| batch.targets.dims()[0] as f64),
            "counts batches of type train::net::Batch, but the model trains on train::tokens::Text",
        ),
    ] {
        let recorder = Recorder::default();
        let result = launch(loaders(), strategy, &recorder, 1);
        let error = result.error.unwrap().to_string();
        assert!(error.contains(said), "{error}");
        assert!(recorder.values().is_empty());
        assert_eq!(numbers(&result.model), numbers(&Tagger::new()));
    }
}

#[test]
fn a_count_that_no_mean_has_ends_the_training() {
    for count in [f64::NAN, -1.0, f64::INFINITY] {
        let strategy = ranks(2).with_loss_count(move |_: &Text| count);
        let loaders = (ours(8, false), ours(8, false));
        let error = launch(loaders, strategy, &Recorder::default(), 1).error;
        let error = error.unwrap().to_string();
        assert!(
            error.contains(&format!("with_loss_count: the loss counted {count}")),
            "{error}"
        );
    }
}

/// The values of a whole epoch.
fn finals(recorder: &Recorder, metric: &str) -> Vec<f64> {
    let values = recorder.values();
    let of = values
        .iter()
        .filter(|logged| logged.metric.contains(metric));
    of.filter(|logged| matches!(logged.entry, NumericEntry::Final(_)))
        .map(|logged| logged.entry.current())
        .collect()
}

#[test]
fn sequences_of_unequal_lengths_on_the_ranks_train_as_on_one_device() {
    for world_size in [2, 3, 4] {
        let (alone, together) = (Recorder::default(), Recorder::default());
        let one = launch((burns(16), burns(8)), one_device(), &alone, 1);
        // Four ranks have sequences of 3, 4, 1 and 2 tokens.
        let loaders = (ours(16, true), ours(8, true));
        let many = launch(loaders, by_tokens(world_size), &together, 1);
        assert!(many.error.is_none(), "{:?}", many.error);
        assert_close(&one.model, &many.model);
        for metric in ["Loss", "Accuracy"] {
            let (one, many) = (finals(&alone, metric), finals(&together, metric));
            assert_eq!(one.len(), 4);
            for (one, many) in one.iter().zip(&many) {
                assert!((one - many).abs() < 1e-4, "{metric}: {one} and {many}");
            }
        }
    }
}

#[test]
fn metrics_of_some_passes_leave_the_training_as_it_is() {
    let train = |every: usize| {
        let recorder = Recorder::default();
        let loaders = (ours(40, false), ours(8, false));
        let strategy = by_tokens(2).with_train_metrics_every(every);
        let result = launch(loaders, strategy, &recorder, 1);
        assert!(result.error.is_none(), "{:?}", result.error);
        let values = recorder.values();
        let seen = |split: &str| {
            let of = |logged: &&crate::recorder::Logged| {
                let single = matches!(logged.entry, NumericEntry::Aggregated { .. });
                logged.split == split && single && logged.metric.contains("Loss")
            };
            values.iter().filter(of).count()
        };
        (numbers(&result.model), [seen("train"), seen("valid")])
    };
    // Five passes an epoch: the first and the fourth; or the first alone.
    let (model, seen) = train(1);
    assert_eq!(seen, [10, 2]);
    assert_eq!(train(3), (model.clone(), [4, 2]));
    assert_eq!(train(9), (model.clone(), [2, 2]));
    assert_eq!(train(0), (model, [10, 2]));
}

/// A tagger that draws what its loss counts in the pass.
#[derive(Module, Debug)]
struct Masked {
    tagger: Tagger,
}

struct MaskedOutput {
    loss: Tensor<1>,
    counted: usize,
}

impl ItemLazy for MaskedOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<LossInput> for MaskedOutput {
    fn adapt(&self) -> LossInput {
        LossInput::new(self.loss.clone())
    }
}

impl GatherOutput for MaskedOutput {
    const LOSS_OVER: LossOver = LossOver::Output;

    fn loss_count(&self) -> burn_dist::Result<f64> {
        Ok(self.counted as f64)
    }

    fn gather(self, ranks: &Gather<'_>) -> burn_dist::Result<Self> {
        let loss = ranks.mean(self.loss)?;
        Ok(Self { loss, ..self })
    }
}

impl Masked {
    fn tag(&self, batch: Text) -> MaskedOutput {
        let counted = batch.tokens;
        let loss = self.tagger.tag(batch).loss;
        MaskedOutput { loss, counted }
    }
}

impl TrainStep for Masked {
    type Input = Text;
    type Output = MaskedOutput;

    fn step(&self, batch: Text) -> TrainOutput<MaskedOutput> {
        let output = self.tag(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Masked {
    type Input = Text;
    type Output = MaskedOutput;

    fn step(&self, batch: Text) -> MaskedOutput {
        self.tag(batch)
    }
}

#[test]
fn what_only_the_output_counts_is_weighed_as_well() {
    let launch = |loaders: (_, _), strategy: TrainingStrategy<Masked>, recorder: &Recorder, n| {
        let folder = tempfile::tempdir().unwrap();
        let tagger = Tagger::new();
        let (train, valid) = loaders;
        SupervisedTraining::new(folder.path(), train, valid)
            .metrics((LossMetric::new(),))
            .with_metric_logger(recorder.logger())
            .with_application_logger(None)
            .with_training_strategy(strategy)
            .grads_accumulation(n)
            .num_epochs(2)
            .launch(Learner::new(
                Masked { tagger },
                SgdConfig::new().init(),
                0.5,
            ))
    };
    for accumulation in [1, 2] {
        let (alone, together) = (Recorder::default(), Recorder::default());
        let one = launch((burns(13), burns(8)), one_device(), &alone, accumulation);
        let loaders = (ours(13, false), ours(8, false));
        let many = launch(loaders, ranks(4).into(), &together, accumulation);
        assert!(many.error.is_none(), "{:?}", many.error);
        assert_same_values(&alone, &together);
        assert_close(&one.model, &many.model);
    }
}
