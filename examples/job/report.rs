//! The report of a training, and how files are written whole.
//!
//! Callers: `mnist`, `learner`.

use serde::Serialize;
use std::error::Error;
use std::io::Write as _;
use std::path::Path;

type Failure = Box<dyn Error + Send + Sync>;

/// What `--report` writes.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) backend: &'a str,
    pub(crate) world_size: usize,
    pub(crate) epochs: usize,
    pub(crate) global_batch_size: usize,
    pub(crate) learning_rate: f64,
    pub(crate) seed: u64,
    pub(crate) train_loss: f64,
    pub(crate) train_accuracy: f64,
    pub(crate) test_accuracy: f64,
    pub(crate) train_seconds: f64,
    pub(crate) samples_per_second: f64,
    pub(crate) sync_wait_fraction: f64,
    pub(crate) parameters_sha256: &'a str,
    pub(crate) replicas_identical: bool,
    pub(crate) interrupted: bool,
}

impl Report<'_> {
    /// Writes it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        write(path, &json)
    }
}

/// Writes a file whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let result = temporary(folder.unwrap_or(Path::new("."))).and_then(|mut file| {
        file.write_all(bytes)?;
        file.persist(path).map(drop).map_err(|error| error.error)
    });
    result.map_err(|error| format!("can't write {}: {error}", path.display()).into())
}

/// A temporary file that others may read, as the user's umask has it: results are no secrets.
fn temporary(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(&folder.path().join("none/a.txt"), b"x").is_err());
    }
}
