//! The program's subscriber: a log on standard error, and the trace.

use crate::error::{Error, Result};
use crate::observe::ChromeTrace;
use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt, registry};

/// Starts the log, and has the trace listen. A program that has a subscriber keeps it, unless there is a trace.
pub(super) fn start(trace: Option<&ChromeTrace>) -> Result<()> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    // Escape codes are for a terminal, and not for a file.
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let log = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_filter(filter.from_env_lossy());
    let subscriber = registry().with(log).with(trace.map(ChromeTrace::layer));
    match subscriber.try_init() {
        Err(error) if trace.is_some() => Err(Error::Observe {
            what: "the trace can't be written to",
            place: "the file of --trace".into(),
            message: format!(
                "{error}; call `JobArgs::init` before the program sets its own subscriber, or add \
                 `ChromeTrace::layer` to that and leave --trace out"
            ),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::Layer;

    #[test]
    fn without_a_trace_nobody_listens_to_spans() {
        start(None).unwrap();
        let wanted = EnvFilter::builder()
            .with_default_directive(LevelFilter::WARN.into())
            .from_env_lossy();
        // The level of the log alone: one comparison turns the library's spans down.
        assert_eq!(
            Some(LevelFilter::current()),
            Layer::<tracing_subscriber::Registry>::max_level_hint(&wanted)
        );
    }
}
