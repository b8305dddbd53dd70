//! Attaching makes the other ranks' models equal to that of rank 0: ids, values to the bit, ties.

use super::misuse::{assert_all, messages};
use super::{Failure, run};
use burn::module::{Lora, Module, ModuleVisitor, Param, ParamId, QLora, Quantizer};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, SgdConfig, momentum::MomentumConfig};
use burn::store::ModuleRecord;
use burn::tensor::quantization::{Calibration, QuantScheme, QuantStore, QuantValue};
use burn::tensor::{Bool, Bytes, DType, Device, Int, Tensor, TensorData};
use burn_dist::checkpoint::{CheckpointConfig, Saved};
use burn_dist::ddp::{DdpConfig, parameters_sha256};
use burn_dist::launch::Worker;
use burn_dist::{Error, random};
use std::sync::Mutex;

/// The ids of all float parameters, adapters included.
fn ids<M: Module>(model: &M) -> Vec<ParamId> {
    #[derive(Default)]
    struct Ids(Vec<ParamId>);
    impl ModuleVisitor for Ids {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(param.id);
        }
    }
    let mut ids = Ids::default();
    model.visit(&mut ids);
    ids.0
}

/// A layer with weights of the rank's own.
fn own_linear(worker: &Worker) -> Linear {
    random::init(worker.rank() as u64, worker.device(), |device| {
        LinearConfig::new(3, 4).init(device)
    })
}

fn ones(scale: f32, device: &Device) -> Tensor<2> {
    Tensor::ones([1, 3], device).mul_scalar(scale)
}

#[test]
fn all_ranks_get_the_ids_of_rank_0() {
    let found = run(3, |worker| {
        let plain = own_linear(worker);
        let adapted = own_linear(worker).apply_lora(Lora::new(2, 4.0));
        let tied = plain.clone();
        let model = (plain, adapted, tied);
        let before = ids(&model);
        let model = DdpConfig::new().init(worker.group())?.attach(model)?;
        Ok((before, ids(&model)))
    });
    let found = found.unwrap();
    assert_eq!(found[0].0.len(), 8);
    for (_, after) in &found {
        assert_eq!(*after, found[0].0);
    }
}

/// Trains three steps, loads the record that rank 0 made of the second, and trains on.
fn load_and_go_on(worker: &Worker, shared: &Mutex<Vec<u8>>) -> Result<String, Failure> {
    let device = worker.device();
    let ddp = DdpConfig::new().init(worker.group())?;
    let mut model = ddp.attach(own_linear(worker).apply_lora(Lora::new(2, 4.0)))?;
    let momentum = MomentumConfig::new().with_momentum(0.9);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    for step in 0..5 {
        if step == 3 {
            let record = Bytes::from_bytes_vec(shared.lock().unwrap().clone());
            model = model.load_record(ModuleRecord::from_bytes(record)?);
        }
        let loss = model
            .forward(ones(1.0 + worker.rank() as f32, device))
            .sum();
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        model = optimizer.step(0.01, model, gradients);
        if step == 1 && worker.rank() == 0 {
            *shared.lock().unwrap() = model.clone().into_record().into_bytes()?.to_vec();
        }
    }
    Ok(ddp.verify_replicas(&model)?)
}

#[test]
fn a_record_of_rank_0_loaded_on_all_keeps_their_optimizers_state() {
    let shared = Mutex::new(Vec::new());
    let trained = run(2, |worker| load_and_go_on(worker, &shared));
    let trained = trained.unwrap();
    assert_eq!(trained[0], trained[1]);
}

#[test]
fn a_parameter_in_two_places_stays_one() {
    run(2, |worker| {
        let model = own_linear(worker);
        let ddp = DdpConfig::new().init(worker.group())?;
        let model = ddp.attach(vec![model.clone(), own_linear(worker), model])?;
        let ids = ids(&model);
        assert_eq!((ids[0], ids[1]), (ids[4], ids[5]));
        assert_ne!(ids[0], ids[2]);
        let x = ones(1.0, worker.device());
        let loss = model[0].forward(x.clone()).sum() + model[2].forward(x * 3.0).sum();
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        let gradient = gradients.get::<2>(ids[0]).ok_or("no gradient")?;
        gradient
            .into_data()
            .assert_eq(&TensorData::from([[4.0_f32; 4]; 3]), true);
        Ok(())
    })
    .unwrap();
}

#[test]
fn parameters_that_are_tied_otherwise_on_a_rank_are_named() {
    let messages = messages(3, |worker| {
        let (a, b) = (own_linear(worker), own_linear(worker));
        let third = if worker.rank() == 2 {
            b.clone()
        } else {
            a.clone()
        };
        let ddp = DdpConfig::new().init(worker.group())?;
        ddp.attach(vec![a, b, third])?;
        Ok(())
    });
    let due = "the model of rank 2 differs from that of rank 0: it has `0.weight` f32[3, 4] where \
               `0.weight` f32[3, 4] (also `2.weight`) is expected";
    assert_all(&messages, due);
}

/// Tensors of every type that a model may hold.
#[derive(Module, Debug)]
struct Everything {
    floats: Vec<Param<Tensor<1>>>,
    ints: Vec<Param<Tensor<2, Int>>>,
    bools: Param<Tensor<3, Bool>>,
    none: Param<Tensor<1, Int>>,
}

