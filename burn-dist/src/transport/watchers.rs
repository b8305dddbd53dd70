//! Who is told of losses and notices, and what they have been told.
//!
//! Invariant: every watcher hears every event exactly once, whether it came before or after the
//! event. Watchers are called with no lock held, so they may call the network.
//!
//! Callers: the networks.

use std::sync::{Arc, Mutex};

use super::locks::lock;
use super::network::{Lost, Watcher};

#[derive(Default)]
pub(super) struct Watchers(Mutex<State>);

#[derive(Default)]
struct State {
    watchers: Vec<Arc<dyn Watcher>>,
    /// All that has happened, for watchers to come. Networks bound the notices of one process, and
    /// a process is lost once, so this stays small.
    past: Vec<Event>,
}

#[derive(Clone)]
enum Event {
    Lost(Lost),
    Notice(usize, Arc<[u8]>),
}

impl Watchers {
    /// Tells the watcher what has happened, and from now on what happens.
    pub(super) fn add(&self, watcher: &Arc<dyn Watcher>) {
        let past = {
            let mut state = lock(&self.0);
            state.watchers.push(watcher.clone());
            state.past.clone()
        };
        for event in &past {
            event.tell(&**watcher);
        }
    }

    pub(super) fn lost(&self, lost: Lost) {
        self.publish(&Event::Lost(lost));
    }

    pub(super) fn notice(&self, from: usize, notice: Vec<u8>) {
        self.publish(&Event::Notice(from, notice.into()));
    }

    /// Lets go of all watchers: they may own the network, which would then never be dropped.
    pub(super) fn clear(&self) {
        let watchers = {
            let mut state = lock(&self.0);
            std::mem::take(&mut state.watchers)
        };
        drop(watchers);
    }

    fn publish(&self, event: &Event) {
        let watchers = {
            let mut state = lock(&self.0);
            state.past.push(event.clone());
            state.watchers.clone()
        };
        for watcher in watchers {
            event.tell(&*watcher);
        }
    }
}

impl Event {
    fn tell(&self, watcher: &dyn Watcher) {
        match self {
            Self::Lost(lost) => watcher.lost(lost),
            Self::Notice(from, notice) => watcher.notice(*from, notice),
        }
    }
}
