//! The files that a run leaves: tried before the training, written whole or not at all after it.

use super::report::Report;
use crate::error::{Error, Result};
use crate::observe::History;
use burn::module::Module;
use clap::Args;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The files that a run leaves in its folder, and their largest sizes (the model: and what Burn adds to it).
const MODEL: &str = "model.bpk";
const METRICS: &str = "metrics.csv";
const PLOT: &str = "training.svg";
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Folder and report of a run's results.
///
/// A program gives the folder another default with clap's `mut_arg`:
/// `#[command(mut_arg("output", |arg| arg.default_value("runs/mine")))]`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Results")]
pub struct OutputArgs {
    /// Folder for the model, metrics.csv and training.svg; made if missing
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub output: PathBuf,

    /// Write a JSON report of the run to this file [default: none]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

impl OutputArgs {
    /// Checks before a run that its results can be written, with a model of up to `model_bytes`.
    ///
    /// # Errors
    /// As [`check_output`].
    pub fn check(&self, model_bytes: usize) -> Result<()> {
        check_output(self.output.join(MODEL), model_bytes)?;
        for name in [METRICS, PLOT] {
            check_output(self.output.join(name), MAX_TEXT_BYTES)?;
        }
        let report = self.report.as_ref();
        report.map_or(Ok(()), |file| check_output(file, MAX_TEXT_BYTES))
    }

    /// Writes the model as a record of Burn, the history as a table and as a plot, and the report.
    ///
    /// # Errors
    /// [`Error::Observe`] if a file can't be written; once all are written, if the replicas differ.
    pub fn save<M: Module, const N: usize>(
        &self,
        model: &M,
        history: &History<N>,
        report: &Report,
    ) -> Result<()> {
        let file = self.output.join(MODEL);
        let record = model.valid().into_record().into_bytes();
        let record = record.map_err(|error| unwritable(&file, &error))?;
        write_output(file, &record)?;
        write_output(self.output.join(METRICS), history.csv().as_bytes())?;
        write_output(self.output.join(PLOT), history.svg().as_bytes())?;
        if let Some(file) = &self.report {
            let json = serde_json::to_vec_pretty(report);
            write_output(file, &json.map_err(|error| unwritable(file, &error))?)?;
        }
        report.check()
    }
}

/// Checks that a file of up to `room` bytes can be written, without writing it. Makes its folder.
///
/// Call it before a long run, whose results would be lost otherwise.
///
/// # Errors
/// [`Error::Observe`] if the folder can't be made, the disk has no room, or a folder has the file's name.
pub fn check_output(file: impl AsRef<Path>, room: usize) -> Result<()> {
    let file = file.as_ref();
    let folder = folder_of(file);
    fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    if file.is_dir() {
        return Err(unwritable(file, &"it is a folder, and a file is due"));
    }
    // A full disk takes a new file still, but no bytes.
    let probe = Temporary::beside(file);
    let written = probe.write(&vec![1; room]);
    written.map_err(|error| unwritable(folder, &error))
}

/// Writes a file whole or not at all: under another name first, which is then renamed.
///
/// # Errors
/// [`Error::Observe`] if the system refuses; then a file that was there before is unchanged.
pub fn write_output(file: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let file = file.as_ref();
    let temporary = Temporary::beside(file);
    temporary
        .write(bytes)
        .and_then(|()| fs::rename(&temporary.0, file))
        .map_err(|error| unwritable(file, &error))
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn unwritable(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::Observe {
        what: "can't write to",
        place: path.display().to_string(),
        message: format!("{reason}; choose another folder"),
    }
}

/// A file of this process beside another, removed when dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(file: &Path) -> Self {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Self(folder_of(file).join(format!(".{name}.{}", std::process::id())))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(&self.0)?;
        file.write_all(bytes)?;
        file.sync_all()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Once it is renamed there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        write_output(&path, b"one").unwrap();
        write_output(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_output(folder.path().join("none/a.txt"), b"x").unwrap_err();
        assert!(error.to_string().contains("can't write to"), "{error}");
    }

    #[test]
    fn a_check_makes_the_folder_and_leaves_nothing_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        check_output(inner.join("model.bpk"), 1000).unwrap();
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 0);
        let error = check_output(folder.path().join("a"), 1).unwrap_err();
        assert!(error.to_string().contains("it is a folder"), "{error}");
        fs::write(inner.join("file"), "").unwrap();
        assert!(check_output(inner.join("file/model.bpk"), 1).is_err());
    }
}
