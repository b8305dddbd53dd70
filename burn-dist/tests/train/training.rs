//! One training, told what differs between tests.

use crate::net::{Batch, InOrder, Net, Samples, data};
use crate::recorder::Recorder;
use burn::data::dataloader::DataLoader;
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor};
use burn::train::metric::{AccuracyMetric, LearningRateMetric, LossMetric};
use burn::train::{
    ExecutionStrategy, Learner, LearningResult, SupervisedTraining, TrainingStrategy,
};
use burn_dist::launch::Launcher;
use burn_dist::train::{DataLoaderBuilder, Distributed};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(crate) type Loader = Arc<dyn DataLoader<Batch>>;

/// Makes Burn's own loader, as one device sees the data.
pub(crate) fn burns_loader(samples: usize, batch: usize, shuffle: Option<u64>) -> Loader {
    let builder = burn::data::dataloader::DataLoaderBuilder::new(Samples::default());
    let builder = builder.batch_size(batch);
    match shuffle {
        Some(seed) => builder.shuffle(seed),
        None => builder,
    }
    .build(data(samples))
}

/// The loader that knows its rank.
pub(crate) fn loader(samples: usize, batch: usize, shuffle: Option<u64>, workers: usize) -> Loader {
    let builder = DataLoaderBuilder::new(Samples::default());
    let builder = builder.global_batch_size(batch).num_workers(workers);
    match shuffle {
        Some(seed) => builder.shuffle(seed),
        None => builder,
    }
    .build(data(samples))
}

pub(crate) fn one_device() -> TrainingStrategy<Net> {
    TrainingStrategy::Default(ExecutionStrategy::single(Device::flex().autodiff()))
}

/// So many replicas, with a deadline that a correct run never meets.
pub(crate) fn ranks(ranks: usize) -> Distributed {
    let devices = vec![Device::flex().autodiff(); ranks];
    Distributed::from(Launcher::new(devices).with_timeout(Duration::from_mins(1)))
}

/// A training of three epochs with all metrics, which log to the recorder.
pub(crate) fn training(
    folder: &Path,
    (train, valid): (Loader, Loader),
    strategy: impl Into<TrainingStrategy<Net>>,
    recorder: &Recorder,
) -> SupervisedTraining<Net> {
    SupervisedTraining::new(folder, train, valid)
        .metrics((
            LossMetric::new(),
            AccuracyMetric::new(),
            InOrder::default(),
            LearningRateMetric::new(),
        ))
        .with_metric_logger(recorder.logger())
        .with_application_logger(None)
        .with_training_strategy(strategy.into())
        .num_epochs(3)
}

pub(crate) fn learner(net: Net) -> Learner<Net> {
    let scheduler = CosineAnnealingLrSchedulerConfig::new(0.05, 9)
        .init()
        .unwrap();
    Learner::new(net, AdamConfig::new().init(), scheduler)
}

/// Runs what ends well.
#[track_caller]
pub(crate) fn run(training: SupervisedTraining<Net>, net: Net) -> Net {
    let LearningResult { model, error, .. } = training.launch(learner(net));
    assert!(error.is_none(), "{error:?}");
    model
}

/// All numbers of a module, in order.
pub(crate) fn numbers<M: Module>(module: &M) -> Vec<f64> {
    #[derive(Default)]
    struct Reader(Vec<f64>);
    impl ModuleVisitor for Reader {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.base().into_data().iter::<f64>());
        }
    }
    let mut reader = Reader::default();
    module.visit(&mut reader);
    reader.0
}

/// Adam divides by the root of a mean of squares, so that rounding shows where gradients are small: a
/// ten-thousandth after a dozen steps of up to 0.05.
#[track_caller]
pub(crate) fn assert_close<M: Module>(one: &M, other: &M) {
    let (one, other) = (numbers(one), numbers(other));
    assert_eq!(one.len(), other.len());
    for (at, (one, other)) in one.iter().zip(&other).enumerate() {
        assert!((one - other).abs() < 1e-4, "{at}: {one} and {other}");
    }
}

/// The loader of some of the samples that knows its rank.
pub(crate) fn loader_of(samples: std::ops::Range<usize>, batch: usize) -> Loader {
    DataLoaderBuilder::new(Samples::default())
        .global_batch_size(batch)
        .build(InMemDataset::new(samples.collect()))
}
