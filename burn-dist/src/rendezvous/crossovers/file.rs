//! The file in which `burn-dist bench tune` keeps what it has measured.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Crossovers;

/// Most bytes of the file.
const MAX_FILE: u64 = 16 << 10;

/// File of measured crossovers, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tuned {
    /// Version that measured.
    pub burn_dist: String,
    /// Name of the machine of process 0.
    pub machine: String,
    /// Number of the job's processes.
    pub processes: usize,
    /// Number of the job's ranks.
    pub ranks: usize,
    /// Sizes that were found.
    pub crossovers: Crossovers,
}

impl Tuned {
    /// Crossovers of a job of so many processes and ranks, whose process 0 is on the machine of this name.
    pub fn new(
        machine: impl Into<String>,
        processes: usize,
        ranks: usize,
        crossovers: Crossovers,
    ) -> Self {
        Self {
            burn_dist: env!("CARGO_PKG_VERSION").into(),
            machine: machine.into(),
            processes,
            ranks,
            crossovers,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it can't be read, or is none that [`write`](Self::write) wrote.
    pub fn read(file: &Path) -> io::Result<Self> {
        let mut text = String::new();
        let bytes = File::open(file)?
            .take(MAX_FILE + 1)
            .read_to_string(&mut text)?;
        let wrong = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        if bytes as u64 > MAX_FILE {
            return Err(wrong(format!("it has more than {MAX_FILE} bytes")));
        }
        let tuned: Self = serde_json::from_str(&text)?;
        let rows = &tuned.crossovers.all_reduce;
        if !rows.is_sorted_by(|one, next| one.processes < next.processes) {
            return Err(wrong("its numbers of processes do not ascend".to_owned()));
        }
        if rows.is_empty() || tuned.crossovers.few == 0 {
            return Err(wrong(
                "it has no sizes for an all-reduce, or none for few processes".to_owned(),
            ));
        }
        Ok(tuned)
    }

    /// Writes a file, in place of an older one.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(file, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuned() -> Tuned {
        let crossovers = Crossovers::default().with_all_reduce(4, 1 << 10, 1 << 16);
        Tuned::new("node0", 4, 8, crossovers)
    }

    #[test]
    fn a_file_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("crossovers.json");
        tuned().write(&file).unwrap();
        assert_eq!(Tuned::read(&file).unwrap(), tuned());
    }

    #[test]
    fn another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("crossovers.json");
        assert_eq!(
            Tuned::read(&file).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let whole = serde_json::to_string(&tuned()).unwrap();
        let descending = whole.replace("\"processes\":2", "\"processes\":3");
        assert_ne!(descending, whole);
        for text in [
            String::new(),
            "[]".into(),
            whole.replace("\"crossovers\"", "\"others\""),
            whole.replace("doubling", "tripling"),
            descending,
            whole.clone() + &" ".repeat(MAX_FILE as usize),
        ] {
            fs::write(&file, &text).unwrap();
            Tuned::read(&file).expect_err(&text);
        }
        fs::write(&file, whole).unwrap();
        Tuned::read(&file).unwrap();
    }
}
