//! What a bench prints: one JSON object a line for each measurement.
#![allow(dead_code, reason = "each bench uses a part of this")]

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Measurement<'m> {
    /// Name of the bench.
    pub(crate) bench: &'m str,
    /// Layout of the ranks.
    pub(crate) layout: &'m str,
    /// Number of ranks.
    pub(crate) ranks: usize,
    /// Bytes moved or made each time.
    pub(crate) bytes: usize,
    /// Median time.
    pub(crate) seconds: f64,
    /// Peer that the same program measured beside it, if any.
    pub(crate) peer: Option<&'m str>,
    /// Median time of the peer.
    pub(crate) peer_seconds: Option<f64>,
}

impl Measurement<'_> {
    /// Writes the line.
    pub(crate) fn print(&self) -> io::Result<()> {
        write(self)
    }

    /// Writes the line with what was counted, by name.
    pub(crate) fn print_with(&self, counts: &BTreeMap<&str, f64>) -> io::Result<()> {
        #[derive(Serialize)]
        struct Counted<'c> {
            #[serde(flatten)]
            measurement: &'c Measurement<'c>,
            counts: &'c BTreeMap<&'c str, f64>,
        }
        write(&Counted {
            measurement: self,
            counts,
        })
    }
}

/// Writes a line at once, for whoever reads it may wait for it.
fn write(line: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(line)?;
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

/// The median of some times; of two in the middle the longer.
pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
