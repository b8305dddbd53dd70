//! What a person sees while it trains: one bar for the whole job on a terminal, plain lines elsewhere.

use crate::training::Epoch;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Display;
use std::io::{IsTerminal, Write};

/// Prints a line, and lets training go on if nobody reads it any more.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// The display of the whole job. Only one rank shows it; on the others it does nothing.
pub(crate) struct Progress {
    shown: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins after the steps that are done already.
    pub(crate) fn new(shown: bool, steps: u64, done: u64) -> Self {
        let bar = (shown && std::io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {per_sec}, {eta} left");
            // The template is a constant of this file, and the default is a bar as well.
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(steps).with_style(style);
            bar.with_position(done)
        });
        Self { shown, bar }
    }

    pub(crate) fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    pub(crate) fn epoch(&self, epoch: usize, epochs: usize, figures: &Epoch) {
        if !self.shown {
            return;
        }
        let line = format!(
            "epoch {:>2}/{epochs}  loss {:.4}  accuracy {:6.2} %  {:>7.0} samples/s  sync wait {:4.1} %",
            epoch + 1,
            figures.loss,
            figures.accuracy * 100.0,
            figures.samples / figures.seconds,
            figures.sync_wait_fraction * 100.0,
        );
        match &self.bar {
            Some(bar) => bar.suspend(|| say(&line)),
            None => say(&line),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
