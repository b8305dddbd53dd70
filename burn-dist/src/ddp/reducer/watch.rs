//! The watch over a reducer's thread: its request to stop, and its waits for the device.
//!
//! A device that hangs is the one thing that the thread waits for without a deadline. So it notes each call
//! that may wait for the device before it makes it, and whoever waits for the thread looks how long ago that
//! was.

use crate::ddp::parameters::Parameters;
use crate::error::Error;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// State that the reducer's thread shares with those who wait for it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// True once the replica's end is gone: no further command is carried out.
    pub(super) stopping: AtomicBool,
    waiting: Mutex<Option<DeviceWait>>,
}

/// A wait for the device.
#[derive(Clone, Copy, Debug)]
struct DeviceWait {
    since: Instant,
    /// The request to the device, as "reading a gradient".
    what: &'static str,
    bucket: usize,
    /// The first parameter that it concerns.
    parameter: Option<usize>,
}

/// A device that gave no answer in time.
#[derive(Debug)]
pub(super) struct Stall {
    wait: DeviceWait,
    after: Duration,
}

/// A wait for the device, until this is dropped.
pub(super) struct WaitGuard<'w>(&'w Watch);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        *self.0.waiting.lock() = None;
    }
}

impl Watch {
    /// Notes that the thread asks its device for something, and may wait for it.
    pub(super) fn device(
        &self,
        what: &'static str,
        bucket: usize,
        parameter: Option<usize>,
    ) -> WaitGuard<'_> {
        *self.waiting.lock() = Some(DeviceWait {
            since: Instant::now(),
            what,
            bucket,
            parameter,
        });
        WaitGuard(self)
    }

    /// The wait that the thread is in, if it is longer than `limit`.
    pub(super) fn stall(&self, limit: Duration) -> Option<Stall> {
        let wait = (*self.waiting.lock())?;
        let after = wait.since.elapsed();
        (after >= limit).then_some(Stall { wait, after })
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

impl Stall {
    pub(super) fn error(&self, rank: usize, parameters: &Parameters) -> Error {
        let DeviceWait {
            what,
            bucket,
            parameter,
            ..
        } = self.wait;
        let entry = parameter.and_then(|parameter| parameters.entries.get(parameter));
        let of = entry.map_or_else(
            || format!("of bucket {bucket}"),
            |entry| {
                let path = &entry.description.path;
                format!("of bucket {bucket}, parameter `{path}`")
            },
        );
        let after = self.after.as_secs_f64();
        Error::Tensor {
            rank,
            operation: what,
            message: format!(
                "{of}: the device has not answered for {after:.1} s; look at the device's driver and its \
                 log, or give the group a longer timeout if its passes take as long"
            ),
        }
    }
}
