//! The project's own commands: `cargo xtask --help`.
//!
//! This crate depends on no Burn crate, so that it compiles in seconds and can start the programs that
//! do with the features that a machine needs.
//!
//! Imports point one way: `main` > `train_mnist`, `ci` > `machine`, `cargo`.

mod cargo;
mod ci;
mod machine;
mod train_mnist;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The commands of the burn-dist workspace.
#[derive(Parser, Debug)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Train a CNN on handwritten digits, data-parallel over the devices of this machine
    TrainMnist(train_mnist::Options),
    /// Check a change as .ci/run does: tests, formatting, lints, documentation
    Ci,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::TrainMnist(options) => train_mnist::run(&options),
        Command::Ci => ci::run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, error::ErrorKind};

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_every_subcommand() {
        let help = Cli::command().render_help().to_string();
        assert!(
            help.contains("train-mnist") && help.contains("ci"),
            "{help}"
        );
    }

    #[test]
    fn wrong_arguments_are_usage_errors() {
        for wrong in [
            &["xtask", "train-mnist", "--gpu", "4"][..],
            &["xtask", "train-mnist", "--backend", "tpu"],
            &["xtask", "train-nothing"],
            &["xtask"],
        ] {
            let error = Cli::try_parse_from(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
        let version = Cli::try_parse_from(["xtask", "--version"]).unwrap_err();
        assert_eq!(version.kind(), ErrorKind::DisplayVersion);
    }
}
