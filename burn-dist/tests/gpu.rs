//! Training on GPUs, against the CPU: `cargo xtask test-gpu`, not among the ordinary tests. A software
//! renderer counts as a GPU; replicas share one where there is only one.
//!
//! Each process of a job is this test program again, run with nothing but the "test" `worker_process` and told
//! its place by a variable.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{BatchNormConfig, Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::ddp::{DdpConfig, ReduceOn};
use burn_dist::launch::{Backend, Devices, Launcher, Worker};
use burn_dist::norm::SyncBatchNorm;
use burn_dist::{JobConfig, ReduceOp, Secret, random};
use models::{Mlp, MlpConfig};

const VARIABLE: &str = "BURN_DIST_TEST_GPU";
/// Prefix of lines that are meant for the test.
const MARK: &str = "@@ ";
const BATCH: usize = 8;
const STEPS: usize = 12;

/// The GPU backends of this build.
fn backends() -> Vec<Backend> {
    let mut backends = Vec::new();
    if cfg!(feature = "wgpu") {
        backends.push(Backend::Wgpu);
    }
    if cfg!(feature = "cuda") {
        backends.push(Backend::Cuda);
    }
    assert!(!backends.is_empty(), "build with the feature wgpu or cuda");
    backends
}

fn launcher(backend: Backend, replicas: usize) -> Launcher {
    let devices = Devices::select(backend, replicas, true).unwrap();
    Launcher::new(devices.devices).with_timeout(Duration::from_mins(2))
}

/// Ways to train that lead to the same parameters.
#[derive(Clone, Copy, Debug)]
enum How {
    OnDevice,
    OnHost,
    /// With buckets so small that each layer's weights come in pieces.
    OnHostInPieces,
}

const HOWS: [How; 3] = [How::OnDevice, How::OnHost, How::OnHostInPieces];

impl How {
    fn reduce_on(self) -> ReduceOn {
        match self {
            Self::OnDevice => ReduceOn::Device,
            Self::OnHost | Self::OnHostInPieces => ReduceOn::Host,
        }
    }

    fn config(self) -> DdpConfig {
        let megabytes = match self {
            Self::OnDevice | Self::OnHost => 1.0,
            Self::OnHostInPieces => 0.001,
        };
        DdpConfig::new()
            .with_reduce_on(self.reduce_on())
            .with_bucket_cap_mb(megabytes)
            .with_first_bucket_mb(megabytes)
    }
}

/// The parameters of a network after some steps on this rank's share of made-up data. Each step uses each
/// parameter twice, and every other one adds the gradients of a pass before.
fn train(worker: &Worker, how: How) -> burn_dist::Result<Vec<f32>> {
    let device = worker.device();
    let sizes = vec![12, 160, 40, 3];
    let model = random::init(7, device, |device| MlpConfig::new(sizes).init(device));
    let ddp = how.config().init(worker.group())?;
    let mut model = ddp.attach(model)?;
    let reduced_on = ddp.reduce_on()?;
    if worker.rank() == 0 {
        println!("{device:?}, {how:?}: averaged on {reduced_on:?}");
    }
    if worker.world_size() == 1 && !format!("{device:?}").contains("Flex") {
        assert_eq!(reduced_on, how.reduce_on());
    }
    let momentum = MomentumConfig::new().with_momentum(0.9);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let rows = BATCH / worker.world_size();
    for step in 0..STEPS {
        let first = step * BATCH + worker.rank() * rows;
        let value = |at: usize| ((first * 12 + at) as f32 * 0.37).sin();
        let inputs = (0..rows * 12).map(value).collect::<Vec<_>>();
        let inputs = Tensor::<2>::from_data(TensorData::new(inputs, [rows, 12]), device);
        let loss = |inputs: Tensor<2>| {
            let twice = model.forward(inputs.clone()) + model.forward(inputs * 0.5);
            (twice - 0.5).powi_scalar(2).mean()
        };
        if step % 2 == 1 {
            ddp.no_sync(&model, || (loss(inputs.clone() + 0.1) / 2.0).backward())?;
        }
        let gradients = ddp.synchronize(loss(inputs).backward(), &model)?;
        model = optimizer.step(0.02, model, gradients);
    }
    ddp.verify_replicas(&model)?;
    Ok(parameters(&model))
}

