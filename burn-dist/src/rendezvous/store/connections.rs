//! Who is connected to a server, from being accepted to having left; and how many may be.
//!
//! A connection is pending until it has proved the secret, then it is live. The accepting thread
//! admits it, the connection's own thread promotes it and leaves (when its [`Seat`] is dropped).

use std::collections::{BTreeMap, HashMap};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Limits;
use crate::rendezvous::channel::Channel;
use crate::rendezvous::rejects::Reject;

pub(super) struct Connections {
    state: Mutex<State>,
    /// A pending connection has left or was promoted.
    changed: Condvar,
    most_pending: usize,
    most_live: usize,
}

#[derive(Default)]
struct State {
    next: u64,
    /// By number, so the oldest comes first.
    pending: BTreeMap<u64, Pending>,
    live: HashMap<u64, Arc<Channel>>,
    left: Vec<u64>,
    stopping: bool,
    census: Census,
}

/// A second handle of a socket, by which its thread is woken.
struct Pending {
    socket: TcpStream,
    displaced: bool,
}

/// How many connections there are, and were at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// That have not proved the secret yet.
    pub(crate) pending: usize,
    /// That have.
    pub(crate) live: usize,
    /// The most that had not at one time.
    pub(crate) most_pending: usize,
    /// The most that had at one time.
    pub(crate) most_live: usize,
}

/// A connection's place; given up when dropped.
pub(super) struct Seat<'a> {
    connections: &'a Connections,
    number: u64,
}

impl Connections {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            most_pending: limits.pending.max(1),
            most_live: limits.connections,
        }
    }

    /// Enters a new connection and gives its number; none if the server stops. Where all places are
    /// taken, the oldest connection that has not proved anything loses its own: its socket is shut,
    /// so its thread leaves at once.
    pub(super) fn admit(&self, socket: TcpStream) -> Option<u64> {
        let mut state = self.lock();
        while state.pending.len() >= self.most_pending && !state.stopping {
            if state.pending.values().all(|pending| !pending.displaced)
                && let Some(mut oldest) = state.pending.first_entry()
            {
                oldest.get_mut().displaced = true;
                // It fails only where the peer has closed already.
                let _ = oldest.get().socket.shutdown(Shutdown::Both);
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopping {
            return None;
        }
        let number = state.next;
        state.next += 1;
        let displaced = false;
        state.pending.insert(number, Pending { socket, displaced });
        state.census.most_pending = state.census.most_pending.max(state.pending.len());
        Some(number)
    }

    /// The place of an admitted connection, held by its thread.
    pub(super) fn seat(&self, number: u64) -> Seat<'_> {
        Seat {
            connections: self,
            number,
        }
    }

    /// The numbers of those who left since the last call.
    pub(super) fn take_left(&self) -> Vec<u64> {
        std::mem::take(&mut self.lock().left)
    }

    /// Shuts every connection, and admits no more.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        for pending in state.pending.values() {
            let _ = pending.socket.shutdown(Shutdown::Both);
        }
        for stream in state.live.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    pub(super) fn census(&self) -> Census {
        let state = self.lock();
        Census {
            pending: state.pending.len(),
            live: state.live.len(),
            ..state.census
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat<'_> {
    /// Counts the connection among those that have proved the secret, if it still may.
    pub(super) fn promote(&self, stream: &Arc<Channel>) -> Result<(), Reject> {
        let mut state = self.connections.lock();
        let pending = state.pending.get(&self.number);
        if pending.is_none_or(|pending| pending.displaced) {
            return Err(Reject::Crowded);
        }
        if state.stopping {
            return Err(Reject::Unfinished);
        }
        if state.live.len() >= self.connections.most_live {
            return Err(Reject::Full);
        }
        state.pending.remove(&self.number);
        state.live.insert(self.number, Arc::clone(stream));
        state.census.most_live = state.census.most_live.max(state.live.len());
        self.connections.changed.notify_all();
        Ok(())
    }

    /// Whether it had to give its place to a newer one.
    pub(super) fn displaced(&self) -> bool {
        let state = self.connections.lock();
        let pending = state.pending.get(&self.number);
        pending.is_some_and(|pending| pending.displaced)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.connections.lock();
        state.pending.remove(&self.number);
        state.live.remove(&self.number);
        state.left.push(self.number);
        self.connections.changed.notify_all();
    }
}
