//! Who is told of losses and notices, and what they have been told.
//!
//! Invariant: every watcher hears of every loss exactly once, whether it came before or after it, and
//! every notice is heard by those who watch, or by the first who comes to. Watchers are called with no lock held, so they may call the network.

use std::sync::Arc;

use parking_lot::Mutex;

use super::network::{Lost, Watcher};

/// Bytes of notices kept while nobody watches, and those that each counts for beside its own.
const UNHEARD: (usize, usize) = (16 << 20, 64);

#[derive(Default)]
pub(super) struct Watchers(Mutex<State>);

#[derive(Default)]
struct State {
    watchers: Vec<Arc<dyn Watcher>>,
    /// Past events, for later watchers: all losses, of which a process has one, and the notices that nobody has
    /// heard.
    past: Vec<Event>,
    /// Bytes of notices that nobody has heard.
    unheard: usize,
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
            let mut state = self.0.lock();
            state.watchers.push(watcher.clone());
            let past = state.past.clone();
            state.past.retain(|event| matches!(event, Event::Lost(_)));
            state.unheard = 0;
            past
        };
        for event in &past {
            event.tell(&**watcher);
        }
    }

    pub(super) fn lost(&self, lost: Lost) {
        self.publish(&Event::Lost(lost));
    }

    /// Hands a notice on, or keeps it for the first watcher; false if too many are kept already.
    pub(super) fn notice(&self, from: usize, notice: Vec<u8>) -> bool {
        let bytes = notice.len() + UNHEARD.1;
        let event = Event::Notice(from, notice.into());
        {
            let mut state = self.0.lock();
            if state.watchers.is_empty() {
                let room = state.unheard + bytes <= UNHEARD.0;
                if room {
                    state.unheard += bytes;
                    state.past.push(event);
                }
                return room;
            }
        }
        self.publish(&event);
        true
    }

    /// Lets go of all watchers: they may own the network, which would then never be dropped.
    pub(super) fn clear(&self) {
        let watchers = {
            let mut state = self.0.lock();
            std::mem::take(&mut state.watchers)
        };
        drop(watchers);
    }

    fn publish(&self, event: &Event) {
        let watchers = {
            let mut state = self.0.lock();
            if matches!(event, Event::Lost(_)) {
                state.past.push(event.clone());
            }
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
