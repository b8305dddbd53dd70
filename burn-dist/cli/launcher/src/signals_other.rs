//! Ctrl-C as an event of the job instead of the launcher's end.

use crate::error::Error;
use parking_lot::Mutex;
use std::io;

/// Number of Unix's SIGINT.
pub(crate) const INTERRUPT: i32 = 2;

/// Receiver of the signals. The system takes one handler for good, so that one asks here.
static TELL: Mutex<Option<Tell>> = Mutex::new(None);

type Tell = Box<dyn Fn(i32) + Send>;

fn set(tell: Option<Tell>) {
    *TELL.lock() = tell;
}

/// Tells of Ctrl-C until it is dropped; one at a time.
#[derive(Debug)]
pub(crate) struct Signals;

impl Signals {
    /// Calls `tell` at each Ctrl-C from now on.
    ///
    /// # Errors
    ///
    /// When the system refuses a handler.
    pub(crate) fn new(tell: impl Fn(i32) + Send + 'static) -> Result<Self, Error> {
        set(Some(Box::new(tell)));
        let handler = || {
            if let Some(tell) = &*TELL.lock() {
                tell(INTERRUPT);
            }
        };
        match ctrlc::set_handler(handler) {
            // The one of an earlier job.
            Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(Self),
            Err(cause) => Err(Error::system("wait for Ctrl-C")(io::Error::other(cause))),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        set(None);
    }
}

pub(crate) fn name(_signal: i32) -> &'static str {
    "Ctrl-C"
}
