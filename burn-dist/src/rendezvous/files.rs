//! Files that prove something: read within a bound, and with a look at who else can reach them.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

/// Reads a file, and one byte more than `most` if it has more.
pub(super) fn read(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    read_at_most(&open(path)?, most)
}

/// Reads a file that nobody else should know. One that every user of the machine can read works, but is
/// warned of; one that others can write is refused.
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

/// Opens a regular file: a pipe or a device would be waited for, or has no end.
fn open(path: &Path) -> Result<File, String> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Without it, opening a pipe that nobody writes to would not return.
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
    // With room for all of it, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    file.take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Who but its owner can reach a file.
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
        // Not refused: Kubernetes mounts secrets so unless it is told otherwise.
        Exposure::Readable
    } else {
        Exposure::Private
    })
}

#[cfg(not(unix))]
#[expect(
    clippy::unnecessary_wraps,
    reason = "the other platforms ask the system"
)]
pub(super) fn exposure(_: &File) -> std::io::Result<Exposure> {
    Ok(Exposure::Private)
}
