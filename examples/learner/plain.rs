//! A burn-train program as there are many: a CNN learns handwritten digits on one device.
//!
//! `learner/main.rs` is this program on all devices of a job.

mod net;

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataset::Dataset;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::optim::SgdConfig;
use burn::tensor::Device;
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{Learner, SupervisedTraining};
use clap::Parser;
use datasets::{Mnist, MnistBatcher};
use std::error::Error;
use std::path::PathBuf;

/// Train a CNN on handwritten digits with burn-train.
#[derive(Parser)]
struct Args {
    /// Passes over the training digits
    #[arg(long, value_name = "N", default_value_t = 6)]
    epochs: usize,
    /// Samples of a step, over all replicas
    #[arg(long, value_name = "N", default_value_t = 64)]
    global_batch_size: usize,
    /// Learning rate at the start; it falls to zero along a cosine
    #[arg(long, value_name = "RATE", default_value_t = 0.03)]
    lr: f64,
    /// Seed of the initial parameters and the order of samples
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    seed: u64,
    /// Folder with the four files of MNIST or a set in its format [default: the 10,000 digits that the program
    /// holds]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Folder for burn-train's logs and checkpoints; made if missing
    #[arg(long, value_name = "DIR", default_value = "runs/learner")]
    output: PathBuf,
    /// Go on after this epoch, from its checkpoint in OUTPUT [default: begin anew]
    #[arg(long, value_name = "EPOCH")]
    resume: Option<usize>,
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args = Args::parse();
    let digits = Mnist::open(args.data_dir.as_deref())?;
    let steps = digits.train.len().div_ceil(args.global_batch_size) * args.epochs;
    let train = DataLoaderBuilder::new(MnistBatcher)
        .batch_size(args.global_batch_size)
        .shuffle(args.seed)
        .build(digits.train);
    let test = DataLoaderBuilder::new(MnistBatcher)
        .batch_size(args.global_batch_size)
        .build(digits.test);
    let learner = Learner::new(
        net::Digits::new(args.seed, &Device::flex().autodiff()),
        SgdConfig::new().with_momentum(Some(net::momentum())).init(),
        CosineAnnealingLrSchedulerConfig::new(args.lr, steps).init()?,
    );
    let mut training = SupervisedTraining::new(&args.output, train, test)
        .metrics((LossMetric::new(), AccuracyMetric::new()))
        .with_default_checkpointers()
        .with_application_logger(None)
        .num_epochs(args.epochs);
    if let Some(epoch) = args.resume {
        let file = args.output.join(format!("checkpoint/model-{epoch}.bpk"));
        if !file.is_file() {
            return Err(format!("no checkpoint of epoch {epoch}: no {}", file.display()).into());
        }
        training = training.checkpoint(epoch);
    }
    let result = training.launch(learner);
    result
        .error
        .map_or(Ok(()), |error| Err(error.to_string().into()))
}
