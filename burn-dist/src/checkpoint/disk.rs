//! The file system under the folder of checkpoints: how it is asked, what it must be able to do, and the lock.
//!
//! Invariant: nothing here follows a symbolic link that lies in the folder, or empties a file that is there.

use super::failed;
use crate::error::Result;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

/// The calls that make a checkpoint outlive a power failure. Tests have a disk that is full, slow, or fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileSystem {
    /// Writes one new file, and syncs it.
    pub(super) write: fn(&Path, &[u8]) -> io::Result<()>,
    /// Syncs the names in a directory.
    pub(super) sync: fn(&Path) -> io::Result<()>,
    /// Renames a directory.
    pub(super) rename: fn(&Path, &Path) -> io::Result<()>,
}

impl FileSystem {
    /// The system's own.
    pub(super) const SYSTEM: Self = Self {
        write: write_file,
        sync: sync_folder,
        rename: |from, to| fs::rename(from, to),
    };

    /// Makes a folder, and those above it that are missing, so that their names outlive a power failure.
    pub(super) fn make_folder(&self, path: &Path) -> io::Result<()> {
        let above = path.ancestors().zip(path.ancestors().skip(1));
        let missing: Vec<_> = above.take_while(|(folder, _)| !folder.exists()).collect();
        fs::create_dir_all(path)?;
        for (_, parent) in missing {
            // A relative path begins in the working directory.
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            (self.sync)(parent).map_err(|error| {
                let parent = parent.display();
                io::Error::other(format!("{parent}, above it, can't be synced: {error}"))
            })?;
        }
        Ok(())
    }

    /// Does once what every checkpoint needs, in two directories of these names: some mounts can't rename a
    /// directory that has files, or sync one. The error says what can't be done.
    pub(super) fn probe(&self, folder: &Path, names: [&str; 2]) -> Result<(), String> {
        let [from, to] = names.map(|name| folder.join(name));
        let cant = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let probed = fs::create_dir(&from)
            .map_err(cant("no directory can be made"))
            .and_then(|()| {
                (self.write)(&from.join("file"), b"to see whether this can be written\n")
                    .map_err(cant("no file can be written and synced"))
            })
            .and_then(|()| (self.sync)(&from).map_err(cant("a directory can't be synced")))
            .and_then(|()| (self.rename)(&from, &to).map_err(cant("a directory can't be renamed")))
            .and_then(|()| (self.sync)(folder).map_err(cant("the folder can't be synced")));
        remove(&from);
        remove(&to);
        probed
    }
}

/// The lock of a folder, which keeps other jobs out of it. The system lets go of it with the process.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

/// The name of the lock's file.
const LOCK: &str = "lock";

impl Lock {
    /// Takes the lock of a folder.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        let unusable = |error: io::Error| {
            let message = if path.is_symlink() {
                "the lock is a symbolic link, which is not followed; remove it".to_owned()
            } else {
                format!("the lock can't be opened: {error}")
            };
            failed(&path, message)
        };
        let file = open_lock(&path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = "another job uses this folder; wait for its end, or choose another";
                return Err(failed(folder, message));
            }
            Err(TryLockError::Error(error)) => {
                tracing::debug!(folder = %folder.display(), %error, "no locks here: nobody keeps a second job out");
            }
        }
        Ok(Self { file })
    }

    /// True unless the folder, or the lock in it, was removed or replaced since it was taken.
    pub(super) fn holds(&self, folder: &Path) -> bool {
        let there = fs::symlink_metadata(folder.join(LOCK));
        let Ok(there) = there else {
            return false;
        };
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let ours = self.file.metadata();
            ours.is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        }
        #[cfg(not(unix))]
        {
            // A file that is open can't be replaced.
            let _ = &self.file;
            there.is_file()
        }
    }
}

impl Drop for Lock {
    /// Lets go of the lock itself, which a process that was just started may otherwise hold a moment longer.
    fn drop(&mut self) {
        // A lock that can't be let go of ends with the file.
        let _ = self.file.unlock();
    }
}

/// Opens a plain file as it is, or makes it.
fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        // Without waiting for the other end of a FIFO.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no plain file"))
    }
}

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a folder outlive a power failure. Elsewhere than on Unix a folder can't be synced.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

/// Removes what is of no use any more; what stays is removed when the folder is opened next.
pub(super) fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "can't be removed");
    }
}
