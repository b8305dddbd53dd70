//! What rank 0 found, told to all ranks: they go on, or fail, together.

use super::failed;
use super::manifest::Manifest;
use crate::codec;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;
use std::time::Duration;

/// Bytes of a file that go to the other ranks at once.
const PIECE: usize = 32 << 20;

/// Gives every rank what rank 0, which passes `Some`, has found. The others wait for its disk as long as
/// `disk_timeout`, and for rank 0 itself as long as for any call.
///
/// # Errors
/// The outer one is the group's, and the end of it. The inner one is rank 0's, on every rank.
pub(super) fn outcome<T: Serialize + DeserializeOwned>(
    group: &ProcessGroup,
    disk_timeout: Duration,
    found: Option<Result<T>>,
) -> Result<Result<T>> {
    type Told<T> = Result<T, (String, String)>;
    let told: Option<Told<T>> = found.map(|found| found.map_err(in_words));
    let bytes = told.map(|told| codec::encode(&told)).transpose();
    let bytes = bytes.map_err(|message| unreadable(group, message))?;
    let patient = group.with_timeout(group.timeout().saturating_add(disk_timeout));
    let bytes = patient.broadcast_bytes(bytes.as_deref(), 0)?;
    let told: Told<T> = codec::decode(&bytes).map_err(|message| unreadable(group, message))?;
    Ok(told.map_err(|(path, message)| failed(Path::new(&path), message)))
}

/// Gives every rank the files that the manifest names; rank 0 has them.
pub(super) fn files(
    group: &ProcessGroup,
    path: &Path,
    manifest: &Manifest,
    own: Option<Vec<Vec<u8>>>,
) -> Result<Vec<Vec<u8>>> {
    let mut files = match own {
        Some(files) => files,
        None => empty(manifest).map_err(|message| {
            let error = failed(path, message);
            // The others wait for this rank otherwise.
            group.abort(&error.to_string());
            error
        })?,
    };
    for piece in files.iter_mut().flat_map(|file| file.chunks_mut(PIECE)) {
        group.broadcast(piece, 0)?;
    }
    Ok(files)
}

/// Memory for files of these lengths.
fn empty(manifest: &Manifest) -> Result<Vec<Vec<u8>>, String> {
    let empty = manifest.files.iter().map(|entry| {
        let too_much = || {
            format!(
                "there is no memory for the {} bytes of {}",
                entry.bytes, entry.name
            )
        };
        let length = usize::try_from(entry.bytes).map_err(|_| too_much())?;
        let mut file = Vec::new();
        file.try_reserve_exact(length).map_err(|_| too_much())?;
        file.resize(length, 0);
        Ok(file)
    });
    empty.collect()
}

fn in_words(error: Error) -> (String, String) {
    match error {
        Error::Checkpoint { path, message } => (path.to_string_lossy().into_owned(), message),
        other => (String::new(), other.to_string()),
    }
}

fn unreadable(group: &ProcessGroup, message: String) -> Error {
    Error::Control {
        rank: group.global_rank(),
        peer: group.ranks()[0],
        message,
    }
}
