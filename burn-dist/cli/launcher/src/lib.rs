//! Processes that run and end together: the first failure ends the others, and nothing stays behind.
//!
//! This crate knows nothing of Burn and compiles in seconds. `burn-dist run` starts jobs with it, and
//! `cargo xtask bench` runs programs under a deadline with it.
//!
//! Imports point one way: `lib` > `watch` > `job` > `group`, `outcome`, `output` > `signals` > `error`.

mod error;
#[cfg_attr(unix, path = "group_unix.rs")]
#[cfg_attr(not(unix), path = "group_other.rs")]
mod group;
mod job;
mod outcome;
mod output;
#[cfg_attr(unix, path = "signals_unix.rs")]
#[cfg_attr(not(unix), path = "signals_other.rs")]
mod signals;
mod watch;

pub use error::Error;
pub use group::guard;
pub use job::{Task, run};
pub use outcome::Outcome;
pub use watch::{Finish, Finished, watch};

/// Subcommand that a program using this crate must answer with [`guard`]: the launcher starts its own program
/// again with this argument.
pub const GUARD: &str = "launch-guard";
