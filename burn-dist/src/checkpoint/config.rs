//! Opening the folder of a run's checkpoints, and finding the one to go on from.

use super::folder::{Folder, StoredCheckpoint};
use super::manifest::Manifest;
use super::restored::{Rejected, Restored};
use super::save::Checkpoints;
use super::{broadcast, failed};
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::config::Config;
use crossbeam::channel::{RecvTimeoutError, bounded};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Configuration of a run's checkpoints: their folder, how many are kept, and whether the run resumes from the
/// newest.
///
/// ```
/// # use burn::{data::dataset::InMemDataset, nn::{Linear, LinearConfig}, optim::SgdConfig};
/// # use burn::{data::dataloader::batcher::Batcher, tensor::{Device, Tensor}};
/// # use burn_dist::{data::ShardedLoaderConfig, ddp::DdpConfig, random};
/// use burn_dist::checkpoint::CheckpointConfig;
/// use burn_dist::launch::{Worker, launch};
///
/// # struct Points;
/// # impl Batcher<f32, Tensor<2>> for Points {
/// #     fn batch(&self, items: Vec<f32>, device: &Device) -> Tensor<2> {
/// #         Tensor::<1>::from_floats(items.as_slice(), device).unsqueeze_dim(1)
/// #     }
/// # }
/// fn train(worker: &Worker, config: &CheckpointConfig) -> burn_dist::Result<u64> {
///     random::seed(42, worker.rank()); // or `Launcher::with_seed`
/// #   let points = InMemDataset::new((0..64).map(|i| i as f32 / 64.0).collect());
/// #   let loader = ShardedLoaderConfig::new().with_batch_size(Some(4)).with_seed(Some(42));
/// #   let loader = loader.init(worker.group(), worker.device(), Points, points)?;
///     let mut model: Linear = LinearConfig::new(1, 1).init(worker.device());
///     let mut optimizer = SgdConfig::new().init();
///     let mut step = 0;
///     let (mut checkpoints, restored) = config.init(worker.group())?;
///     if let Some(mut restored) = restored {
///         model = restored.model("model", model)?;
///         optimizer = restored.optimizer("optimizer", optimizer)?;
///         loader.resume(&restored.sampler()?)?;
///         restored.random();
///         step = restored.step();
///     }
///     let ddp = DdpConfig::new().init(worker.group())?;
///     let mut model = ddp.attach(model)?; // hooks come last
///     while loader.state().epoch < 3 {
///         for batch in loader.batches() { // what is left of the epoch
///             let batch = batch?;
///             let weight = ddp.weight(batch.real as f64)?;
///             let loss = model.forward(batch.batch).mean() * weight;
///             let gradients = ddp.synchronize(loss.backward(), &model)?;
///             model = optimizer.step(0.1, model, gradients);
///             step += 1;
///             if step % 10 == 0 {
///                 let snapshot = checkpoints.snapshot(step)
///                     .with_model("model", &model)
///                     .with_optimizer("optimizer", &optimizer)
///                     .with_sampler(loader.state());
///                 checkpoints.save(snapshot)?; // a full disk is no reason to end
///             }
///         }
///     }
///     checkpoints.finish()?; // is the last one on disk?
///     Ok(step)
/// }
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let devices = || vec![Device::flex().autodiff(); 2];
/// let config = CheckpointConfig::new(folder.to_owned());
/// launch(devices(), |worker| train(&worker, &config))?;
/// let config = config.with_resume(true);
/// launch(devices(), |worker| train(&worker, &config))?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Config, Debug)]
pub struct CheckpointConfig {
    /// The folder; made if missing. Only rank 0 uses it: on other machines it need not exist.
    pub folder: PathBuf,
    /// Number of checkpoints to keep, at least 1. With 2 or more, a damaged one costs only the steps since the
    /// one before it.
    #[config(default = 3)]
    pub keep: usize,
    /// True to resume from the newest checkpoint. If false, the folder must have none, so that no two runs mix.
    #[config(default = false)]
    pub resume: bool,
    /// Settings that a run and its continuation must have alike, by name: a learning rate, a seed, a checksum of the
    /// data. They are saved with each checkpoint, and resuming compares them.
    #[config(default = "Vec::new()")]
    pub settings: Vec<(String, String)>,
    /// Time that the ranks wait for rank 0's disk. A checkpoint that takes longer to write has failed.
    #[config(default = "Duration::from_mins(10)")]
    pub disk_timeout: Duration,
}

/// Contents of the folder, as rank 0 found them.
#[derive(Serialize, Deserialize)]
struct Found {
    path: String,
    manifest: Manifest,
    /// Paths and reasons.
    rejected: Vec<(String, String)>,
}

