//! Slots of the connections of a port, from their acceptance to their end.

use std::collections::{BTreeMap, HashMap};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::PortLimits;
use crate::net::rejects::Reject;

/// The slots of a port. A pending connection may be evicted for a newer one; a live one stays.
pub(super) struct Slots {
    limits: PortLimits,
    state: Mutex<SlotState>,
    /// Notified when a pending connection was promoted, a connection ended, or the port closes.
    changed: Condvar,
}

#[derive(Default)]
struct SlotState {
    next: u64,
    /// By number, the oldest first.
    pending: BTreeMap<u64, OpenHandshake>,
    live: HashMap<u64, Arc<TcpStream>>,
    /// Numbers of the connections that ended, until their threads are joined.
    ended: Vec<u64>,
    is_stopping: bool,
    #[cfg(test)]
    census: Census,
}

struct OpenHandshake {
    socket: Arc<TcpStream>,
    is_evicted: bool,
}

/// Numbers of connections, now and at most.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) pending: usize,
    pub(crate) live: usize,
    pub(crate) most_pending: usize,
    pub(crate) most_live: usize,
}

/// Slot of a connection, given up when it is dropped.
pub(super) struct Slot<'s> {
    slots: &'s Slots,
    number: u64,
}

impl Slots {
    pub(super) fn new(limits: PortLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Enters a new connection and returns its number; none if the port closes. If there is no slot, the oldest
    /// pending connection is shut, and its thread gives its slot up at once.
    pub(super) fn admit(&self, socket: &Arc<TcpStream>) -> Option<u64> {
        let mut state = self.state.lock();
        while state.pending.len() >= self.limits.pending.max(1) && !state.is_stopping {
            if state.pending.values().all(|pending| !pending.is_evicted)
                && let Some(mut oldest) = state.pending.first_entry()
            {
                oldest.get_mut().is_evicted = true;
                // Fails only if the peer has closed already.
                let _ = oldest.get().socket.shutdown(Shutdown::Both);
            }
            self.changed.wait_for(&mut state, self.limits.handshake);
        }
        if state.is_stopping {
            return None;
        }
        let number = state.next;
        state.next += 1;
        let pending = OpenHandshake {
            socket: Arc::clone(socket),
            is_evicted: false,
        };
        state.pending.insert(number, pending);
        #[cfg(test)]
        {
            state.census.most_pending = state.census.most_pending.max(state.pending.len());
        }
        Some(number)
    }

    /// Returns the slot of an admitted connection, to be held by its thread.
    pub(super) fn slot(&self, number: u64) -> Slot<'_> {
        Slot {
            slots: self,
            number,
        }
    }

    /// Shuts every connection, and admits no more.
    pub(super) fn shut_all(&self) {
        let mut state = self.state.lock();
        state.is_stopping = true;
        let pending = state.pending.values().map(|pending| &pending.socket);
        for socket in pending.chain(state.live.values()) {
            // Fails only if the peer has closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state.lock().is_stopping
    }

    /// Returns the numbers of the connections that ended since the last call.
    pub(super) fn take_ended(&self) -> Vec<u64> {
        std::mem::take(&mut self.state.lock().ended)
    }

    /// Waits until every connection has ended, at most until the deadline. Returns the number of the others.
    pub(super) fn wait_until_empty(&self, deadline: Instant) -> usize {
        let mut state = self.state.lock();
        loop {
            let left = state.pending.len() + state.live.len();
            if left == 0 || self.changed.wait_until(&mut state, deadline).timed_out() {
                return left;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn census(&self) -> Census {
        let state = self.state.lock();
        Census {
            pending: state.pending.len(),
            live: state.live.len(),
            ..state.census
        }
    }
}

impl Slot<'_> {
    /// Returns an error if the pending connection was shut from this side.
    pub(super) fn check(&self) -> Result<(), Reject> {
        self.slots.state.lock().check(self.number)
    }

    /// Makes the pending connection a live one, unless it was shut or is one too many.
    pub(super) fn promote(&self) -> Result<(), Reject> {
        let mut state = self.slots.state.lock();
        state.check(self.number)?;
        if state.live.len() >= self.slots.limits.live {
            return Err(Reject::Full);
        }
        let Some(pending) = state.pending.remove(&self.number) else {
            return Err(Reject::Crowded);
        };
        state.live.insert(self.number, pending.socket);
        #[cfg(test)]
        {
            state.census.most_live = state.census.most_live.max(state.live.len());
        }
        self.slots.changed.notify_all();
        Ok(())
    }
}

impl SlotState {
    fn check(&self, number: u64) -> Result<(), Reject> {
        match self.pending.get(&number) {
            Some(pending) if pending.is_evicted => Err(Reject::Crowded),
            Some(_) if self.is_stopping => Err(Reject::Unfinished),
            Some(_) => Ok(()),
            None => Err(Reject::Crowded),
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        let pending = state.pending.remove(&self.number);
        let live = state.live.remove(&self.number);
        state.ended.push(self.number);
        self.slots.changed.notify_all();
        drop(state);
        // Sockets are closed without the lock.
        drop((pending, live));
    }
}
