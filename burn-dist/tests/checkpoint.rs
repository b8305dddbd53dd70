//! Checkpoints as a training program uses them, on device threads.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::{Device, Tensor, TensorData};
use burn_dist::checkpoint::{CheckpointConfig, Checkpoints, Restored, Saved};
use burn_dist::data::ShardedLoaderConfig;
use burn_dist::ddp::{DdpConfig, parameters_sha256};
use burn_dist::launch::{Launcher, Worker};
use burn_dist::random::{self, Dropout, DropoutConfig};
use burn_dist::{Error, Result};
use serde_json::Value as Json;
use std::path::Path;
use std::time::Duration;

/// 26 points are 4 steps of 2 ranks with 4 each, the last with padding.
const POINTS: usize = 26;
const EPOCHS: u64 = 3;
const STEPS: u64 = 12;
const EVERY: u64 = 3;

struct Points;

impl Batcher<f32, Tensor<2>> for Points {
    fn batch(&self, items: Vec<f32>, device: &Device) -> Tensor<2> {
        let rows = items.len();
        Tensor::from_data(TensorData::new(items, [rows, 1]), device)
    }
}

/// Parameters, running statistics, and draws at random.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    norm: BatchNorm,
    dropout: Dropout,
    last: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        random::init(3, device, |device| Self {
            first: LinearConfig::new(1, 8).init(device),
            norm: BatchNormConfig::new(8).init(device),
            dropout: DropoutConfig::new(0.3).init(),
            last: LinearConfig::new(8, 1).init(device),
        })
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        let target = x.clone().mul_scalar(3.0).sin();
        let hidden = self.norm.forward(self.first.forward(x));
        let output = self.last.forward(self.dropout.forward(hidden.tanh()));
        (output - target).powi_scalar(2).mean()
    }
}

fn run<R: Send>(ranks: usize, f: impl Fn(&Worker) -> Result<R> + Sync) -> Result<Vec<R>> {
    Launcher::new(vec![Device::flex().autodiff(); ranks])
        .with_timeout(Duration::from_mins(1))
        .run(|worker| f(&worker))
}

/// Result of a run: the losses of this rank, and the checksum of parameters and statistics.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    losses: Vec<f64>,
    sha256: String,
}

/// Trains up to `stop` steps, from the last checkpoint if there is one.
fn train(worker: &Worker, config: &CheckpointConfig, stop: u64) -> Result<Outcome> {
    random::seed(5, worker.rank());
    let loader = ShardedLoaderConfig::new()
        .with_batch_size(Some(4))
        .with_seed(Some(5))
        .with_num_workers(1)
        .init_shard(
            (worker.rank(), worker.world_size()),
            worker.device(),
            Points,
            InMemDataset::new((0..POINTS).map(|i| i as f32 / 9.0).collect()),
        )?;
    let mut model = Net::new(worker.device());
    let mut optimizer = AdamConfig::new().init();
    let scheduler = CosineAnnealingLrSchedulerConfig::new(0.1, STEPS as usize);
    let mut scheduler = scheduler.init().unwrap();
    let (mut step, mut losses) = (0, Vec::<f64>::new());
    let (mut checkpoints, restored) = config.init(worker.group())?;
    if let Some(mut restored) = restored {
        model = restored.model("net", model)?;
        optimizer = restored.optimizer("adam", optimizer)?;
        scheduler = scheduler.load_record(restored.scheduler("rate")?);
        loader.resume(&restored.sampler()?)?;
        restored.random();
        losses = restored.own("losses")?;
        step = restored.step();
        assert_eq!(restored.shared::<u64>("seed")?, 5);
    }
    let ddp = DdpConfig::new().init(worker.group())?;
    let mut model = ddp.attach(model)?;
    while loader.state().epoch < EPOCHS && step < stop {
        for batch in loader.batches() {
            let loss = model.loss(batch?.batch);
            losses.push(f64::from(loss.clone().into_scalar::<f32>()));
            let gradients = ddp.synchronize(loss.backward(), &model)?;
            model = optimizer.step(scheduler.step(), model, gradients);
            step += 1;
            if step % EVERY == 0 {
                let snapshot = checkpoints.snapshot(step).with_model("net", &model);
                let snapshot = snapshot.with_optimizer("adam", &optimizer);
                let snapshot = snapshot.with_scheduler("rate", scheduler.to_record());
                let snapshot = snapshot
                    .with_sampler(loader.state())
                    .with_shared("seed", &5_u64);
                let saved = checkpoints.save(snapshot.with_own("losses", &losses))?;
                assert!(matches!(saved, Saved::Written(_)), "{saved:?}");
            }
            if step == stop {
                break;
            }
        }
    }
    ddp.verify_replicas(&model)?;
    Ok(Outcome {
        losses,
        sha256: parameters_sha256(&model)?,
    })
}

