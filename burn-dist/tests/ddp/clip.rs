//! The norm over all averaged gradients, as one process computes it.

use super::{linear, run};
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_dist::ddp::{Ddp, DdpConfig, clip_grad_norm};
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

fn loss(net: &Net, from: usize, to: usize, device: &Device) -> Tensor<1> {
    let values: Vec<f32> = (from..to).map(|i| i as f32 / 5.0).collect();
    let x = Tensor::<2>::from_data(TensorData::new(values, [to - from, 1]), device);
    let y = net.b.forward(net.a.forward(x.clone()).tanh());
    (y - x.exp()).square().mean()
}

/// All elements of the gradients of a model.
fn elements<M: Module>(model: &M, grads: &GradientsParams) -> Vec<f64> {
    struct Reader<'a>(&'a GradientsParams, Vec<f64>);
    impl ModuleVisitor for Reader<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id).unwrap();
            self.1.extend(gradient.into_data().iter::<f64>());
        }
    }
    let mut reader = Reader(grads, Vec::new());
    model.visit(&mut reader);
    reader.1
}

fn norm(elements: &[f64]) -> f64 {
    elements.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn alone() -> Ddp {
    DdpConfig::new()
        .init(&burn_dist::ProcessGroup::single())
        .unwrap()
}

#[test]
fn ranks_clip_as_one_process() {
    let device = Device::flex().autodiff();
    let one = net(&device);
    let whole = loss(&one, 0, 9, &device).backward();
    let whole = elements(&one, &GradientsParams::from_grads(whole, &one));
    let expected = norm(&whole);
    assert!(expected > 1.0, "{expected}");
    for max in [0.0, 0.5, expected * 2.0, f64::INFINITY] {
        let factor = if max < expected { max / expected } else { 1.0 };
        let results = run(3, |worker| {
            let (rank, device) = (worker.rank(), worker.device());
            let ddp = DdpConfig::new().init(worker.group())?;
            let net = ddp.attach(net(device))?;
            let gradients = loss(&net, rank * 3, rank * 3 + 3, device).backward();
            let mut gradients = ddp.synchronize(gradients, &net)?;
            let norm = clip_grad_norm(&mut gradients, &net, max, &ddp)?;
            Ok((norm, elements(&net, &gradients)))
        });
        let results = results.unwrap();
        for (norm, clipped) in &results {
            assert_eq!(norm.to_bits(), results[0].0.to_bits());
            assert!((norm - expected).abs() < 1e-5 * expected);
            for (clipped, whole) in clipped.iter().zip(&whole) {
                assert!((clipped - whole * factor).abs() < 1e-4, "{clipped} {whole}");
            }
        }
    }
}

/// Gradients of a layer, all of one value and type.
fn constant(layer: &Linear, value: f32, dtype: DType) -> GradientsParams {
    let device = Device::flex();
    let mut grads = GradientsParams::new();
    let weight = Tensor::<2>::full(layer.weight.dims(), value, &device).cast(dtype);
    grads.register(layer.weight.id, weight);
    grads
}

#[test]
fn the_norm_of_f16_gradients_does_not_overflow() {
    let layer: Linear = linear(10, 10, &Device::flex());
    // Each square is 1.6e9, and f16 ends at 65,504; nor does the factor fit, 2.5e-8.
    let mut grads = constant(&layer, 40_000.0, DType::F16);
    let norm = clip_grad_norm(&mut grads, &layer, 0.01, &alone()).unwrap();
    assert!((norm - 400_000.0).abs() < 200.0, "{norm}");
    let clipped = grads.get::<2>(layer.weight.id).unwrap();
    assert_eq!(clipped.dtype(), DType::F16);
    let clipped = clipped.into_data().iter::<f64>().next().unwrap();
    assert!((clipped - 0.001).abs() < 1e-5, "{clipped}");
    // Of f32 too, whose squares are 1e60.
    let mut grads = constant(&layer, 1e30, DType::F32);
    let norm = clip_grad_norm(&mut grads, &layer, 1.0, &alone()).unwrap();
    assert!((norm / 1e31 - 1.0).abs() < 1e-6, "{norm}");
}

#[test]
fn gradients_that_are_no_numbers_stay_as_they_are() {
    let layer: Linear = linear(2, 2, &Device::flex());
    for value in [f32::NAN, f32::INFINITY] {
        let mut grads = constant(&layer, value, DType::F32);
        assert!(
            !clip_grad_norm(&mut grads, &layer, 1.0, &alone())
                .unwrap()
                .is_finite()
        );
        let kept = grads.get::<2>(layer.weight.id).unwrap().into_data();
        assert!(
            kept.iter::<f32>()
                .all(|kept| kept.to_bits() == value.to_bits())
        );
    }
}

/// One parameter in two places.
#[test]
fn a_tied_parameter_counts_once() {
    let layer: Linear = LinearConfig::new(2, 2)
        .with_bias(false)
        .init(&Device::flex());
    let tied = Net {
        a: layer.clone(),
        b: layer.clone(),
    };
    let mut grads = constant(&layer, 1.0, DType::F32);
    let norm = clip_grad_norm(&mut grads, &tied, 1.0, &alone()).unwrap();
    assert!((norm - 2.0).abs() < 1e-9, "{norm}");
    let clipped = grads.get::<2>(layer.weight.id).unwrap().into_data();
    assert!(clipped.iter::<f32>().all(|x| (x - 0.5).abs() < 1e-6));
}

#[test]
fn limits_and_models_that_can_not_be_are_refused() {
    let layer: Linear = linear(2, 2, &Device::flex());
    for max in [-1.0, f64::NAN] {
        let mut grads = constant(&layer, 1.0, DType::F32);
        let error = clip_grad_norm(&mut grads, &layer, max, &alone()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("the largest norm is {max}")),
            "{error}"
        );
    }
    let other: Linear = linear(2, 2, &Device::flex());
    let mut grads = constant(&layer, 1.0, DType::F32);
    let error = clip_grad_norm(&mut grads, &other, 1.0, &alone()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("1 of 1 gradients belong to parameters that"),
        "{error}"
    );
}
