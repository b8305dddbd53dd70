//! A burn-train program as there are many: a CNN learns handwritten digits on one device.
//!
//! `learner/main.rs` is this program on all devices, with seven lines changed.

mod figures;
mod flags;
mod net;

use burn::data::dataloader::DataLoaderBuilder;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::optim::SgdConfig;
use burn::tensor::Device;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Learner, SupervisedTraining};
use datasets::MnistBatcher;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let options = flags::Options::parse();
    let digits = options.digits()?;
    let steps = digits.train_len().div_ceil(options.batch_size()) * options.epochs();
    let train = DataLoaderBuilder::new(MnistBatcher)
        .batch_size(options.batch_size())
        .shuffle(options.seed)
        .build(digits.train);
    let test = DataLoaderBuilder::new(MnistBatcher)
        .batch_size(options.batch_size())
        .build(digits.test);
    let learner = Learner::new(
        net::Digits::new(options.seed, &Device::flex().autodiff()),
        SgdConfig::new().with_momentum(Some(net::momentum())).init(),
        CosineAnnealingLrSchedulerConfig::new(options.lr, steps).init()?,
    );
    let figures = figures::Figures::start(&options, &train);
    let training = SupervisedTraining::new(&options.output, train, test)
        .metrics((LossMetric::new(), AccuracyMetric::new()))
        .with_metric_logger(figures.logger())
        .with_application_logger(None)
        .num_epochs(options.epochs());
    let result = options.keep(training)?.launch(learner);
    figures.save(result, None)
}
