//! `cargo xtask train-mnist`: chooses the features that the backend needs and starts `mnist` of the examples,
//! which takes the same flags, from the same file, and does the work; with `--nodes`, several processes of it.

#[path = "../../examples/mnist/options.rs"]
mod options;

use crate::error::Error;
use crate::program::Program;
use clap::{Args, value_parser};
pub(crate) use options::Options;
use std::ffi::OsString;
use std::process::ExitCode;

/// The flags of `mnist`, and in how many processes to run it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,

    /// Processes to train in, each with --gpus replicas, as if each had a machine of its own
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1024))]
    nodes: u32,
}

/// Builds the program and lets it take over, or launches several processes of it.
///
/// # Errors
///
/// When cargo or the program cannot be started.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Error> {
    program(&arguments.options).run(arguments.nodes, None)
}

fn program(options: &Options) -> Program<'_> {
    Program {
        name: "mnist",
        job: &options.job,
        features: if options.download { &["download"] } else { &[] },
        flags: flags(options),
    }
}

/// The flags for the program beside those of all programs, which come to the same options there.
fn flags(options: &Options) -> Vec<OsString> {
    let mut flags = Vec::new();
    let mut pair = |flag: &str, value: OsString| flags.extend([flag.into(), value]);
    pair("--epochs", options.epochs.to_string().into());
    pair("--batch-size", options.batch_size.to_string().into());
    pair("--lr", options.lr.to_string().into());
    pair("--seed", options.seed.to_string().into());
    pair("--output", (&options.output).into());
    if let Some(folder) = &options.data_dir {
        pair("--data-dir", folder.into());
    }
    if let Some(file) = &options.report {
        pair("--report", file.into());
    }
    if let Some(folder) = &options.records {
        pair("--records", folder.into());
    }
    if let Some(folder) = &options.checkpoint {
        pair("--checkpoint", folder.into());
        pair(
            "--checkpoint-every",
            options.checkpoint_every.to_string().into(),
        );
        pair("--keep", options.keep.to_string().into());
        if options.resume {
            flags.push("--resume".into());
        }
    }
    flags.extend(options.observe.flags());
    if options.download {
        flags.push("--download".into());
    }
    flags
}

#[cfg(test)]
mod tests;
