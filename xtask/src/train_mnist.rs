//! `cargo xtask train-mnist`: chooses the features that the backend needs and starts `mnist` of the examples,
//! which takes the same flags, from the same file, and does the work; with `--nodes`, several processes of it.

#[path = "../../examples/mnist/options.rs"]
mod options;

use crate::cargo::{self, Call};
use crate::error::Error;
use crate::launch::Launch;
use crate::machine::{Backend, Machine};
use clap::{Args, value_parser};
pub(crate) use options::Options;
use std::ffi::OsString;
use std::process::ExitCode;

/// The program's name among those of the examples.
const PROGRAM: &str = "mnist";

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
    let Arguments { options, nodes } = arguments;
    let backend = to_build(options.backend, Machine::observe);
    if *nodes == 1 {
        let call = call(options, backend);
        eprintln!("{call}");
        return call.hand_over();
    }

    let build = build_call(options, backend);
    eprintln!("{build}");
    let output = build.read()?;
    if !output.status.success() {
        return Ok(cargo::exit_code(output.status));
    }
    let program = cargo::built_file(&output.stdout, "bin", PROGRAM)?;
    let flags = flags(options);
    eprintln!(
        "{nodes} processes of {}, their output with their numbers",
        program.display()
    );
    Launch {
        program: program.as_os_str(),
        args: &flags,
        nodes: *nodes,
        devices: options.gpus,
        port: None,
    }
    .run()
}

/// The call of cargo that builds the program for `backend` and runs it with the flags.
fn call(options: &Options, backend: Backend) -> Call {
    let mut call = Call::new(["run"]);
    choose(&mut call, options, backend);
    call.arg("--");
    for flag in flags(options) {
        call.arg(flag);
    }
    call
}

/// The call of cargo that builds the same program, and tells where it is.
fn build_call(options: &Options, backend: Backend) -> Call {
    let mut call = Call::new(["build"]);
    choose(&mut call, options, backend);
    call.arg("--message-format=json-render-diagnostics");
    call
}

/// Names the program and its features.
fn choose(call: &mut Call, options: &Options, backend: Backend) {
    // The CPU backend is always built: replicas fall back to it.
    let mut features = String::from("flex");
    match backend {
        Backend::Cuda => features.push_str(",cuda"),
        Backend::Wgpu => features.push_str(",wgpu"),
        Backend::Cpu => {}
    }
    for (wanted, feature) in [
        (options.download, ",download"),
        (options.tls.is_some(), ",tls"),
    ] {
        if wanted {
            features.push_str(feature);
        }
    }
    for arg in ["--release", "--package", "examples", "--bin", PROGRAM] {
        call.arg(arg);
    }
    call.arg("--no-default-features")
        .arg("--features")
        .arg(features);
}

/// The flags for the program, which come to the same options there.
fn flags(options: &Options) -> Vec<OsString> {
    let mut flags = Vec::new();
    let mut pair = |flag: &str, value: OsString| flags.extend([flag.into(), value]);
    // `auto` stays `auto`: the program knows better which devices it can use than a look at the
    // machine's files.
    pair("--backend", name(options.backend).into());
    pair("--gpus", options.gpus.to_string().into());
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
    if let Some(interface) = &options.interface {
        pair("--interface", interface.into());
    }
    if let Some(tls) = &options.tls {
        pair("--tls-cert", (&tls.cert).into());
        pair("--tls-key", (&tls.key).into());
        pair("--tls-ca", (&tls.ca).into());
        if let Some(name) = &tls.name {
            pair("--tls-name", name.into());
        }
    }
    if let Some(folder) = &options.records {
        pair("--records", folder.into());
    }
    for (set, flag) in [
        (options.download, "--download"),
        (options.oversubscribe, "--oversubscribe"),
    ] {
        if set {
            flags.push(flag.into());
        }
    }
    flags
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
