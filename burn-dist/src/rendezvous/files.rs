//! Files that prove something: read within a bound, and with a look at who else can reach them.
//!
//! Callers: `secret`, `tls`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

/// Reads a file, and one byte more than `most` if it has more.
#[cfg(feature = "tls")]
pub(super) fn read(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    read_at_most(&file, most)
}

/// The same for a file that nobody else should know. One that every user of the machine can read works,
/// but is warned of; one that every user can write is refused.
pub(super) fn read_private(path: &Path, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    match exposure(&file).map_err(|error| error.to_string())? {
        Exposure::Private => {}
        Exposure::Readable => tracing::warn!(
            file = %path.display(),
            "every user of this machine can read this file, which is a secret; run `chmod 600` on it"
        ),
        Exposure::Writable => {
            return Err(
                "every user of this machine can change it; run `chmod 600` on it".to_owned(),
            );
        }
    }
    read_at_most(&file, most)
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
    Ok(if mode & 0o002 != 0 {
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