/// `dtypes` one after the other, of values that none of the narrower types has, and that depend on the rank.
fn everything(worker: &Worker) -> Everything {
    let (rank, device) = (worker.rank() as u64, worker.device());
    let bytes = |len: usize| -> Vec<u8> {
        let byte = |i: u64| (i * 37 + rank * 101 + 1) as u8;
        (0..len as u64).map(byte).collect()
    };
    let data = |shape: Vec<usize>, dtype: DType| {
        let elements: usize = shape.iter().product();
        TensorData::from_bytes_vec(bytes(elements * dtype.size()), shape, dtype)
    };
    let floats = [DType::F64, DType::F32, DType::F16, DType::BF16].map(|dtype| {
        let tensor = Tensor::from_data(data(vec![3], dtype), (device, dtype));
        Param::initialized(ParamId::new(), tensor)
    });
    let ints = [
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
    ];
    let ints = ints.map(|dtype| {
        let tensor = Tensor::from_data(data(vec![2, 3], dtype), (device, dtype));
        assert_eq!(tensor.dtype(), dtype);
        Param::initialized(ParamId::new(), tensor)
    });
    let bools = TensorData::new(vec![rank == 0, false, rank == 1, true], [1, 2, 2]);
    Everything {
        floats: floats.to_vec(),
        ints: ints.to_vec(),
        bools: Param::initialized(ParamId::new(), Tensor::from_data(bools, device)),
        none: Param::initialized(
            ParamId::new(),
            Tensor::from_data(TensorData::new(Vec::<i32>::new(), [0]), device),
        ),
    }
}

#[test]
fn tensors_of_any_type_start_as_those_of_rank_0_to_the_bit() {
    let found = run(3, |worker| {
        let before = everything(worker);
        let before_sha256 = parameters_sha256(&before)?;
        let ddp = DdpConfig::new().init(worker.group())?;
        let model = ddp.attach((before, own_linear(worker)))?;
        ddp.verify_replicas(&model)?;
        for (ours, now) in everything(worker).ints.iter().zip(&model.0.ints) {
            assert_eq!(ours.base().dtype(), now.base().dtype());
        }
        Ok((before_sha256, parameters_sha256(&model.0)?))
    });
    let found = found.unwrap();
    assert_ne!(found[0].0, found[1].0);
    for (_, after) in &found {
        assert_eq!(*after, found[0].0);
    }
}

fn scheme() -> QuantScheme {
    QuantScheme::default()
        .with_value(QuantValue::Q8S)
        .with_store(QuantStore::Native)
}

/// A layer whose base is quantised, and whose adapters are trained.
fn quantised(worker: &Worker, scheme: QuantScheme) -> Linear {
    let quantizer = Quantizer::new(Calibration::MinMax, scheme);
    own_linear(worker).apply_qlora(QLora::new(Lora::new(2, 4.0), quantizer))
}

#[test]
fn a_quantised_model_starts_as_that_of_rank_0_trains_and_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let config = CheckpointConfig::new(folder.path().to_owned());
    let found = run(2, |worker| {
        let device = worker.device();
        let model = quantised(worker, scheme());
        let before = parameters_sha256(&model)?;
        let ddp = DdpConfig::new().init(worker.group())?;
        let mut model = ddp.attach(model)?;
        assert!(matches!(model.weight.base().dtype(), DType::QFloat(_)));
        let attached = parameters_sha256(&model)?;
        let mut optimizer = AdamWConfig::new().init();
        for _step in 0..3 {
            let loss = model
                .forward(ones(1.0 + worker.rank() as f32, device))
                .sum();
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            assert_eq!(gradients.len(), 2);
            model = optimizer.step(0.1, model, gradients);
        }
        ddp.verify_replicas(&model)?;
        let (mut checkpoints, _) = config.init(worker.group())?;
        let saved = checkpoints.save(checkpoints.snapshot(3).with_model("net", &model))?;
        assert!(matches!(saved, Saved::Written(_)), "{saved:?}");
        let trained = parameters_sha256(&model)?;
        Ok([before, attached, trained])
    });
    let found = found.unwrap();
    assert_ne!(found[0][0], found[1][0]);
    assert_eq!(found[1][1], found[0][0]);
    assert_ne!(found[0][2], found[0][1]);

    let config = config.with_resume(true);
    let resumed = run(2, |worker| {
        let (_, restored) = config.init(worker.group())?;
        let mut restored = restored.ok_or("no checkpoint")?;
        let model = restored.model("net", quantised(worker, scheme()))?;
        Ok(parameters_sha256(&model)?)
    });
    for resumed in resumed.unwrap() {
        assert_eq!(resumed, found[0][2]);
    }
}

#[test]
fn another_quantisation_on_a_rank_is_named() {
    let messages = messages(2, |worker| {
        let value = if worker.rank() == 0 {
            QuantValue::Q8S
        } else {
            QuantValue::Q4S
        };
        let ddp = DdpConfig::new().init(worker.group())?;
        let outcome = ddp.attach(quantised(worker, scheme().with_value(value)));
        assert!(matches!(outcome, Err(Error::ModelMismatch { rank: 1, .. })));
        Err(outcome.unwrap_err().into())
    });
    assert_all(&messages, "value: Q4S");
    assert_all(&messages, "value: Q8S");
}
