//! `cargo xtask test-gpu`: the tests that need a GPU, or a software renderer in its place.
//!
//! They are no part of `cargo test`, because the GPU backends take long to build. Those for CUDA run too
//! where the machine has an NVIDIA GPU.

use crate::cargo::{self, Call};
use crate::error::Error;
use crate::machine::{Backend, Machine};
use std::process::ExitCode;

/// Builds and runs the tests, and ends with their exit code.
///
/// # Errors
///
/// When cargo cannot be started.
pub(crate) fn run() -> Result<ExitCode, Error> {
    let call = call(Machine::observe().best_backend());
    println!("{call}");
    Ok(cargo::exit_code(call.run()?))
}

/// The command that runs them, on a machine for which a backend is the best.
fn call(best: Backend) -> Call {
    let features = match best {
        Backend::Cuda => "wgpu,cuda",
        Backend::Wgpu | Backend::Cpu => "wgpu",
    };
    let mut call = Call::new(["test", "--package", "burn-dist", "--features", features]);
    call.arg("--test").arg("gpu").arg("--").arg("--nocapture");
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_is_tested_where_there_is_an_nvidia_gpu() {
        let test = |features| {
            format!(
                "cargo test --package burn-dist --features {features} --test gpu -- --nocapture"
            )
        };
        assert_eq!(call(Backend::Cuda).to_string(), test("wgpu,cuda"));
        assert_eq!(call(Backend::Wgpu).to_string(), test("wgpu"));
        assert_eq!(call(Backend::Cpu).to_string(), test("wgpu"));
    }
}