fn parameters(model: &Mlp) -> Vec<f32> {
    struct All(Vec<f32>);
    impl ModuleVisitor for All {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let data = param.val().into_data();
            self.0.extend(data.try_into_vec_as::<f32>().unwrap());
        }
    }
    let mut all = All(Vec::new());
    model.visit(&mut all);
    all.0
}

/// The parameters that all ranks end with.
fn run(launcher: Launcher, how: How) -> Vec<f32> {
    let first = Mutex::new(None);
    let done = launcher.run(|worker| -> burn_dist::Result<()> {
        let trained = train(&worker, how)?;
        // They are equal: `train` has verified it.
        *first.lock().unwrap() = Some(trained);
        Ok(())
    });
    done.unwrap();
    first.into_inner().unwrap().unwrap()
}

/// Another device adds in another order, and its functions are good to some units in the last place.
#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference = found
        .iter()
        .zip(expected)
        .map(|(one, other)| (one - other).abs());
    let largest = difference.fold(0.0, f32::max);
    println!("{what}: the largest difference is {largest:e}");
    assert!(largest < 1e-3, "{what}: {largest}");
}

#[test]
fn replicas_on_gpus_train_as_on_the_cpu() {
    let on = |backend, replicas, how| run(launcher(backend, replicas), how);
    let expected = on(Backend::Cpu, 1, How::OnDevice);
    for how in HOWS {
        let found = on(Backend::Cpu, 2, how);
        assert_close(&found, &expected, &format!("2 on the CPU, {how:?}"));
        for backend in backends() {
            for replicas in [1, 2] {
                let found = on(backend, replicas, how);
                assert_close(
                    &found,
                    &expected,
                    &format!("{replicas} on {backend}, {how:?}"),
                );
            }
        }
    }
}

/// Layers whose gradients are in memory that backward writes to afterwards: both sides of an addition get
/// the same.
#[derive(Module, Debug)]
struct Shifted {
    shift: Param<Tensor<2>>,
    inner: Linear,
    /// One element, which has a bucket of its own.
    scale: Param<Tensor<1>>,
}

impl Shifted {
    const WIDTH: usize = 3000;

    fn init(device: &Device) -> Self {
        let ones = |value: f32| Tensor::<2>::full([1, Self::WIDTH], value, device);
        Self {
            shift: Param::from_tensor(ones(0.5)),
            inner: LinearConfig::new(4, Self::WIDTH).init(device),
            scale: Param::from_tensor(Tensor::full([1], 1.5, device)),
        }
    }

    fn forward(&self, input: Tensor<2>) -> Tensor<1> {
        let inner = self.inner.forward(input).mean_dim(0);
        let first = inner.clone().mul_scalar(2.0) + self.shift.val();
        let second = self.shift.val().mul_scalar(0.3) + inner.mul_scalar(3.0);
        (first.mul_scalar(5.0) * second).tanh().mean() * self.scale.val()
    }
}

/// The gradients of some steps, one after the other.
fn shifted(worker: &Worker, how: How) -> burn_dist::Result<Vec<f32>> {
    let device = worker.device();
    let model = random::init(5, device, Shifted::init);
    let ddp = how.config().init(worker.group())?;
    let model = ddp.attach(model)?;
    let mut all = Vec::new();
    for step in 0..6 {
        let value = |at: usize| ((step * 8 + at + worker.rank()) as f32 * 0.37).sin();
        let inputs = (0..8).map(value).collect::<Vec<_>>();
        let inputs = Tensor::<2>::from_data(TensorData::new(inputs, [2, 4]), device);
        let gradients = ddp.synchronize(model.forward(inputs).backward(), &model)?;
        let mut read = |data: Option<TensorData>| {
            all.extend(data.unwrap().try_into_vec_as::<f32>().unwrap());
        };
        let of = |param: &Param<Tensor<2>>| gradients.get::<2>(param.id).map(Tensor::into_data);
        read(of(&model.shift));
        read(of(&model.inner.weight));
        read(gradients.get::<1>(model.scale.id).map(Tensor::into_data));
    }
    Ok(all)
}

