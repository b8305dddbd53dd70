//! Parts that the connections of a process have in common.

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;

use super::heartbeat;
use super::reader::ReaderWaker;
use crate::transport::gone::Gone;

/// Parts that all connections of a process share.
pub(super) struct ConnectionContext {
    /// Wakes the thread that sends what is queued.
    pub(super) heartbeat: heartbeat::Waker,
    /// Wakes the network's reader.
    pub(super) reader: ReaderWaker,
    /// Groups whose messages are dropped.
    pub(super) gone: RwLock<Gone>,
}

impl ConnectionContext {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            heartbeat: heartbeat::Waker::default(),
            reader: ReaderWaker::new()?,
            gone: RwLock::default(),
        }))
    }

    /// Has the messages of these groups dropped when they are received.
    pub(super) fn forget(&self, groups: &[u64]) {
        let mut gone = self.gone.write();
        for group in groups {
            gone.add(*group);
        }
    }
}
