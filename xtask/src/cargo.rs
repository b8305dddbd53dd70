//! Starts cargo with a list of arguments, and what it has built.

use crate::error::Error;
use serde_json::Value;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Output, Stdio};

/// One call of cargo: its arguments, and environment variables to set for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    args: Vec<OsString>,
    variable: Option<(&'static str, &'static str)>,
}

impl Call {
    pub(crate) fn new(args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            variable: None,
        }
    }

    pub(crate) fn with_variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variable = Some((name, value));
        self
    }

    pub(crate) fn arg(&mut self, arg: impl Into<OsString>) -> &mut Self {
        self.args.push(arg.into());
        self
    }

    /// Runs cargo and waits for it.
    ///
    /// # Errors
    ///
    /// When cargo cannot be started.
    pub(crate) fn run(&self) -> Result<ExitStatus, Error> {
        let program = program();
        self.command()
            .status()
            .map_err(|cause| Error::Cargo { program, cause })
    }

    /// Runs cargo, waits for it, and keeps what it writes to stdout.
    ///
    /// # Errors
    ///
    /// When cargo cannot be started.
    pub(crate) fn read(&self) -> Result<Output, Error> {
        let program = program();
        self.command()
            .stderr(Stdio::inherit())
            .output()
            .map_err(|cause| Error::Cargo { program, cause })
    }

    /// Lets cargo take this program's place, as [`hand_over`]. `cargo run` does the same with the program it
    /// built.
    ///
    /// # Errors
    ///
    /// When cargo cannot be started.
    pub(crate) fn hand_over(&self) -> Result<ExitCode, Error> {
        hand_over(self.command()).map_err(|error| match error {
            Error::Start { program, cause } => Error::Cargo { program, cause },
            other => other,
        })
    }

    /// The call, to be started by someone else.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.args(&self.args).envs(self.variable);
        command
    }
}

/// As one would type it, with quotes where a shell needs them.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, value)) = self.variable {
            write!(f, "{name}=\"{value}\" ")?;
        }
        write!(f, "cargo")?;
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            let plain = |c: char| c.is_alphanumeric() || "-_=.,/\\:+@".contains(c);
            if !arg.is_empty() && arg.chars().all(plain) {
                write!(f, " {arg}")?;
            } else {
                write!(f, " '{}'", arg.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

/// Lets a program take this one's place, so that its exit code and every signal are its own: Ctrl-C, a termination
/// or a hang-up reach the program that can end cleanly, with nothing in between that could die first.
///
/// # Errors
///
/// [`Error::Start`] for a program that cannot be started.
#[cfg(unix)]
pub(crate) fn hand_over(mut command: Command) -> Result<ExitCode, Error> {
    use std::os::unix::process::CommandExt;
    let cause = command.exec();
    let program = command.get_program().to_owned();
    Err(Error::Start { program, cause })
}

/// Runs a program and returns its exit code. Ctrl-C goes to every program of the console; this one ignores it, to
/// wait for the program that can end cleanly.
///
/// # Errors
///
/// [`Error::Start`] for a program that cannot be started.
#[cfg(not(unix))]
pub(crate) fn hand_over(mut command: Command) -> Result<ExitCode, Error> {
    if let Err(cause) = ctrlc::set_handler(|| {}) {
        eprintln!("warning: Ctrl-C will not wait for the program to end: {cause}");
    }
    let program = command.get_program().to_owned();
    let status = command.status();
    status
        .map(exit_code)
        .map_err(|cause| Error::Start { program, cause })
}

/// The file that cargo built for the target `name`, which is a `kind` (`bin`, `bench`), from cargo's
/// messages, one JSON object a line.
///
/// # Errors
///
/// When no message names it.
pub(crate) fn built_file(messages: &[u8], kind: &str, name: &str) -> Result<PathBuf, Error> {
    let unbuilt = |cause| Error::Unbuilt {
        name: name.to_owned(),
        cause,
    };
    let mut file = None;
    for line in messages.split(|byte| *byte == b'\n') {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let message: Value =
            serde_json::from_slice(line).map_err(|cause| unbuilt(cause.to_string()))?;
        let target = &message["target"];
        let is_program = message["reason"] == "compiler-artifact"
            && target["name"] == name
            && target["kind"] == serde_json::json!([kind]);
        if let (true, Some(path)) = (is_program, message["executable"].as_str()) {
            file = Some(PathBuf::from(path));
        }
    }
    file.ok_or_else(|| unbuilt("no message is about it".into()))
}

/// The exit code to end with after a program that ended with `status`; a program that a signal ended
/// has none, and counts as failed.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    match code {
        Some(code) => ExitCode::from(code),
        None => ExitCode::FAILURE,
    }
}

/// Cargo tells the programs it runs which cargo it is, so that a toolchain chosen with `+` is kept.
fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_reads_as_typed() {
        let mut call = Call::new(["doc", "--no-deps"]).with_variable("RUSTDOCFLAGS", "-D warnings");
        call.arg("it's here").arg("");
        assert_eq!(
            call.to_string(),
            r#"RUSTDOCFLAGS="-D warnings" cargo doc --no-deps 'it'\''s here' ''"#
        );
    }

    #[test]
    fn the_program_is_where_cargo_says() {
        let artifact = |kind: &str, name: &str, file: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":{file}}}"#
            )
        };
        let messages = [
            artifact("lib", "burn_dist", "null"),
            artifact("example", "mnist", r#""/t/examples/mnist""#),
            artifact("bin", "mnist", r#""/a target/release/mnist""#),
            artifact("bin", "other", r#""/t/release/other""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
            String::new(),
        ];
        let file = built_file(messages.join("\n").as_bytes(), "bin", "mnist").unwrap();
        assert_eq!(file, PathBuf::from("/a target/release/mnist"));

        for wrong in ["", r#"{"reason":"build-finished"}"#, "Compiling", "{", "[]"] {
            let error = built_file(wrong.as_bytes(), "bin", "mnist");
            let error = error.unwrap_err().to_string();
            assert!(error.contains("`mnist`"), "{wrong}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn exit_codes_are_passed_on() {
        use std::os::unix::process::ExitStatusExt;
        // A wait status holds the exit code in its second byte and a signal in its first.
        assert_eq!(exit_code(ExitStatus::from_raw(0)), ExitCode::from(0));
        assert_eq!(
            exit_code(ExitStatus::from_raw(101 << 8)),
            ExitCode::from(101)
        );
        assert_eq!(exit_code(ExitStatus::from_raw(2)), ExitCode::FAILURE);
    }
}
