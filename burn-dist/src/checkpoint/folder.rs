//! The folder of checkpoints, on rank 0's disk.
//!
//! Invariants:
//! - a directory called `step-N` was complete and synced when it got that name;
//! - a save that failed leaves no directory of that name, or its error says that it does;
//! - one job at a time has the folder: it holds a lock on it, which the system lets go of with the process;
//! - nothing is removed before a newer checkpoint is whole, and what was found damaged is never removed.

use super::disk::{FileSystem, Lock, remove};
use super::failed;
use super::manifest::{FileEntry, Flaw, LARGEST_MANIFEST, MANIFEST, MANIFEST_SUM, Manifest};
use super::restored::Rejected;
use crate::error::Result;
use burn::tensor::Bytes;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Begins the names of what is being written, or removed.
const UNFINISHED: &str = ".unfinished-";

/// The longest file that holds a checksum.
const LARGEST_SUM: u64 = 256;

/// The names with which the file system is tried.
const PROBES: [&str; 2] = [".unfinished-probe", ".unfinished-probe-renamed"];

#[derive(Debug)]
pub(super) struct Folder {
    path: Arc<Path>,
    keep: usize,
    /// The steps of checkpoints that were found damaged.
    damaged: Vec<u64>,
    disk: FileSystem,
    lock: Lock,
}

/// A checkpoint as it was read, whole.
#[derive(Debug)]
pub(super) struct StoredCheckpoint {
    pub(super) path: PathBuf,
    pub(super) manifest: Manifest,
    /// As the manifest names them.
    pub(super) files: Vec<Vec<u8>>,
    /// Newer ones that are damaged.
    pub(super) rejected: Vec<Rejected>,
}

impl Folder {
    /// Makes the folder if it is missing, takes its lock, removes what a job that was killed left unfinished, and
    /// tries whether a checkpoint can be written there.
    pub(super) fn open(path: &Path, keep: usize) -> Result<Self> {
        Self::open_on(FileSystem::SYSTEM, path, keep)
    }

    /// As [`Self::open`], on this file system.
    pub(super) fn open_on(disk: FileSystem, path: &Path, keep: usize) -> Result<Self> {
        let wrong = |error: io::Error| failed(path, format!("the folder can't be used: {error}"));
        disk.make_folder(path).map_err(wrong)?;
        let lock = Lock::take(path)?;
        for name in names(path).map_err(wrong)? {
            if name.starts_with(UNFINISHED) {
                remove(&path.join(name));
            }
        }
        disk.probe(path, PROBES).map_err(|reason| {
            let message =
                format!("no checkpoint can be written here, for {reason}; choose another folder");
            failed(path, message)
        })?;
        Ok(Self {
            path: path.into(),
            keep,
            damaged: Vec::new(),
            disk,
            lock,
        })
    }

    /// Lets another file system write, as a disk that is slow.
    #[cfg(test)]
    pub(super) fn on_disk(self, disk: FileSystem) -> Self {
        Self { disk, ..self }
    }

    pub(super) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// The newest checkpoint that is whole; `None` where there are none at all.
    ///
    /// # Errors
    /// If all are damaged, or the newest that is whole is not for this program.
    pub(super) fn newest(&mut self) -> Result<Option<StoredCheckpoint>> {
        let mut rejected: Vec<Rejected> = Vec::new();
        for step in self.steps()? {
            let path = self.path.join(name(step));
            match read(&path, step) {
                Ok((manifest, files)) => {
                    return Ok(Some(StoredCheckpoint {
                        path,
                        manifest,
                        files,
                        rejected,
                    }));
                }
                Err(Flaw::Foreign(message)) => return Err(failed(&path, message)),
                Err(Flaw::Damaged(reason)) => {
                    tracing::warn!(
                        checkpoint = %path.display(), reason,
                        "a checkpoint is damaged; looking at the one before it"
                    );
                    self.damaged.push(step);
                    rejected.push(Rejected { path, reason });
                }
            }
        }
        let Some(newest) = rejected.first() else {
            return Ok(None);
        };
        let message = format!(
            "all {} checkpoints are damaged, the newest because {}; begin anew in another folder",
            rejected.len(),
            newest.reason
        );
        Err(failed(&self.path, message))
    }

