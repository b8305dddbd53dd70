//! `cargo xtask train-mnist`: chooses the features that the backend needs and starts `mnist` of the examples,
//! which takes the same flags, from the same file, and does the work.

#[path = "../../examples/mnist/options.rs"]
mod options;

use crate::cargo::{Call, Error};
use crate::machine::{Backend, Machine};
pub(crate) use options::Options;
use std::process::ExitCode;

/// Builds the program and lets it take over.
///
/// # Errors
///
/// When cargo cannot be started.
pub(crate) fn run(options: &Options) -> Result<ExitCode, Error> {
    let call = call(options, to_build(options.backend, Machine::observe));
    eprintln!("{call}");
    call.hand_over()
}

/// The call of cargo that builds the program for `backend` and runs it with the flags.
fn call(options: &Options, backend: Backend) -> Call {
    // The CPU backend is always built: replicas fall back to it.
    let mut features = String::from("flex");
    match backend {
        Backend::Cuda => features.push_str(",cuda"),
        Backend::Wgpu => features.push_str(",wgpu"),
        Backend::Cpu => {}
    }
    if options.download {
        features.push_str(",download");
    }

    let mut call = Call::new([
        "run",
        "--release",
        "--package",
        "examples",
        "--bin",
        "mnist",
    ]);
    call.arg("--no-default-features")
        .arg("--features")
        .arg(features)
        .arg("--");
    // `auto` stays `auto`: the program knows better which devices it can use than a look at the
    // machine's files.
    call.arg("--backend").arg(name(options.backend));
    call.arg("--gpus").arg(options.gpus.to_string());
    call.arg("--epochs").arg(options.epochs.to_string());
    call.arg("--batch-size").arg(options.batch_size.to_string());
    call.arg("--lr").arg(options.lr.to_string());
    call.arg("--seed").arg(options.seed.to_string());
    call.arg("--output").arg(&options.output);
    if let Some(folder) = &options.data_dir {
        call.arg("--data-dir").arg(folder);
    }
    if let Some(file) = &options.report {
        call.arg("--report").arg(file);
    }
    for (set, flag) in [
        (options.download, "--download"),
        (options.oversubscribe, "--oversubscribe"),
    ] {
        if set {
            call.arg(flag);
        }
    }
    call
}

fn name(backend: options::Backend) -> &'static str {
    match backend {
        options::Backend::Auto => "auto",
        options::Backend::Cuda => "cuda",
        options::Backend::Wgpu => "wgpu",
        options::Backend::Cpu => "cpu",
    }
}

/// The backend to build. `auto` looks at the machine.
fn to_build(backend: options::Backend, machine: impl FnOnce() -> Machine) -> Backend {
    match backend {
        options::Backend::Auto => machine().best_backend(),
        options::Backend::Cuda => Backend::Cuda,
        options::Backend::Wgpu => Backend::Wgpu,
        options::Backend::Cpu => Backend::Cpu,
    }
}

#[cfg(test)]
mod tests;
