//! The project's own commands: `cargo xtask --help`.
//!
//! This crate depends on no Burn crate, so that it compiles in seconds and can start the programs that
//! do with the features that a machine needs.
//!
//! Imports point one way: `main` > `bench`, `test_gpu`, `ci`, `program` > `machine`, `cargo` > `error`.

mod bench;
mod cargo;
mod ci;
mod error;
mod machine;
mod program;
mod test_gpu;

use clap::{Parser, Subcommand};
use program::{Passed, Program};
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
    #[command(after_help = TRAIN)]
    TrainMnist(Passed),
    /// Measure what a job will meet before it starts, and say what is wrong
    #[command(after_help = DOCTOR)]
    Doctor(Passed),
    /// Start a program as the processes of a job: `burn-dist run`
    #[command(after_help = LAUNCH)]
    Launch(Passed),
    /// Time burn-dist, also against its peers
    Bench(Box<bench::Arguments>),
    /// Check a change as .ci/run does: tests, formatting, lints, documentation
    Ci,
    /// Run the tests that need a GPU, or a software renderer such as Mesa's lavapipe
    TestGpu,
    /// A part of `bench`
    #[command(name = burn_dist_launcher::GUARD, hide = true)]
    Guard,
}

const TRAIN: &str = "\
The program is `mnist` of the examples. `cargo xtask train-mnist -- --help` lists its flags. --gpus N is the
number of replicas in each process.";
const DOCTOR: &str = "\
The program is `burn-dist doctor`. `cargo xtask doctor -- --help` lists its flags.";
const LAUNCH: &str = "\
The program is `burn-dist run`. `cargo xtask launch -- --help` lists its flags.
`cargo install --locked --path burn-dist/cli` installs it.";

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::TrainMnist(passed) => Program::mnist(&passed).and_then(|program| program.run()),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Doctor(passed) => {
            Program::cli("doctor", &passed).and_then(|program| program.run())
        }
        Command::Launch(passed) => Program::launcher(&passed).run(),
        Command::Ci => ci::run(),
        Command::TestGpu => test_gpu::run(),
        Command::Guard => match burn_dist_launcher::guard() {
            Ok(never) => match never {},
            Err(error) => Err(error.into()),
        },
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
    fn flags_of_programs_are_passed_on_and_help_is_ours() {
        let passed = |words: &str| match Cli::try_parse_from(words.split(' ')).unwrap().command {
            Command::TrainMnist(passed) | Command::Doctor(passed) | Command::Launch(passed) => {
                passed.flags
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            passed("xtask train-mnist --gpus 2 -x"),
            ["--gpus", "2", "-x"]
        );
        assert_eq!(passed("xtask doctor -- --help"), ["--help"]);
        assert_eq!(
            passed("xtask launch --nnodes 1 -- p -- -x"),
            ["--nnodes", "1", "--", "p", "--", "-x"]
        );
        let help = Cli::try_parse_from(["xtask", "train-mnist", "--help"]).unwrap_err();
        assert_eq!(help.kind(), ErrorKind::DisplayHelp);
        let help = help.to_string();
        assert!(
            help.contains("--nodes M") && help.contains("-- --help"),
            "{help}"
        );
    }

    #[test]
    fn wrong_arguments_are_usage_errors() {
        for wrong in [
            "xtask",
            "xtask train-nothing",
            "xtask bench --gpus 2",
            "xtask ci stray",
        ] {
            let error = Cli::try_parse_from(wrong.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
        let version = Cli::try_parse_from(["xtask", "--version"]).unwrap_err();
        assert_eq!(version.kind(), ErrorKind::DisplayVersion);
    }
}