    /// The steps of all checkpoints, the newest first.
    pub(super) fn steps(&self) -> Result<Vec<u64>> {
        let wrong = |error| failed(&self.path, format!("the folder can't be read: {error}"));
        let names = names(&self.path).map_err(wrong)?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| step(name)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    /// Writes a checkpoint, whole or not at all, and removes the oldest then. Of the manifest, the files
    /// are filled in here. A folder that was removed meanwhile is made again.
    pub(super) fn write(
        &mut self,
        mut manifest: Manifest,
        files: &[(String, Bytes)],
    ) -> Result<PathBuf> {
        self.make_again_if_gone()?;
        let step = manifest.step;
        let entries = files.iter().map(|(name, bytes)| FileEntry::of(name, bytes));
        manifest.files = entries.collect();
        let path = self.path.join(name(step));
        if path.exists() && !self.damaged.contains(&step) {
            return Err(failed(&path, "there is a checkpoint of this step already"));
        }
        let unfinished = self.path.join(format!("{UNFINISHED}{}", name(step)));
        let written = self.write_unfinished(&unfinished, &manifest, files);
        let written = written.and_then(|()| self.publish(step, &unfinished));
        if let Err(error) = written {
            remove(&unfinished);
            let rest = if self.lock.holds(&self.path) {
                "those before it are as they were"
            } else {
                "the folder was removed meanwhile"
            };
            return Err(failed(
                &path,
                format!("it can't be written: {error}; {rest}"),
            ));
        }
        self.tidy(step);
        Ok(path)
    }

    /// Makes the folder and its lock again, if somebody has removed or replaced them.
    fn make_again_if_gone(&mut self) -> Result<()> {
        if self.lock.holds(&self.path) {
            return Ok(());
        }
        tracing::warn!(
            folder = %self.path.display(),
            "the folder of checkpoints, or its lock, was removed by somebody else; it is made again"
        );
        let made = self.disk.make_folder(&self.path);
        made.map_err(|error| {
            let message = format!("the folder was removed, and can't be made again: {error}");
            failed(&self.path, message)
        })?;
        self.lock = Lock::take(&self.path)?;
        Ok(())
    }

    fn write_unfinished(
        &self,
        folder: &Path,
        manifest: &Manifest,
        files: &[(String, Bytes)],
    ) -> io::Result<()> {
        remove(folder);
        fs::create_dir(folder)?;
        for (name, bytes) in files {
            (self.disk.write)(&folder.join(name), bytes)?;
        }
        for (name, bytes) in &manifest.files()? {
            (self.disk.write)(&folder.join(name), bytes)?;
        }
        (self.disk.sync)(folder)
    }

    /// Gives what is written whole its name. If the name might not outlive a power failure, takes it back: a
    /// checkpoint of a save that failed would count among those kept, and be in the way of another try.
    fn publish(&mut self, step: u64, unfinished: &Path) -> io::Result<()> {
        let path = self.path.join(name(step));
        if path.exists() {
            self.set_aside(step)?;
            self.damaged.retain(|damaged| *damaged != step);
        }
        (self.disk.rename)(unfinished, &path)?;
        let Err(error) = (self.disk.sync)(&self.path) else {
            return Ok(());
        };
        let left = match (self.disk.rename)(&path, unfinished) {
            Ok(()) => String::new(),
            Err(reason) => format!(
                ", and its name can't be taken back: {reason}; it is there, whole, but a power failure may \
                 undo that; remove it before this step is saved again"
            ),
        };
        let message = format!("its name can't be synced: {error}{left}");
        Err(io::Error::other(message))
    }

    /// Now that the checkpoint of `newest` is whole: removes all but the last `keep`, and lets no damaged
    /// one count among them.
    fn tidy(&mut self, newest: u64) {
        for step in std::mem::take(&mut self.damaged) {
            if step != newest
                && let Err(error) = self.set_aside(step)
            {
                tracing::warn!(folder = %self.path.display(), step, %error, "a damaged checkpoint can't be renamed");
            }
        }
        let steps = self.steps().unwrap_or_else(|error| {
            tracing::warn!(%error, "older checkpoints stay");
            Vec::new()
        });
        let old = steps.into_iter().filter(|step| *step <= newest);
        for step in old.skip(self.keep) {
            // Under another name first: half of one must not look like one.
            let going = self.path.join(format!("{UNFINISHED}{}", name(step)));
            match (self.disk.rename)(&self.path.join(name(step)), &going) {
                Ok(()) => remove(&going),
                Err(error) => {
                    tracing::warn!(folder = %self.path.display(), step, %error, "an old checkpoint can't be removed");
                }
            }
        }
    }

    /// Renames a damaged checkpoint, if it is there still.
    fn set_aside(&self, step: u64) -> io::Result<()> {
        let (from, name) = (
            self.path.join(name(step)),
            format!("damaged-{}", name(step)),
        );
        let mut to = self.path.join(&name);
        let mut number = 2;
        while to.exists() {
            to = self.path.join(format!("{name}-{number}"));
            number += 1;
        }
        match (self.disk.rename)(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The directory of a step's checkpoint.
fn name(step: u64) -> String {
    format!("step-{step:012}")
}

/// The step of a checkpoint's directory.
fn step(directory: &str) -> Option<u64> {
    let step = directory.strip_prefix("step-")?.parse().ok()?;
    (name(step) == directory).then_some(step)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        // Ours are ASCII.
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Reads a checkpoint and checks every byte of it.
fn read(path: &Path, step: u64) -> Result<(Manifest, Vec<Vec<u8>>), Flaw> {
    let json = read_file(path, MANIFEST, None, LARGEST_MANIFEST)?;
    let sum = read_file(path, MANIFEST_SUM, None, LARGEST_SUM)?;
    let manifest = Manifest::read(&json, &sum)?;
    if manifest.step != step {
        let found = manifest.step;
        return Err(Flaw::Damaged(format!(
            "its manifest is that of step {found}"
        )));
    }
    let files = manifest.files.iter().map(|entry| {
        let bytes = read_file(path, &entry.name, Some(entry.bytes), u64::MAX)?;
        entry.check(&bytes).map(|()| bytes)
    });
    let files = files.collect::<Result<_, _>>()?;
    Ok((manifest, files))
}

/// Reads a file of a known length, or of any up to `most`.
fn read_file(folder: &Path, name: &str, due: Option<u64>, most: u64) -> Result<Vec<u8>, Flaw> {
    let path = folder.join(name);
    let wrong = |error: io::Error| Flaw::Damaged(format!("{name} can't be read: {error}"));
    // What is no plain file could have no end, or let us wait for its beginning.
    let metadata = fs::symlink_metadata(&path).map_err(wrong)?;
    let found = metadata.len();
    if !metadata.is_file() {
        return Err(Flaw::Damaged(format!("{name} is no plain file")));
    }
    if let Some(due) = due.filter(|due| *due != found) {
        return Err(Flaw::Damaged(format!(
            "{name} has {found} bytes where {due} were written"
        )));
    }
    if found > most {
        return Err(Flaw::Damaged(format!(
            "{name} has {found} bytes, and {most} are the most it may have"
        )));
    }
    let mut bytes = Vec::new();
    let memory = usize::try_from(found).map(|length| bytes.try_reserve_exact(length));
    if !matches!(memory, Ok(Ok(()))) {
        return Err(Flaw::Foreign(format!(
            "there is no memory for the {found} bytes of {name}"
        )));
    }
    let file = File::open(&path).map_err(wrong)?;
    // A file that grows meanwhile is no checkpoint's; its length is compared later.
    file.take(found).read_to_end(&mut bytes).map_err(wrong)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