#[test]
fn resumed_after_any_step_a_run_comes_to_the_same_on_all_ranks() {
    let train = |folder: &Path, stop| {
        let config = CheckpointConfig::new(folder.to_owned()).with_resume(true);
        run(2, |worker| train(worker, &config, stop)).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let uninterrupted = train(folder.path(), STEPS);
    assert_eq!(uninterrupted[0].losses.len() as u64, STEPS);
    assert_ne!(uninterrupted[0].losses, uninterrupted[1].losses);
    for stop in 0..STEPS {
        let folder = tempfile::tempdir().unwrap();
        train(folder.path(), stop);
        let resumed = train(folder.path(), STEPS);
        // The losses show that each rank went on with its own samples and masks.
        for (rank, (resumed, uninterrupted)) in resumed.iter().zip(&uninterrupted).enumerate() {
            assert_eq!(resumed.losses, uninterrupted.losses, "rank {rank}, {stop}");
        }
        assert_eq!(resumed[0].sha256, uninterrupted[0].sha256, "{stop}");
    }
}

/// Opens a folder on so many ranks, and has all do something with it.
fn with<R: Send>(
    folder: &Path,
    ranks: usize,
    resume: bool,
    f: impl Fn(&Worker, Checkpoints, Option<Restored>) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let config = CheckpointConfig::new(folder.to_owned()).with_resume(resume);
    run(ranks, |worker| {
        let (checkpoints, restored) = config.init(worker.group())?;
        f(worker, checkpoints, restored)
    })
}

/// Saves a model and an optimizer that has stepped once.
fn save(folder: &Path) {
    with(folder, 2, false, |worker, mut checkpoints, _| {
        let ddp = DdpConfig::new().init(worker.group())?;
        let mut model = ddp.attach(Net::new(worker.device()))?;
        let mut optimizer = AdamConfig::new().init();
        let loss = model.loss(Tensor::ones([4, 1], worker.device()));
        let gradients = ddp.synchronize(loss.backward(), &model)?;
        model = optimizer.step(0.1, model, gradients);
        let snapshot = checkpoints.snapshot(1).with_model("net", &model);
        checkpoints.save(snapshot.with_optimizer("adam", &optimizer))
    })
    .unwrap();
}

/// The message of the failure, which all ranks have.
#[track_caller]
fn refused<R>(outcome: Result<R>) -> String {
    let error = outcome.map(drop).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn what_can_not_be_gone_on_from_is_refused_on_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    save(path);
    let assert_refused = |folder: &Path, ranks, resume, due: &str| {
        let config = CheckpointConfig::new(folder.to_owned()).with_resume(resume);
        let opened = run(ranks, |worker| Ok(config.init(worker.group()).map(drop)));
        for opened in opened.unwrap() {
            let message = refused(opened);
            assert!(message.contains(due), "{message}");
        }
    };
    let used = "has checkpoints of a run already, the newest of step 1";
    assert_refused(path, 2, false, used);
    for ranks in [1, 3] {
        let other = format!("a job of 2 ranks, and this one has {ranks}");
        assert_refused(path, ranks, true, &other);
    }
    let file = path.join("file");
    std::fs::write(&file, "").unwrap();
    assert_refused(&file, 2, true, "the folder can't be used");
    let config = CheckpointConfig::new(path.to_owned()).with_keep(0);
    let error = run(2, |worker| config.init(worker.group()).map(drop)).unwrap_err();
    assert!(error.to_string().contains("keep is 0"), "{error}");
}

#[test]
fn what_does_not_fit_a_record_is_said() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path());
    with(folder.path(), 2, true, |worker, _, restored| {
        let mut restored = restored.unwrap();
        let device = worker.device();
        assert!(refused(restored.own::<u8>("a")).contains("no value `a`"));
        assert!(refused(restored.sampler()).contains("no sampler's state"));
        assert!(refused(restored.model("other", Net::new(device))).contains("no record `other`"));
        let sgd = restored.optimizer("adam", SgdConfig::new().init());
        let message = refused(sgd.map(drop));
        assert!(message.contains("takes 0 of the 12 tensors"), "{message}");
        let linear: Linear = LinearConfig::new(1, 1).init(device);
        let message = refused(restored.model("net", linear));
        assert!(
            message.contains("the record `net` does not fit"),
            "{message}"
        );
        assert!(refused(restored.model("net", Net::new(device))).contains("was taken already"));
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_can_not_be_saved_fails_on_all_ranks_and_they_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let written = with(folder.path(), 2, false, |worker, mut checkpoints, _| {
        let model = Net::new(worker.device());
        let mut failed = Vec::new();
        for (names, value) in [
            (["a", "a"], "a"),
            (["../a", "b"], "a"),
            (["a", "b"], "taken"),
        ] {
            let mut snapshot = checkpoints.snapshot(1).with_own("taken", &1);
            for name in names {
                snapshot = snapshot.with_model(name, &model);
            }
            // On rank 1 alone.
            if worker.rank() == 1 {
                snapshot = snapshot.with_own(value, &2);
            }
            match checkpoints.save(snapshot)? {
                Saved::Failed(error) => failed.push(error.to_string()),
                Saved::Written(path) => panic!("{} was written", path.display()),
            }
        }
        let good = checkpoints.snapshot(2).with_model("a", &model);
        let Saved::Written(path) = checkpoints.save(good)? else {
            panic!("the last one is good");
        };
        // Steps go up.
        let again = checkpoints.save(checkpoints.snapshot(2))?;
        assert!(matches!(again, Saved::Failed(_)));
        Ok((failed, path))
    });
    let written = written.unwrap();
    assert_eq!(written[0], written[1]);
    let (failed, path) = &written[0];
    assert_eq!(*path, folder.path().join("step-000000000002"));
    for (failed, due) in failed.iter().zip([
        "rank 0: two records are called `a`",
        "rank 0: `../a` is no name for a record",
        "rank 1: two values are called `taken`",
    ]) {
        assert!(failed.contains(due), "{failed}");
    }
}

/// Lists in one another, so many.
fn nested(levels: u32) -> Json {
    (0..levels).fold(Json::Null, |inner, _| Json::Array(vec![inner]))
}

#[test]
fn what_could_not_be_read_again_is_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let failed = with(folder.path(), 2, false, |worker, mut checkpoints, _| {
        let shared = checkpoints.snapshot(1).with_shared("deep", &nested(62));
        let mut own = checkpoints.snapshot(1);
        // On rank 1 alone.
        if worker.rank() == 1 {
            own = own.with_own("deep", &nested(62));
        }
        let mut failed = Vec::new();
        for snapshot in [shared, own] {
            match checkpoints.save(snapshot)? {
                Saved::Failed(error) => failed.push(error.to_string()),
                Saved::Written(path) => panic!("{} was written", path.display()),
            }
        }
        let good = checkpoints.snapshot(1).with_shared("deep", &nested(61));
        let saved = checkpoints.save(good.with_own("deep", &nested(61)))?;
        assert!(matches!(saved, Saved::Written(_)), "{saved:?}");
        Ok(failed)
    });
    for failed in failed.unwrap() {
        for (rank, failed) in failed.iter().enumerate() {
            let due = format!("rank {rank}: the value `deep` can't be saved: it is nested deeper");
            assert!(failed.contains(&due), "{failed}");
        }
    }
    with(folder.path(), 2, true, |_, _, restored| {
        let restored = restored.unwrap();
        assert_eq!(restored.shared::<Json>("deep")?, nested(61));
        assert_eq!(restored.own::<Json>("deep")?, nested(61));
        Ok(())
    })
    .unwrap();
}

#[test]
fn ranks_at_different_steps_hear_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let errors = with(folder.path(), 2, false, |worker, mut checkpoints, _| {
        let snapshot = checkpoints.snapshot(7 + worker.rank() as u64);
        Ok(checkpoints.save(snapshot).unwrap_err().to_string())
    });
    for error in errors.unwrap() {
        assert!(
            error.contains("rank 1 saves step 8 and rank 0 step 7"),
            "{error}"
        );
    }
}
