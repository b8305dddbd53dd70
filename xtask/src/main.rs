//! The project's own commands: `cargo xtask --help`.
//!
//! This crate depends on no Burn crate, so that it compiles in seconds and can start the programs that
//! do with the features that a machine needs.
//!
//! Imports point one way: `main` > `train_mnist`, `doctor`, `bench`, `test_gpu`, `ci` > `program` > `launch`, `machine`,
//! `interface`, `cargo` > `error`.

mod bench;
mod cargo;
mod ci;
mod doctor;
mod error;
mod interface;
#[path = "../../examples/job/options.rs"]
mod job_options;
mod launch;
mod machine;
#[path = "../../examples/job/observe_options.rs"]
mod observe_options;
mod program;
mod test_gpu;
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
    TrainMnist(Box<train_mnist::Arguments>),
    /// Measure what a job will meet before it starts, and say what is wrong
    Doctor(Box<doctor::Arguments>),
    /// Start several processes of a program on this machine, as a job over several machines would
    Launch(launch::Options),
    /// Time burn-dist, also against its peers
    Bench(Box<bench::Arguments>),
    /// Check a change as .ci/run does: tests, formatting, lints, documentation
    Ci,
    /// Run the tests that need a GPU, or a software renderer such as Mesa's lavapipe
    TestGpu,
    /// A part of `launch`
    #[command(hide = true)]
    LaunchGuard,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::TrainMnist(arguments) => train_mnist::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Launch(options) => launch::run(&options),
        Command::Ci => ci::run(),
        Command::TestGpu => test_gpu::run(),
        Command::LaunchGuard => launch::guard().map(|never| match never {}),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit_code()
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
            [
                "train-mnist",
                "doctor",
                "launch ",
                "bench",
                "test-gpu",
                "ci"
            ]
            .iter()
            .all(|name| help.contains(name)),
            "{help}"
        );
        assert!(!help.contains("guard"), "a part of another: {help}");
    }

    #[test]
    fn wrong_arguments_are_usage_errors() {
        for wrong in [
            &["xtask", "train-mnist", "--gpu", "4"][..],
            &["xtask", "train-mnist", "--backend", "tpu"],
            &["xtask", "train-mnist", "--nodes", "0"],
            &["xtask", "doctor", "--nodes", "0"],
            &["xtask", "doctor", "--master-port", "0"],
            &["xtask", "doctor", "--bucket-cap-mb", "0"],
            &["xtask", "doctor", "--timeout", "0"],
            &["xtask", "doctor", "--epochs", "1"],
            &["xtask", "doctor", "stray"],
            &["xtask", "train-nothing"],
            &["xtask", "launch", "--nodes", "0", "--", "true"],
            &["xtask", "launch", "--nodes", "-1", "--", "true"],
            &[
                "xtask",
                "launch",
                "--nodes",
                "2",
                "--gpus-per-node",
                "0",
                "--",
                "true",
            ],
            &[
                "xtask",
                "launch",
                "--nodes",
                "2",
                "--master-port",
                "0",
                "--",
                "true",
            ],
            &[
                "xtask",
                "launch",
                "--nodes",
                "2",
                "--master-port",
                "65536",
                "--",
                "true",
            ],
            &["xtask", "launch", "--nodes", "2", "true"],
            &["xtask", "launch", "--nodes", "2", "--"],
            &["xtask", "launch", "--", "true"],
            &["xtask"],
        ] {
            let error = Cli::try_parse_from(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
        let version = Cli::try_parse_from(["xtask", "--version"]).unwrap_err();
        assert_eq!(version.kind(), ErrorKind::DisplayVersion);
    }
}
