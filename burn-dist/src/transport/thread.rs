//! Threads that need not be joined: one that is stuck can be left behind.

use std::convert::Infallible;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

/// A thread whose end can be waited for with a deadline. Dropping it leaves the thread behind.
#[derive(Debug)]
pub(crate) struct Thread {
    handle: JoinHandle<()>,
    /// Disconnected when the body has returned or unwound.
    ended: Receiver<Infallible>,
}

impl Thread {
    /// Starts a thread.
    pub(crate) fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (alive, ended) = bounded::<Infallible>(0);
        let handle = std::thread::Builder::new().name(name).spawn(move || {
            let _alive = alive;
            body();
        })?;
        Ok(Self { handle, ended })
    }

    /// True once the thread has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits for the end of the thread; gives it back if it runs on for longer than `time`.
    pub(crate) fn join_within(self, time: Duration) -> Result<(), Self> {
        if self.ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
            return Err(self);
        }
        // A panic was printed on the thread itself.
        let _ = self.handle.join();
        Ok(())
    }
}
