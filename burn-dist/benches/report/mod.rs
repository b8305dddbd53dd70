//! What a bench prints: one JSON object a line for each measurement.
//!
//! Callers: every bench; `cargo xtask bench` reads the lines.

use std::io::{self, Write};

use serde::Serialize;

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Measurement<'m> {
    /// What was measured.
    pub(crate) bench: &'m str,
    /// How the ranks lay.
    pub(crate) layout: &'m str,
    /// How many there were.
    pub(crate) ranks: usize,
    /// How much was moved or made each time.
    pub(crate) bytes: usize,
    /// How long it took, the median.
    pub(crate) seconds: f64,
    /// What the same program measured beside it, if anything.
    pub(crate) peer: Option<&'m str>,
    /// How long that took, the median.
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
