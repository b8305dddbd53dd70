//! The smallest complete program: two replicas on the CPU learn a line from their shares of the data.

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::nn::LinearConfig;
use burn::nn::loss::{MseLoss, Reduction};
use burn::optim::SgdConfig;
use burn::tensor::{Device, Tensor, TensorData};
use burn_dist::data::ShardedLoaderConfig;
use burn_dist::ddp::DdpConfig;
use burn_dist::launch::{Worker, launch};

/// Points of the line y = 3x - 1.
fn points() -> InMemDataset<(f32, f32)> {
    let point = |i| {
        let x = i as f32 / 256.0 - 1.0;
        (x, 3.0 * x - 1.0)
    };
    InMemDataset::new((0..509).map(point).collect())
}

/// Makes tensors `[batch, 1]` of points.
struct Columns;

impl Batcher<(f32, f32), (Tensor<2>, Tensor<2>)> for Columns {
    fn batch(&self, items: Vec<(f32, f32)>, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let (x, y): (Vec<f32>, Vec<f32>) = items.into_iter().unzip();
        let column = |values: Vec<f32>| {
            let len = values.len();
            Tensor::from_data(TensorData::new(values, [len, 1]), device)
        };
        (column(x), column(y))
    }
}

/// Trains one replica, on a thread of its own.
fn train(worker: &Worker) -> Result<f32, Box<dyn std::error::Error + Send + Sync>> {
    let loader = ShardedLoaderConfig::new()
        .with_batch_size(Some(32))
        .with_seed(Some(42))
        .init(worker.group(), worker.device(), Columns, points())?;
    let ddp = DdpConfig::new().init(worker.group())?;
    let mut model = ddp.attach(LinearConfig::new(1, 1).init(worker.device()))?;
    let mut optimizer = SgdConfig::new().init();
    let mut last = f32::NAN;
    for _epoch in 0..20 {
        for batch in loader.batches() {
            let batch = batch?;
            let weight = ddp.weight(batch.real as f64)?; // the last batches may not come out even
            let (x, y) = batch.batch;
            let loss = MseLoss::new().forward(model.forward(x), y, Reduction::Mean);
            last = loss.clone().try_into_scalar()?;
            let gradients = ddp.synchronize((loss * weight).backward(), &model)?;
            model = optimizer.step(0.1, model, gradients);
        }
    }
    let checksum = ddp.verify_replicas(&model)?;
    println!(
        "rank {}: loss {last:.6}, parameters {}",
        worker.rank(),
        &checksum[..12]
    );
    Ok(last)
}

fn main() -> Result<(), burn_dist::Error> {
    let devices = vec![Device::flex().autodiff(); 2];
    launch(devices, |worker| train(&worker))?;
    Ok(())
}
