//! From flags to what listens: the program's log, the trace, and the outputs of its figures.
//!
//! Callers: `mnist`, `learner`.

use super::observe_options::ObserveOptions;
use burn_dist::JobConfig;
use burn_dist::observe::{ChromeTrace, Outputs};
use std::error::Error;
use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt, registry};

/// What listens to the program.
pub(crate) struct Observation {
    trace: Option<ChromeTrace>,
    /// Where rank 0's figures go.
    pub(crate) outputs: Outputs,
}

impl Observation {
    /// Begins to log to standard error, and to trace if that is asked for.
    pub(crate) fn begin(options: &ObserveOptions) -> Self {
        let trace = options.trace.as_ref().map(|_| ChromeTrace::new());
        // Warnings are for everybody: whom a job waits for, whom it turned away.
        let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
        // Colours are for a person at a terminal who wants them, and not for a file.
        let colours = std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        let log = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(colours)
            .with_filter(filter.from_env_lossy());
        registry()
            .with(log)
            .with(trace.as_ref().map(ChromeTrace::layer))
            .init();
        Self {
            trace,
            outputs: Outputs::new(),
        }
    }

    /// Opens the files and the port, as this process of the job.
    pub(crate) fn open(
        &mut self,
        options: &ObserveOptions,
        job: Option<&JobConfig>,
    ) -> Result<(), burn_dist::Error> {
        let process = job.map_or(0, JobConfig::process);
        if let (Some(trace), Some(file)) = (&mut self.trace, &options.trace) {
            trace.start(file, process)?;
        }
        if process > 0 {
            return Ok(());
        }
        let mut outputs = Outputs::new();
        if let Some(folder) = &options.log_dir {
            outputs = outputs.with_log_dir(folder)?;
        }
        if let Some(address) = &options.metrics {
            outputs = outputs.with_metrics(address)?;
        }
        self.outputs = outputs;
        Ok(())
    }

    /// Completes the trace.
    pub(crate) fn finish(self) -> Result<(), Box<dyn Error + Send + Sync>> {
        if let Some(trace) = self.trace {
            trace.finish()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::Layer;

    #[test]
    fn without_a_trace_nobody_listens_to_spans() {
        let options = ObserveOptions {
            trace: None,
            log_dir: None,
            metrics: None,
        };
        let _observation = Observation::begin(&options);
        let wanted = EnvFilter::builder()
            .with_default_directive(LevelFilter::WARN.into())
            .from_env_lossy();
        // What the log alone wants, so that the library's spans are turned down by one comparison.
        assert_eq!(
            Some(LevelFilter::current()),
            Layer::<tracing_subscriber::Registry>::max_level_hint(&wanted)
        );
    }
}
