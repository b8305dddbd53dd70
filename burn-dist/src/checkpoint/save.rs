//! Saving: the parts of all ranks come together on rank 0, which writes.
//!
//! Invariants: every rank goes on with the same outcome; while a disk keeps rank 0's thread from ending,
//! that thread owns the folder, and nothing else is written.
//!
//! Callers: training programs.

use super::folder::Folder;
use super::manifest::{FORMAT, Manifest};
use super::snapshot::Snapshot;
use super::state::{self, OfRank};
use super::{RANKS, STATE, broadcast, failed};
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::tensor::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What became of a checkpoint, on every rank.
#[derive(Clone, Debug)]
pub enum Saved {
    /// It is on disk, here; those before it are as many as were to be kept.
    Written(PathBuf),
    /// It could not be written, and rank 0 has logged why ([`Error::Checkpoint`]). Those before it are as
    /// they were, and training can go on. If something of it is there all the same, the error says so.
    Failed(Error),
}

/// One rank's end of a run's checkpoints. Made by [`CheckpointConfig::init`](super::CheckpointConfig::init).
#[derive(Debug)]
pub struct Checkpoints {
    group: ProcessGroup,
    /// On rank 0.
    disk: Option<Disk>,
    disk_timeout: Duration,
}

/// What a rank gives to a checkpoint.
#[derive(Serialize, Deserialize)]
struct Part {
    step: u64,
    own: Result<Vec<u8>, String>,
}

impl Checkpoints {
    pub(super) fn new(group: ProcessGroup, folder: Option<Folder>, disk_timeout: Duration) -> Self {
        Self {
            disk: folder.map(Disk::new),
            group,
            disk_timeout,
        }
    }

    /// Begins to collect the state after `step`, with the calling thread's random stream as it is now.
    pub fn snapshot(&self, step: u64) -> Snapshot {
        Snapshot::new(step, self.group.rank() == 0)
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
        let outcome = self.disk.as_mut().map(|disk| {
            let step = snapshot.step;
            let written = contents(snapshot, parts, world_size)
                .map_err(|message| failed(&disk.path, format!("step {step}: {message}")))
                .and_then(|(manifest, files)| disk.write(manifest, files, timeout));
            written
                .inspect_err(
                    |error| tracing::warn!(%error, "no checkpoint was written; training goes on"),
                )
                .map(|path| path.to_string_lossy().into_owned())
        });
        Ok(match broadcast::outcome(&self.group, timeout, outcome)? {
            Ok(path) => Saved::Written(path.into()),
            Err(error) => Saved::Failed(error),
        })
    }

    /// The parts of all ranks, on all of them.
    fn gather(&self, step: u64, own: Result<Vec<u8>, String>) -> Result<Vec<Part>> {
        let rank = self.group.global_rank();
        let parts: Vec<Part> = self.group.all_gather_messages(&Part { step, own })?;
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

/// What is to be written; the error says which part is missing.
fn contents(
    snapshot: Snapshot,
    parts: Vec<Part>,
    world_size: usize,
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
}

/// A thread that writes, and gives the folder back.
#[derive(Debug)]
struct Writing {
    step: u64,
    thread: JoinHandle<()>,
    done: Receiver<(Folder, Result<PathBuf>)>,
}

impl Disk {
    fn new(folder: Folder) -> Self {
        Self {
            path: Arc::clone(folder.path()),
            folder: Some(folder),
            writing: None,
        }
    }

    /// Writes, and waits for it up to `timeout`.
    fn write(
        &mut self,
        manifest: Manifest,
        files: Vec<(String, Bytes)>,
        timeout: Duration,
    ) -> Result<PathBuf> {
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
        self.wait(Writing { step, thread, done }, timeout)
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
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A thread that the disk holds up can't be ended; what it writes is whole when it is done.
        if let Some(writing) = self.writing.take() {
            join(writing);
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
    use std::io;

    /// A disk that stands still until there is a file `go` beside the checkpoints.
    fn slow(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.ancestors().nth(2).unwrap();
        while !folder.join("go").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::write(path, bytes)
    }

    #[test]
    fn a_disk_that_stands_still_costs_checkpoints_and_holds_up_nobody() {
        let temporary = tempfile::tempdir().unwrap();
        let group = ProcessGroup::single();
        let folder = Folder::open(temporary.path(), 3).unwrap().on_disk(slow);
        let mut checkpoints = Checkpoints::new(group.clone(), Some(folder), Duration::ZERO);
        for step in 1..=2 {
            let saved = checkpoints.save(checkpoints.snapshot(step)).unwrap();
            let Saved::Failed(error) = saved else {
                panic!("it was written");
            };
            let due = "has not taken the checkpoint of step 1 in time";
            assert!(error.to_string().contains(due), "{error}");
        }
        std::fs::write(temporary.path().join("go"), "").unwrap();
        // What was late has been written when the thread is joined.
        drop(checkpoints);
        let config = CheckpointConfig::new(temporary.path().to_owned()).with_resume(true);
        let (mut checkpoints, restored) = config.init(&group).unwrap();
        assert_eq!(restored.unwrap().step(), 1);
        let saved = checkpoints.save(checkpoints.snapshot(3)).unwrap();
        assert!(matches!(saved, Saved::Written(_)), "{saved:?}");
    }
}
