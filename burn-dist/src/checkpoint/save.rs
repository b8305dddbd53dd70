//! Saving: the parts of all ranks come together on rank 0, which writes.
//!
//! Invariants: every rank goes on with the same outcome; while a disk keeps rank 0's thread from ending,
//! that thread owns the folder, and nothing else is written. No wait for a disk is longer than its timeout: a
//! thread that a dead disk holds up is left behind.

use super::folder::Folder;
use super::manifest::{FORMAT, Manifest};
use super::snapshot::Snapshot;
use super::state::{self, OfRank, Settings};
use super::{RANKS, STATE, broadcast, failed};
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use crate::rendezvous::Crossovers;
use burn::tensor::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Time that a late checkpoint is waited for if the run does not call [`Checkpoints::finish`].
const DROP_TIMEOUT: Duration = Duration::from_secs(10);

/// Outcome of a checkpoint, on every rank.
#[derive(Clone, Debug)]
pub enum Saved {
    /// It is on disk, here; those before it are as many as were to be kept.
    Written(PathBuf),
    /// It could not be written, and rank 0 has logged why ([`Error::Checkpoint`]). Those before it are as
    /// they were, and training can go on. If something of it is there all the same, the error says so.
    /// [`Checkpoints::finish`] gives the error again, if no later one was written.
    Failed(Error),
}

/// One rank's end of a run's checkpoints. Made by [`CheckpointConfig::init`](super::CheckpointConfig::init).
#[derive(Debug)]
pub struct Checkpoints {
    group: ProcessGroup,
    /// On rank 0.
    disk: Option<Disk>,
    disk_timeout: Duration,
    settings: Settings,
    /// Error of the last checkpoint, if it was not written.
    failed: Option<Error>,
}

/// Part of a checkpoint that one rank gives.
#[derive(Serialize, Deserialize)]
struct StatePart {
    step: u64,
    own: Result<Vec<u8>, String>,
}

impl Checkpoints {
    pub(super) fn new(
        group: &ProcessGroup,
        folder: Option<Folder>,
        disk_timeout: Duration,
    ) -> Self {
        Self {
            disk: folder.map(|folder| Disk::new(folder, disk_timeout)),
            group: group.within("Checkpoints::save"),
            disk_timeout,
            settings: Settings::new(),
            failed: None,
        }
    }

    /// Saves these with each checkpoint.
    pub(super) fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Begins to collect the state after `step`, with the calling thread's random stream as it is now.
    pub fn snapshot(&self, step: u64) -> Snapshot {
        let mut snapshot = Snapshot::new(step, self.group.rank() == 0);
        snapshot.shared.settings.clone_from(&self.settings);
        snapshot
    }

    /// Writes a checkpoint, and removes the oldest if there are more than are to be kept. Every rank calls it
    /// after the same step, a later one than any before; all return together, once rank 0 has written.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if ranks are at different steps; otherwise the group's own. That rank 0
    /// could not write is none of these: see [`Saved::Failed`].
    pub fn save(&mut self, snapshot: Snapshot) -> Result<Saved> {
        let own = match &snapshot.failed {
            None => state::encode(&snapshot.own),
            Some(message) => Err(message.clone()),
        };
        let parts = self.gather(snapshot.step, own)?;
        let (world_size, timeout) = (self.group.world_size(), self.disk_timeout);
        let crossovers = self.group.crossovers().cloned();
        let outcome = self.disk.as_mut().map(|disk| {
            let step = snapshot.step;
            let written = contents(snapshot, parts, world_size, crossovers)
                .map_err(|message| failed(&disk.path, format!("step {step}: {message}")))
                .and_then(|(manifest, files)| disk.write(manifest, files));
            written
                .inspect_err(
                    |error| tracing::warn!(%error, "no checkpoint was written; training goes on"),
                )
                .map(|path| path.to_string_lossy().into_owned())
        });
        let outcome = broadcast::outcome(&self.group, timeout, outcome)?;
        self.failed = outcome.as_ref().err().cloned();
        Ok(match outcome {
            Ok(path) => Saved::Written(path.into()),
            Err(error) => Saved::Failed(error),
        })
    }

    /// Ends the checkpoints of a run. Waits for one that the disk has not taken in time, once more as long as for any.
    /// Every rank calls it, and all return together; so a program can end with an error if its last checkpoint is
    /// not there.
    ///
    /// # Errors
    ///
    /// [`Error::Checkpoint`], on every rank, if the last checkpoint that was saved is not on disk; otherwise the
    /// group's own.
    pub fn finish(mut self) -> Result<()> {
        let (failed, timeout) = (self.failed.take(), self.disk_timeout);
        let outcome = self.disk.as_mut().map(|disk| match disk.finish(timeout) {
            Some(late) => late,
            None => failed.map_or(Ok(()), Err),
        });
        let group = self.group.within("Checkpoints::finish");
        broadcast::outcome(&group, timeout, outcome)?
    }

