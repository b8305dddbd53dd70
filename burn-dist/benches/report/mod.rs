//! What a bench prints: one JSON object a line for each measurement.

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
    /// Writes the line at once, for whoever reads it may wait for it.
    pub(crate) fn print(&self) -> io::Result<()> {
        let line = serde_json::to_string(self)?;
        let mut output = io::stdout().lock();
        writeln!(output, "{line}")?;
        output.flush()
    }
}

/// The median of some times; of two in the middle the longer.
pub(crate) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
