//! A tiny classifier, its data, and a metric that sees every sample and its place.

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData, TensorReadError};
use burn::train::metric::{
    Adaptor, Metric, MetricMetadata, MetricName, Numeric, NumericEntry, SerializedEntry,
};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_dist::norm::SyncBatchNorm;
use burn_dist::random;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const CLASSES: usize = 3;
const FEATURES: usize = 4;

/// A sample: its number.
pub(crate) type Item = usize;

/// Makes samples that differ from one another, of the class `number % 3`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    /// The batch with this sample can't be made.
    pub(crate) panics_at: Option<usize>,
    /// The batch with this sample is of a shape that the network can't take.
    pub(crate) malformed_at: Option<usize>,
    /// Batches with samples of this class take so long.
    pub(crate) slow_class: Option<(usize, Duration)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) inputs: Tensor<2>,
    pub(crate) targets: Tensor<1, Int>,
}

pub(crate) fn data(samples: usize) -> InMemDataset<Item> {
    InMemDataset::new((0..samples).collect())
}

impl Batcher<Item, Batch> for Samples {
    fn batch(&self, items: Vec<Item>, device: &Device) -> Batch {
        assert!(
            !items.iter().any(|&item| Some(item) == self.panics_at),
            "a sample is broken"
        );
        if let Some((class, time)) = self.slow_class
            && items.iter().any(|item| item % CLASSES == class)
        {
            std::thread::sleep(time);
        }
        let malformed = items.iter().any(|&item| Some(item) == self.malformed_at);
        let features = FEATURES + usize::from(malformed);
        let feature = |item: usize, at: usize| {
            let noise = (item * 7_919 + at * 104_729) % 1009;
            noise as f32 / 1009.0 + if item % CLASSES == at { 0.7 } else { 0.0 }
        };
        let inputs: Vec<f32> = items
            .iter()
            .flat_map(|&item| (0..features).map(move |at| feature(item, at)))
            .collect();
        let targets: Vec<i32> = items.iter().map(|item| (item % CLASSES) as i32).collect();
        Batch {
            inputs: Tensor::from_data(TensorData::new(inputs, [items.len(), features]), device),
            targets: Tensor::from_data(TensorData::new(targets, [items.len()]), device),
        }
    }
}

/// Between the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norm {
    No,
    Batch,
    Sync,
}

#[derive(Module, Debug)]
pub(crate) struct Net {
    pub(crate) first: Linear,
    pub(crate) batch_norm: Option<BatchNorm>,
    pub(crate) sync_batch_norm: Option<SyncBatchNorm>,
    pub(crate) last: Linear,
}

pub(crate) fn net(norm: Norm) -> Net {
    net_of(1, norm)
}

pub(crate) fn net_of(seed: u64, norm: Norm) -> Net {
    random::init(seed, &Device::flex().autodiff(), |device| {
        let config = BatchNormConfig::new(5);
        Net {
            // Behind it, a normalisation would leave nothing but rounding of a bias's gradient, which Adam
            // makes steps of full size of.
            first: LinearConfig::new(FEATURES, 5)
                .with_bias(norm == Norm::No)
                .init(device),
            batch_norm: (norm == Norm::Batch).then(|| config.init(device)),
            sync_batch_norm: (norm == Norm::Sync).then(|| SyncBatchNorm::new(config.init(device))),
            last: LinearConfig::new(5, CLASSES).init(device),
        }
    })
}

impl Net {
    fn classify(&self, batch: Batch) -> ClassificationOutput {
        let mut x = self.first.forward(batch.inputs);
        if let Some(norm) = &self.batch_norm {
            x = norm.forward(x);
        }
        if let Some(norm) = &self.sync_batch_norm {
            x = norm.forward(x);
        }
        let output = self.last.forward(relu(x));
        let loss = CrossEntropyLossConfig::new()
            .init(&output.device())
            .forward(output.clone(), batch.targets.clone());
        ClassificationOutput::new(loss, output, batch.targets)
    }
}

impl TrainStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let output = self.classify(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.classify(batch)
    }
}

/// The input of [`InOrder`].
pub(crate) struct Outputs(Tensor<2>, Tensor<1, Int>);

impl Adaptor<Outputs> for ClassificationOutput {
    fn adapt(&self) -> Outputs {
        Outputs(self.output.clone(), self.targets.clone())
    }
}

/// A metric with a state that no other could be merged into: each sample's largest output and class,
/// discounted by how long ago it came.
#[derive(Clone, Default)]
pub(crate) struct InOrder {
    state: f64,
}

impl Metric for InOrder {
    type Input = Outputs;

    fn name(&self) -> MetricName {
        Arc::new("In order".to_owned())
    }

    fn update(
        &mut self,
        Outputs(outputs, targets): &Outputs,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let largest = outputs.clone().max_dim(1).try_into_data_as::<f64>()?;
        let targets = targets.clone().try_into_data_as::<f64>()?;
        for (output, target) in largest.iter::<f64>().zip(targets.iter::<f64>()) {
            self.state = 0.9 * self.state + output + target;
        }
        self.compute()
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let text = self.state.to_string();
        Ok(SerializedEntry::new(text.clone(), text))
    }

    fn clear(&mut self) {
        self.state = 0.0;
    }
}

impl Numeric for InOrder {
    fn value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Value(self.state))
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.value()
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.state)
    }
}
