//! `cargo xtask ci`: what a change must pass, step by step; the same steps as `.ci/run`.

use crate::cargo::{self, Call};
use crate::error::Error;
use std::process::ExitCode;

/// Runs every step until one fails, and ends with that step's exit code.
///
/// # Errors
///
/// When cargo cannot be started.
pub(crate) fn run() -> Result<ExitCode, Error> {
    let steps = steps();
    let count = steps.len();
    for (at, step) in steps.iter().enumerate() {
        println!("\n==> [{}/{count}] {step}", at + 1);
        let status = step.run()?;
        if !status.success() {
            eprintln!(
                "\nerror: step {} of {count} failed: {step} ({status})",
                at + 1
            );
            return Ok(cargo::exit_code(status));
        }
    }
    println!("\nall {count} steps passed");
    Ok(ExitCode::SUCCESS)
}

fn steps() -> [Call; 6] {
    [
        Call::new(["test", "--workspace"]),
        Call::new([
            "test",
            "--workspace",
            "--features",
            "burn-dist/tls",
            "--lib",
            "--test",
            "processes",
            "tls",
        ]),
        Call::new(["fmt", "--all", "--", "--check"]),
        Call::new([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
        Call::new([
            "clippy",
            "--workspace",
            "--features",
            "burn-dist/tls",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
        Call::new(["doc", "--workspace", "--no-deps"]).with_variable("RUSTDOCFLAGS", "-D warnings"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_those_of_the_script() {
        let script = include_str!("../../.ci/run");
        let scripted: Vec<_> = script
            .lines()
            .filter_map(|line| line.strip_prefix("step "))
            .map(|line| line.trim_start_matches("env ").to_owned())
            .collect();
        assert_eq!(scripted, steps().map(|step| step.to_string()));
    }
}
