//! Reads files with secrets: bounded, and with a check of their permissions.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

/// Reads at most `most` bytes of a file, and one more if there are more.
pub(crate) fn read(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    read_at_most(&open(path)?, most)
}

/// Reads a file with a secret. Logs a warning if every user of the machine can read it.
///
/// # Errors
/// Other users can write it, or it can't be read.
pub(super) fn read_private(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = open(path)?;
    match exposure(&file).map_err(|error| error.to_string())? {
        Exposure::Private => {}
        Exposure::Readable => tracing::warn!(
            file = %path.display(),
            "every user of this machine can read this file, which is a secret; run `chmod 600` on it"
        ),
        Exposure::Writable => {
            return Err(
                "other users of this machine can change it; run `chmod 600` on it".to_owned(),
            );
        }
    }
    read_at_most(&file, most)
}

/// Opens a regular file: reading a pipe or a device could block or never end.
fn open(path: &Path) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Without it, opening a pipe without a writer would block.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path).map_err(|error| error.to_string())?;
    let kind = file.metadata().map_err(|error| error.to_string())?;
    if !kind.is_file() {
        return Err("it is no regular file but a folder, pipe or device".to_owned());
    }
    Ok(file)
}

fn read_at_most(file: &File, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    // Allocated at once: growing would leave copies of the secret in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    file.take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Access of other users to a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exposure {
    Private,
    Readable,
    Writable,
}

#[cfg(unix)]
pub(super) fn exposure(file: &File) -> std::io::Result<Exposure> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata()?.permissions().mode();
    Ok(if mode & 0o022 != 0 {
        Exposure::Writable
    } else if mode & 0o004 != 0 {
        // Allowed: the default of secrets that Kubernetes mounts.
        Exposure::Readable
    } else {
        Exposure::Private
    })
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the system is asked on Unix")]
pub(super) fn exposure(_: &File) -> std::io::Result<Exposure> {
    Ok(Exposure::Private)
}
