//! The network, with the steps that burn-train asks for.

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::tensor::Device;
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_dist::{observe, random};
use datasets::MnistBatch;
use models::{MnistCnn, MnistCnnConfig};

/// The reference network without dropout, which would make every run another.
#[derive(Module, Debug)]
pub(crate) struct Digits {
    cnn: MnistCnn,
}

impl Digits {
    pub(crate) fn new(seed: u64, device: &Device) -> Self {
        let config = MnistCnnConfig::new()
            .with_conv_dropout(0.0)
            .with_linear_dropout(0.0);
        let cnn = random::init(seed, device, |device| config.init(device));
        Self { cnn }
    }

    fn classify(&self, MnistBatch { images, targets }: MnistBatch) -> ClassificationOutput {
        let output = self.cnn.forward(images);
        let criterion = CrossEntropyLossConfig::new().init(&output.device());
        let loss = criterion.forward(output.clone(), targets.clone());
        ClassificationOutput::new(loss, output, targets)
    }
}

pub(crate) fn momentum() -> MomentumConfig {
    MomentumConfig::new().with_momentum(0.9)
}

impl TrainStep for Digits {
    type Input = MnistBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: MnistBatch) -> TrainOutput<ClassificationOutput> {
        let output = observe::forward(|| self.classify(batch));
        let grads = observe::backward(|| output.loss.backward());
        TrainOutput::new(self, grads, output)
    }
}

impl InferenceStep for Digits {
    type Input = MnistBatch;
    type Output = ClassificationOutput;

    fn step(&self, batch: MnistBatch) -> ClassificationOutput {
        self.classify(batch)
    }
}
