//! The program `burn-dist`: starts the processes of a job (`run`), measures what a job will meet (`doctor`), and
//! times the averaging (`bench`). It needs no checkout of burn-dist.
//!
//! Imports point one way: `main` > `bench`, `doctor` > `run` > `interface` > `error`.

mod bench;
mod doctor;
mod error;
mod interface;
mod run;

use clap::{Parser, Subcommand};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Failure of a subcommand.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Start and measure distributed training with burn-dist
#[derive(Parser, Debug)]
#[command(name = "burn-dist", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a program as the processes of a job, on this machine or on one node of several
    Run(run::Arguments),
    /// Measure what a job will meet before it starts, and say what is wrong
    Doctor(Box<doctor::Arguments>),
    /// Time all_reduce between the ranks of this process, or of the job that `run` started it in; `bench tune`
    /// measures which algorithms a job should use
    Bench(bench::Arguments),
    /// A part of `run`
    #[command(name = burn_dist_launcher::GUARD, hide = true)]
    Guard,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(arguments) => run::run(&arguments).map_err(Into::into),
        Command::Doctor(arguments) => doctor::run(*arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Guard => match burn_dist_launcher::guard() {
            Ok(never) => match never {},
            Err(error) => Err(error.into()),
        },
    };
    outcome.unwrap_or_else(|error: Failure| {
        eprintln!("error: {error}");
        let usage = matches!(error.downcast_ref(), Some(error::Error::Usage(_)));
        ExitCode::from(if usage { 2 } else { 1 })
    })
}

/// Shows the library's events on stderr: warnings, unless `RUST_LOG` says otherwise.
fn log_to_stderr() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_every_subcommand_and_explains_every_flag() {
        let mut cli = Cli::command();
        cli.build();
        let help = cli.render_help().to_string();
        assert!(
            ["run ", "doctor ", "bench "]
                .iter()
                .all(|name| help.contains(name)),
            "{help}"
        );
        assert!(!help.contains("guard"), "a part of another: {help}");
        for command in cli.get_subcommands() {
            let of_clap = |name| matches!(name, Some("help" | "version"));
            for arg in command
                .get_arguments()
                .filter(|arg| !of_clap(arg.get_long()))
            {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(
                    help.len() > 10,
                    "{} {arg}: no explanation",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn wrong_arguments_are_usage_errors() {
        for wrong in [
            "",
            "train",
            "run --nproc-per-node 2",
            "run --nproc-per-node 2 --",
            "run --nproc-per-node 0 -- true",
            "run --nproc-per-node gpu -- true",
            "run --nnodes 0 -- true",
            "run --nnodes 1:4 -- true",
            "run --nprocs 2 -- true",
            "run --rdzv host:0 -- true",
            "run --rdzv host:65536 -- true",
            "run --rdzv host:port -- true",
            "run --rdzv :29500 -- true",
            "run --rdzv h --master-port 2 -- true",
            "run --rdzv h --master-addr h -- true",
            "run --standalone --rdzv h -- true",
            "run --master-port 0 -- true",
            "doctor --gpus 0",
            "doctor --backend tpu",
            "doctor --batch-size 0",
            "doctor --timeout 0",
            "doctor --timeout -1",
            "doctor --bucket-cap-mb 0",
            "doctor --bucket-cap-mb NaN",
            "doctor --bucket-cap-mb large",
            "doctor --master-port 65536",
            "doctor --tls-cert c",
            "doctor --json",
            "doctor --epochs 2",
            "doctor stray",
            "bench --local-ranks 0",
            "bench --sizes 3",
            "bench --sizes 0",
            "bench --budget 0",
            "bench --budget NaN",
            "bench stray",
            "bench --sizes 4 tune",
            "bench tune --nproc-per-node 1",
            "bench tune --rounds 0",
            "bench tune --budget 0",
            "bench tune stray",
        ] {
            let words = std::iter::once("burn-dist").chain(wrong.split_whitespace());
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }
}
