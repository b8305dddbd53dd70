//! Ctrl-C as an event of the job instead of the launcher's end.
//!
//! Caller: `job`.

use crate::error::Error;
use std::io;

/// What Ctrl-C counts as: Unix's SIGINT.
const INTERRUPT: i32 = 2;

/// Tells of Ctrl-C.
#[derive(Debug)]
pub(super) struct Signals;

impl Signals {
    /// Calls `tell` at each Ctrl-C from now on.
    ///
    /// # Errors
    ///
    /// When the system refuses a handler.
    pub(super) fn new(tell: impl Fn(i32) + Send + 'static) -> Result<Self, Error> {
        ctrlc::set_handler(move || tell(INTERRUPT))
            .map_err(|cause| Error::system("wait for Ctrl-C")(io::Error::other(cause)))?;
        Ok(Self)
    }
}

pub(super) fn name(_signal: i32) -> &'static str {
    "Ctrl-C"
}
