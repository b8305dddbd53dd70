//! The step at which a resumed run goes on, from the event files of the run before.

use super::events;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

/// Returns the step after the one at which an epoch ended, as the latest file in a folder says that has it: in the
/// last series of `marks` that is there, whose values are numbers of epochs. Where that epoch is missing, because its
/// run was killed before the disk had it, an earlier one tells how many steps an epoch has.
pub(super) fn step_after(folder: &Path, epoch: u64, marks: [&str; 2]) -> io::Result<Option<u64>> {
    let mut found: [Option<Mark>; 2] = [None; 2];
    for path in event_files(folder)? {
        let mut file = BufReader::new(File::open(path)?);
        // A run that was killed leaves a record cut off: what comes before it counts.
        while let Ok(Some(event)) = events::read_record(&mut file) {
            let Some(scalar) = events::scalar(&event) else {
                continue;
            };
            for (mark, found) in marks.iter().zip(&mut found) {
                let ended = scalar.value as u64;
                if scalar.name == mark.as_bytes()
                    && (1..=epoch).contains(&ended)
                    && found.is_none_or(|found| found.epoch <= ended)
                {
                    *found = Some(Mark {
                        epoch: ended,
                        next: scalar.step.saturating_add(1),
                    });
                }
            }
        }
    }
    let [fallback, own] = found;
    let step = |mark: Mark| {
        let step = u128::from(mark.next) * u128::from(epoch) / u128::from(mark.epoch);
        u64::try_from(step).unwrap_or(u64::MAX)
    };
    Ok(own.or(fallback).map(step))
}

/// The end of an epoch, and the step after it.
#[derive(Clone, Copy)]
struct Mark {
    epoch: u64,
    next: u64,
}

/// Returns the event files of a folder in the order that TensorBoard reads them.
fn event_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        // Only files: opening a pipe would wait for whoever writes to it.
        if name.to_string_lossy().contains("tfevents") && entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