    /// The parts of all ranks, on all of them.
    fn gather(&self, step: u64, own: Result<Vec<u8>, String>) -> Result<Vec<StatePart>> {
        let rank = self.group.global_rank();
        let parts: Vec<StatePart> = self.group.objects().all_gather(&StatePart { step, own })?;
        let ranks = self.group.ranks();
        // Every rank makes the same comparison, and so gives the same error.
        match parts
            .iter()
            .zip(ranks)
            .find(|(part, _)| part.step != parts[0].step)
        {
            None => Ok(parts),
            Some((part, other)) => Err(Error::InvalidArgument {
                rank,
                call: "Checkpoints::save",
                message: format!(
                    "rank {other} saves step {} and rank {} step {}; all ranks save the same",
                    part.step, ranks[0], parts[0].step
                ),
            }),
        }
    }
}

/// Returns the contents to write. The error names the part that is missing.
fn contents(
    snapshot: Snapshot,
    parts: Vec<StatePart>,
    world_size: usize,
    crossovers: Option<Crossovers>,
) -> Result<(Manifest, Vec<(String, Bytes)>), String> {
    let own = parts.into_iter().enumerate().map(|(rank, part)| {
        let decoded = part.own.and_then(|own| state::decode::<OfRank>(&own));
        decoded.map_err(|message| format!("rank {rank}: {message}"))
    });
    let own = own.collect::<Result<Vec<_>, _>>()?;
    let manifest = Manifest {
        format: FORMAT,
        burn_dist: env!("CARGO_PKG_VERSION").into(),
        step: snapshot.step,
        epoch: snapshot.shared.sampler.map(|sampler| sampler.epoch),
        world_size,
        crossovers,
        files: Vec::new(),
    };
    let mut files = snapshot.records;
    for (name, bytes) in [
        (STATE, state::encode(&snapshot.shared)?),
        (RANKS, state::encode(&own)?),
    ] {
        files.push((name.to_owned(), Bytes::from_bytes_vec(bytes)));
    }
    Ok((manifest, files))
}

/// Rank 0's folder, or the thread that has it.
#[derive(Debug)]
struct Disk {
    path: Arc<Path>,
    folder: Option<Folder>,
    writing: Option<Writing>,
    /// Time that it is waited for.
    timeout: Duration,
}

/// A thread that writes, and gives the folder back.
#[derive(Debug)]
struct Writing {
    step: u64,
    thread: JoinHandle<()>,
    done: Receiver<(Folder, Result<PathBuf>)>,
}

impl Disk {
    fn new(folder: Folder, timeout: Duration) -> Self {
        Self {
            path: Arc::clone(folder.path()),
            folder: Some(folder),
            writing: None,
            timeout,
        }
    }

    /// Writes, and waits for it.
    fn write(&mut self, manifest: Manifest, files: Vec<(String, Bytes)>) -> Result<PathBuf> {
        if let Some(late) = self.writing.take() {
            let step = late.step;
            match self.wait(late, Duration::ZERO) {
                Ok(path) => tracing::info!(checkpoint = %path.display(), "was written late"),
                Err(error) if self.writing.is_some() => return Err(error),
                Err(error) => tracing::warn!(step, %error, "a late checkpoint was not written"),
            }
        }
        if self.folder.is_none() {
            let message =
                "the thread that wrote before has panicked; this is a defect, please report it";
            return Err(failed(&self.path, message));
        }
        let step = manifest.step;
        let (give, folder) = bounded::<Folder>(1);
        let (sender, done) = bounded(1);
        let write = move || {
            let Ok(mut folder) = folder.recv() else {
                return;
            };
            let written = folder.write(manifest, &files);
            // Whoever has dropped the other end waits for the thread alone.
            let _ = sender.send((folder, written));
        };
        let builder = std::thread::Builder::new().name("burn-dist-checkpoint".into());
        let thread = builder
            .spawn(write)
            .map_err(|error| failed(&self.path, format!("no thread to write with: {error}")))?;
        if let Some(folder) = self.folder.take() {
            // The thread waits for it.
            let _ = give.send(folder);
        }
        self.wait(Writing { step, thread, done }, self.timeout)
    }