#[test]
fn gradients_that_share_their_memory_are_those_of_the_cpu() {
    for how in HOWS {
        for replicas in [1, 2] {
            let of = |backend| {
                let of_all = launcher(backend, replicas).run(|worker| shifted(&worker, how));
                of_all.unwrap().remove(0)
            };
            let expected = of(Backend::Cpu);
            for backend in backends() {
                let what = format!("{replicas} on {backend}, gradients, {how:?}");
                assert_close(&of(backend), &expected, &what);
            }
        }
    }
}

#[test]
fn a_rank_that_fails_in_mid_run_ends_the_others() {
    for backend in backends() {
        for how in HOWS {
            let run =
                launcher(backend, 2).run(|worker| -> Result<(), Box<dyn Error + Send + Sync>> {
                    let model = random::init(5, worker.device(), Shifted::init);
                    let ddp = how.config().init(worker.group())?;
                    let model = ddp.attach(model)?;
                    for step in 0..4 {
                        let inputs = Tensor::<2>::ones([2, 4], worker.device());
                        let gradients = model.forward(inputs).backward();
                        if step == 2 && worker.rank() == 1 {
                            return Err("out of data, on purpose".into());
                        }
                        ddp.synchronize(gradients, &model)?;
                    }
                    Ok(())
                });
            let error = run.unwrap_err().to_string();
            assert!(error.contains("out of data, on purpose"), "{error}");
        }
    }
}

#[test]
fn a_gpu_adds_up_for_one_model_at_a_time() {
    for backend in backends() {
        let done = launcher(backend, 2).run(|worker| -> burn_dist::Result<()> {
            let attached = || {
                let ddp = How::OnDevice.config().init(worker.group())?;
                let model = random::init(5, worker.device(), Shifted::init);
                ddp.attach(model).map(|_| ddp)
            };
            let (first, second) = (attached()?, attached()?);
            // Where devices do not add up, it is host memory for both.
            assert_eq!(second.reduce_on()?, ReduceOn::Host);
            let reduced_on = first.reduce_on()?;
            drop((first, second));
            assert_eq!(attached()?.reduce_on()?, reduced_on);
            Ok(())
        });
        done.unwrap();
    }
}

#[test]
fn tensors_are_reduced_where_they_are() {
    for backend in backends() {
        let done = launcher(backend, 2).run(|worker| -> burn_dist::Result<()> {
            let group = worker.group();
            let device = worker.device().clone().without_autodiff();
            let tensor = Tensor::<2>::full([300, 5], group.rank() as f32 + 0.5, &device);
            let sum = group.all_reduce(tensor, ReduceOp::Sum)?;
            assert_eq!(sum.device(), device);
            let sum = sum.into_data().try_into_vec_as::<f32>().unwrap();
            assert_eq!(sum, vec![2.0; 1500]);
            // Written to in place just before, while the group's own thread has read others.
            for round in 0..8 {
                let tensor = Tensor::<1>::full([4000], round as f32, &device);
                let others = group
                    .start()
                    .all_reduce(tensor.clone() * 2.0, ReduceOp::Max);
                let tensor = tensor.add_scalar(group.rank() as f32 * 2.0).mul_scalar(3.0);
                let mean = group.start().all_reduce(tensor, ReduceOp::Mean).wait()?;
                let mean = mean
                    .add_scalar(1.0)
                    .into_data()
                    .try_into_vec_as::<f32>()
                    .unwrap();
                assert_eq!(mean, vec![round as f32 * 3.0 + 4.0; 4000]);
                others.wait()?;
            }
            let count = Tensor::<1, Int>::from_data([1, 2, 3], &device);
            let counts = group.all_gather(count)?;
            assert_eq!(counts.len(), 2);
            Ok(())
        });
        done.unwrap();
    }
}

