//! Records as files for people: one JSON object a rank, and the comparison as text.
//!
//! A file is written under another name and renamed, so that what bears its name is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::compare::Comparison;
use super::snapshot::{Operation, RankRecord, Snapshot, State};

/// One operation as it is written. Times are microseconds since the process began the job.
#[derive(Serialize)]
struct Line<'s> {
    group: &'s str,
    sequence: u64,
    operation: &'s str,
    dtype: &'s str,
    shape: &'s [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    reduction: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<&'s str>,
    state: &'static str,
    entered_us: u64,
    exchanged_us: Option<u64>,
    ended_us: Option<u64>,
}

impl<'s> Line<'s> {
    fn new(operation: &'s Operation) -> Self {
        let (call, detail) = (&operation.call, &operation.call.detail);
        Self {
            group: &operation.group,
            sequence: call.sequence,
            operation: &call.operation,
            dtype: &call.dtype,
            shape: &call.shape,
            reduction: detail.reduction.as_deref(),
            root: detail.root,
            to: detail.to,
            from: detail.from,
            tag: detail.tag,
            within: detail.within.as_deref(),
            state: match operation.state {
                State::Waiting => "waiting",
                State::Exchanged => "waiting for the network",
                State::Done => "done",
                State::Failed => "failed",
            },
            entered_us: operation.entered,
            exchanged_us: operation.exchanged,
            ended_us: operation.ended,
        }
    }
}

/// A rank's record as JSON, with the oldest operation first and one operation a line.
fn page(snapshot: &Snapshot, record: &RankRecord) -> Result<String, serde_json::Error> {
    let named = |name: &str| record.operations.iter().any(|line| line.group == name);
    let groups = snapshot.groups.iter().filter(|(name, _)| named(name));
    let groups: BTreeMap<_, _> = groups.collect();
    let lines = record.operations.iter().map(Line::new);
    let lines = lines.map(|line| serde_json::to_string(&line));
    Ok(format!(
        "{{\n\"rank\": {},\n\"taken_us\": {},\n\"groups\": {},\n\"operations\": [\n{}\n]\n}}\n",
        record.rank,
        record.taken,
        serde_json::to_string(&groups)?,
        lines.collect::<Result<Vec<_>, _>>()?.join(",\n"),
    ))
}

/// Writes a rank's record to `burn-dist-rank-<rank>.json` in the folder, which is made if missing.
///
/// # Errors
/// What the system says.
pub(crate) fn write_rank(
    folder: &Path,
    snapshot: &Snapshot,
    record: &RankRecord,
) -> io::Result<PathBuf> {
    let bytes = page(snapshot, record)?.into_bytes();
    replace(
        folder,
        &format!("burn-dist-rank-{}.json", record.rank),
        &bytes,
    )
}

/// Writes the comparison that a process made to `burn-dist-comparison-<process>.txt` in the folder, which
/// is made if missing. (A process that was cut off makes one of its own, of its own ranks.)
///
/// # Errors
/// What the system says.
pub(crate) fn write_comparison(
    folder: &Path,
    process: usize,
    comparison: &Comparison,
) -> io::Result<PathBuf> {
    let (name, text) = (
        format!("burn-dist-comparison-{process}.txt"),
        format!("{comparison}\n"),
    );
    replace(folder, &name, text.as_bytes())
}

/// Writes a file whole or not at all, in the place of one that may be there.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(name);
    let half = folder.join(format!(".{name}.{}", std::process::id()));
    // What bears this name is left from a process that ended while it wrote.
    match fs::remove_file(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = File::create_new(&half)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&half, &path));
    if written.is_err() {
        // The cause is told, and a file that can't be removed changes nothing about it.
        let _ = fs::remove_file(&half);
    }
    written.map(|()| path)
}