    fn wait(&mut self, writing: Writing, timeout: Duration) -> Result<PathBuf> {
        match writing.done.recv_timeout(timeout) {
            Ok((folder, written)) => {
                self.folder = Some(folder);
                join(writing);
                written
            }
            Err(RecvTimeoutError::Disconnected) => {
                join(writing);
                Err(failed(&self.path, "the thread that writes has panicked"))
            }
            Err(RecvTimeoutError::Timeout) => {
                let step = writing.step;
                self.writing = Some(writing);
                let message = format!(
                    "the disk has not taken the checkpoint of step {step} in time; no other is written \
                     before that has ended"
                );
                Err(failed(&self.path, message))
            }
        }
    }

    /// Waits for a checkpoint that the disk has not taken in time, and tells what became of it, if there is one. A
    /// thread that the disk holds up still is left behind: nothing can end it, and what it writes has no
    /// checkpoint's name until it is whole.
    fn finish(&mut self, timeout: Duration) -> Option<Result<()>> {
        let late = self.writing.take()?;
        let step = late.step;
        let written = self.wait(late, timeout);
        if self.writing.take().is_some() {
            let message = format!(
                "the disk has not taken the checkpoint of step {step} in {:.0} s; the thread that writes it is left \
                 behind",
                self.timeout.as_secs_f64()
            );
            return Some(Err(failed(&self.path, message)));
        }
        Some(written.map(drop))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nobody counts on it: `save` has said that it was not written.
        if let Some(Err(error)) = self.finish(self.timeout.min(DROP_TIMEOUT)) {
            tracing::warn!(%error, "the last checkpoint is not on disk");
        }
    }
}

fn join(writing: Writing) {
    // A panic has been told by the missing message.
    let _ = writing.thread.join();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::CheckpointConfig;
    use crate::checkpoint::disk::FileSystem;
    use std::io;

    /// A disk that stands still until there is a file `go` beside the checkpoints.
    fn stands_still(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.ancestors().nth(2).unwrap();
        while !folder.join("go").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::write(path, bytes)
    }

    /// Checkpoints on such a disk, of which the first two steps were not written in time.
    fn with_two_late(folder: &Path) -> Checkpoints {
        let folder = Folder::open(folder, 3).unwrap().on_disk(FileSystem {
            write: stands_still,
            ..FileSystem::SYSTEM
        });
        let group = ProcessGroup::single();
        let mut checkpoints = Checkpoints::new(&group, Some(folder), Duration::ZERO);
        for step in 1..=2 {
            let saved = checkpoints.save(checkpoints.snapshot(step)).unwrap();
            let Saved::Failed(error) = saved else {
                panic!("it was written");
            };
            let due = "has not taken the checkpoint of step 1 in time";
            assert!(error.to_string().contains(due), "{error}");
        }
        checkpoints
    }

    #[test]
    fn a_disk_that_stands_still_costs_checkpoints_and_a_late_one_counts() {
        let temporary = tempfile::tempdir().unwrap();
        let mut checkpoints = with_two_late(temporary.path());
        std::fs::write(temporary.path().join("go"), "").unwrap();
        checkpoints.disk_timeout = Duration::from_mins(1);
        checkpoints.finish().unwrap();
        let config = CheckpointConfig::new(temporary.path().to_owned()).with_resume(true);
        let (mut checkpoints, restored) = config.init(&ProcessGroup::single()).unwrap();
        assert_eq!(restored.unwrap().step(), 1);
        let saved = checkpoints.save(checkpoints.snapshot(3)).unwrap();
        assert!(matches!(saved, Saved::Written(_)), "{saved:?}");
        checkpoints.finish().unwrap();
    }

    /// The disk is freed only once both have ended, so that they can't have waited for it.
    #[test]
    fn a_dead_disk_does_not_hold_up_the_end_of_a_run() {
        let temporary = tempfile::tempdir().unwrap();
        drop(with_two_late(temporary.path()));
        let other = tempfile::tempdir().unwrap();
        let error = with_two_late(other.path()).finish().unwrap_err();
        let due = "of step 1 in 0 s; the thread that writes it is left behind";
        assert!(error.to_string().ends_with(due), "{error}");
        for folder in [temporary, other] {
            std::fs::write(folder.path().join("go"), "").unwrap();
        }
    }

    #[test]
    fn the_end_of_a_run_tells_that_its_last_checkpoint_is_not_there() {
        let temporary = tempfile::tempdir().unwrap();
        let config = CheckpointConfig::new(temporary.path().to_owned());
        let (mut checkpoints, _) = config.init(&ProcessGroup::single()).unwrap();
        for step in [1, 1] {
            let _ = checkpoints.save(checkpoints.snapshot(step)).unwrap();
        }
        let error = checkpoints.finish().unwrap_err().to_string();
        assert!(error.contains("of this step already"), "{error}");
    }
}