impl CheckpointConfig {
    /// Opens the folder, and reads the newest checkpoint if this is to resume: `None` if there is none. A
    /// damaged one is passed over, with a warning of the crate `tracing`, and the one before it taken.
    ///
    /// Every rank of the group calls it, with the same configuration.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`], on every rank, if the folder can't be used, which is tried, or another job uses it; if it has
    /// checkpoints and this is not to resume; if all are damaged; if the newest is of another number of ranks,
    /// for each rank has a random stream of its own, of other settings, or of another format. [`Error::InvalidArgument`] if none
    /// is to be kept. Otherwise the group's own errors.
    pub fn init(&self, group: &ProcessGroup) -> Result<(Checkpoints, Option<Restored>)> {
        let group = &group.within("CheckpointConfig::init");
        if self.keep == 0 {
            let error = Error::InvalidArgument {
                rank: group.global_rank(),
                call: "CheckpointConfig::init",
                message: "keep is 0; it counts the checkpoints that stay, from 1".into(),
            };
            // The others wait for this rank otherwise.
            group.abort(&error.to_string());
            return Err(error);
        }
        let opened = (group.rank() == 0).then(|| self.open_in_time(group.world_size()));
        let (folder, mut contents, found) = match opened {
            None => (None, None, None),
            Some(Err(error)) => (None, None, Some(Err(error))),
            Some(Ok((folder, contents))) => {
                let found = contents.as_ref().map(Found::of);
                (Some(folder), contents, Some(Ok(found)))
            }
        };
        let found = broadcast::outcome(group, self.disk_timeout, found)??;
        let restored = match found {
            None => None,
            Some(found) => {
                let own = contents.take().map(|contents| contents.files);
                let restored = found.restore(group, own)?;
                restored.check_settings(&self.settings)?;
                Some(restored)
            }
        };
        let checkpoints = Checkpoints::new(group, folder, self.disk_timeout);
        let checkpoints = checkpoints.with_settings(self.settings.clone());
        Ok((checkpoints, restored))
    }

    /// Rank 0's part, on a thread that is left behind if the disk does not answer.
    fn open_in_time(&self, world_size: usize) -> Result<(Folder, Option<StoredCheckpoint>)> {
        let (config, span) = (self.clone(), tracing::Span::current());
        let open = move || span.in_scope(|| config.open(world_size));
        in_time(self.disk_timeout, open)
            .unwrap_or_else(|message| Err(failed(&self.folder, message)))
    }

    fn open(&self, world_size: usize) -> Result<(Folder, Option<StoredCheckpoint>)> {
        let mut folder = Folder::open(&self.folder, self.keep)?;
        if !self.resume {
            return match folder.steps()?.first() {
                None => Ok((folder, None)),
                Some(step) => Err(failed(
                    folder.path(),
                    format!(
                        "the folder has checkpoints of a run already, the newest of step {step}; resume \
                         from it, or choose another folder"
                    ),
                )),
            };
        }
        let contents = folder.newest()?;
        if let Some(StoredCheckpoint { path, manifest, .. }) = &contents
            && manifest.world_size != world_size
        {
            let saved = manifest.world_size;
            let message = format!(
                "it is of a job of {saved} ranks, and this one has {world_size}; resume with {saved}, for \
                 each rank goes on with a random stream of its own"
            );
            return Err(failed(path, message));
        }
        Ok((folder, contents))
    }
}

/// Runs what a disk may hold up for ever on a thread of its own, and waits for it up to `timeout`.
fn in_time<R: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, String> {
    let (sender, done) = bounded(1);
    // Whoever has given up has dropped the other end.
    let work = move || drop(sender.send(work()));
    let builder = std::thread::Builder::new().name("burn-dist-checkpoint".into());
    let thread = builder.spawn(work);
    let thread = thread.map_err(|error| format!("no thread to open the folder with: {error}"))?;
    match done.recv_timeout(timeout) {
        Ok(done) => {
            let _ = thread.join();
            Ok(done)
        }
        Err(RecvTimeoutError::Disconnected) => {
            Err("opening the folder has panicked; this is a defect, please report it".into())
        }
        Err(RecvTimeoutError::Timeout) => Err(format!(
            "the disk has not answered in {:.0} s; look at the mount",
            timeout.as_secs_f64()
        )),
    }
}

impl Found {
    fn of(contents: &StoredCheckpoint) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let rejected = contents.rejected.iter();
        Self {
            path: text(&contents.path),
            manifest: contents.manifest.clone(),
            rejected: rejected
                .map(|rejected| (text(&rejected.path), rejected.reason.clone()))
                .collect(),
        }
    }

    fn restore(self, group: &ProcessGroup, own: Option<Vec<Vec<u8>>>) -> Result<Restored> {
        let path = Path::new(&self.path);
        let files = broadcast::files(group, path, &self.manifest, own)?;
        let rejected = self.rejected.into_iter();
        let rejected = rejected.map(|(path, reason)| Rejected {
            path: path.into(),
            reason,
        });
        Restored::new(
            path.into(),
            self.manifest,
            files,
            rejected.collect(),
            group.rank(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_never_answers_is_an_error() {
        let (free, blocked) = bounded::<()>(0);
        // It is freed only when the wait is over.
        let error = in_time(Duration::ZERO, move || blocked.recv()).unwrap_err();
        assert!(error.contains("has not answered in 0 s"), "{error}");
        drop(free);
        assert_eq!(in_time(Duration::from_mins(1), || 7), Ok(7));
    }
}