/// Returns the output of a layer on one of two ranks for its half of some numbers, and their gradient.
fn normalise(worker: &Worker) -> burn_dist::Result<Vec<f32>> {
    let device = worker.device();
    let rank = worker.rank();
    let norm = SyncBatchNorm::new(BatchNormConfig::new(3).init(device));
    let values: Vec<f32> = (0..12)
        .map(|at| ((rank * 12 + at) as f32 * 0.37).sin())
        .collect();
    let input = Tensor::<2>::from_data(TensorData::new(values, [4, 3]), device).require_grad();
    let output = norm.forward(input.clone());
    let gradient = input.grad(&output.clone().powi_scalar(3).sum().backward());
    let tensors = [output.detach().without_autodiff(), gradient.unwrap()];
    let data = tensors.map(|tensor| tensor.into_data().try_into_vec_as::<f32>().unwrap());
    Ok(data.concat())
}

#[test]
fn batches_are_normalised_over_ranks_as_on_the_cpu() {
    let both = |backend| {
        launcher(backend, 2)
            .run(|worker| normalise(&worker))
            .unwrap()
    };
    let expected = both(Backend::Cpu);
    assert_ne!(expected[0], expected[1]);
    for backend in backends() {
        for (found, expected) in both(backend).iter().zip(&expected) {
            assert_close(
                found,
                expected,
                &format!("a layer over 2 ranks on {backend}"),
            );
        }
    }
}

/// Not a test of its own: a process of a job.
#[test]
fn worker_process() {
    let Ok(place) = std::env::var(VARIABLE) else {
        return;
    };
    let mut words = place.splitn(4, ' ');
    let mut word = || words.next().unwrap().to_owned();
    let (backend, process, replicas) = (word(), word(), word().parse().unwrap());
    let folder = PathBuf::from(word());
    let mut known = backends().into_iter();
    let backend = known.find(|known| known.to_string() == backend).unwrap();
    let job = JobConfig::new(process.parse().unwrap(), 2, "127.0.0.1:0")
        .with_secret(Secret::new(b"0123456789abcdef0123456789abcdef"))
        .with_address_file(folder.join("address"));
    let trained = run(launcher(backend, replicas).with_job(job), How::OnDevice);
    println!("\n{MARK}{}", serde_json::to_string(&trained).unwrap());
}

#[test]
fn processes_with_gpus_train_as_one_on_the_cpu() {
    let start = |backend: Backend, process: usize, replicas: usize, folder: &Path| {
        let place = format!("{backend} {process} {replicas} {}", folder.display());
        Command::new(std::env::current_exe().unwrap())
            .args(["worker_process", "--exact", "--nocapture"])
            .env(VARIABLE, place)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let expected = run(launcher(Backend::Cpu, 1), How::OnDevice);
    let all = backends().into_iter();
    for (backend, replicas) in all.flat_map(|backend| [(backend, 1), (backend, 2)]) {
        let folder = tempfile::tempdir().unwrap();
        let started = [0, 1].map(|process| start(backend, process, replicas, folder.path()));
        for process in started {
            let output = process.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            for line in text.lines().filter(|line| line.contains("averaged on")) {
                println!("{line}");
            }
            let told = text.lines().find_map(|line| line.strip_prefix(MARK));
            assert!(told.is_some(), "{}: {text}", output.status);
            let found: Vec<f32> = serde_json::from_str(told.unwrap_or_default()).unwrap();
            let what = format!("2 processes of {replicas} on {backend}");
            assert_close(&found, &expected, &what);
        }
    }
}
