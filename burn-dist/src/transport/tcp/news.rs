//! News: notices, departures and losses, which every process hears although it has a connection with few.
//!
//! A process that hears news for the first time hands them to its watchers, if they are for it, and passes them on
//! over the overlay, except on the connection they came by. Once any process has ended the overlay may no longer
//! connect the others: from then on all connections carry news.
//!
//! Notices and departures have a number of their origin, by which they are known again. A loss is known again by
//! the process that is lost, whoever found it. Frames of one connection keep their order, and news are passed on in
//! the order in which they were heard first; so over the overlay the news of one origin come in its order, and a
//! departure last. (A connection that carries news only after an end may bring later news first.)
//!
//! A process that is taken for lost is told so before its connections are ended. It lives, then, and finds all its
//! connections broken; it must not have the others told that those are lost.
//!
//! A lock is held from the decision that news are new until they are queued everywhere. Nothing is written under it.

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::{Mutex, MutexGuard};

use super::connection::Connection;
use super::frame::NewsFrame;
use super::loss::{decode_cause, encode_cause};
use super::mesh::Mesh;
use super::write::QueuedFrame;
use crate::transport::network::{Cause, Lost};

/// Numbers of an origin that are remembered beyond a missing one.
const WINDOW: usize = 256;
/// Most notices that wait for the watchers to be told, for each process and in all. With more, nothing is read until
/// they are.
const MAX_PENDING: usize = 64;

/// The news of one process.
pub(super) struct News {
    state: Mutex<NewsState>,
    /// Number of events that wait for the watchers.
    pending: AtomicUsize,
    max_pending: usize,
}

struct NewsState {
    /// Number of the last news of this process.
    last: u64,
    /// By origin.
    seen: Vec<SeenNumbers>,
    events: VecDeque<NewsEvent>,
}

/// Something the watchers are told.
pub(super) enum NewsEvent {
    Notice(usize, Vec<u8>),
    Lost(Lost),
}

/// Numbers of one origin that were seen, from 1.
#[derive(Default)]
struct SeenNumbers {
    /// All numbers up to this one count as seen.
    floor: u64,
    /// Numbers above the floor, of which the next one is not.
    above: BTreeSet<u64>,
}

impl SeenNumbers {
    /// Notes a number. Returns false if it was seen.
    fn insert(&mut self, number: u64) -> bool {
        if number <= self.floor || !self.above.insert(number) {
            return false;
        }
        if self.above.len() > WINDOW
            && let Some(lowest) = self.above.pop_first()
        {
            // What is missing below comes no more.
            self.floor = lowest;
        }
        while let Some(next) = self.floor.checked_add(1)
            && self.above.remove(&next)
        {
            self.floor = next;
        }
        true
    }
}

impl News {
    pub(super) fn new(processes: usize) -> Self {
        Self {
            state: Mutex::new(NewsState {
                last: 0,
                seen: (0..processes).map(|_| SeenNumbers::default()).collect(),
                events: VecDeque::new(),
            }),
            pending: AtomicUsize::new(0),
            max_pending: MAX_PENDING.max(2 * processes),
        }
    }

    /// True if nothing may be read until the watchers have been told.
    pub(super) fn is_congested(&self) -> bool {
        // Relaxed: a count, which guards no other memory.
        self.pending.load(Relaxed) >= self.max_pending
    }

    /// Takes what the watchers are to be told.
    pub(super) fn take(&self) -> VecDeque<NewsEvent> {
        let events = mem::take(&mut self.state.lock().events);
        self.pending.fetch_sub(events.len(), Relaxed);
        events
    }

    /// Has nothing passed on until the guard is dropped.
    #[cfg(test)]
    pub(super) fn hold(&self) -> impl Drop + '_ {
        self.state.lock()
    }

    fn push(&self, state: &mut MutexGuard<'_, NewsState>, event: NewsEvent) {
        state.events.push_back(event);
        self.pending.fetch_add(1, Relaxed);
    }
}

impl Mesh {
    /// Tells the chosen processes something.
    pub(super) fn notify(&self, content: &[u8], chosen: &dyn Fn(usize) -> bool) {
        let all = 0..self.processes();
        let others = all.filter(|peer| *peer != self.process);
        let mut to = vec![0; self.processes().div_ceil(8)];
        let (mut count, mut last) = (0, 0);
        for peer in others.filter(|peer| chosen(*peer)) {
            to[peer / 8] |= 1 << (peer % 8);
            (count, last) = (count + 1, peer);
        }
        if count + 1 == self.processes() {
            to.clear();
        }
        to.truncate(last / 8 + 1);
        if count > 0 {
            self.tell(|origin, number| NewsFrame::Notice {
                origin,
                number,
                to,
                content: content.to_vec(),
            });
        }
    }

    /// Tells all others that this process leaves in good order.
    pub(super) fn bid_farewell(&self) {
        self.tell(|origin, number| NewsFrame::Farewell { origin, number });
    }

    fn tell(&self, frame: impl FnOnce(u64, u64) -> NewsFrame) {
        {
            let mut state = self.news.state.lock();
            let frame = frame(self.process as u64, state.last + 1);
            match frame.encode() {
                Ok(bytes) => {
                    state.last += 1;
                    self.queue_news(bytes, None, None);
                }
                Err(error) => return tracing::error!("a notice was not sent: {error}"),
            }
        }
        self.send_news();
    }

    /// Notes that a process is lost, has all others told, and its watchers. `by` is the connection that told it.
    pub(super) fn lose(&self, process: usize, cause: Cause, by: Option<&Connection>) {
        let Some(encoded) = encode_cause(&cause) else {
            return;
        };
        if !self.note_end(process, &cause) {
            return;
        }
        let is_cast_out = process != self.process && self.is_cast_out();
        // Of itself its watchers need not be told: it finds its connections broken.
        let lost = (process != self.process).then(|| self.lost(process, cause.clone()));
        if let Some(lost) = &lost {
            // Not under the lock: the log may be slow.
            tracing::warn!("{lost}");
        }
        let frame = NewsFrame::Loss {
            process: process as u64,
            cause: encoded,
        };
        {
            let mut state = self.news.state.lock();
            // Always: a cause that travels is short.
            if let (Ok(bytes), false) = (frame.encode(), is_cast_out) {
                self.queue_news(bytes, by, None);
            }
            if let Some(lost) = lost {
                self.news.push(&mut state, NewsEvent::Lost(lost));
            }
        }
        self.send_news();
        if let Some(connection) = self.connection(process) {
            connection.doom(cause);
        }
        self.shared.reader.wake();
    }

    /// Hears news that a connection brought.
    ///
    /// # Errors
    /// The news make no sense.
    pub(super) fn hear(&self, by: &Connection, frame: &NewsFrame) -> Result<(), Cause> {
        let index = |process: u64| match usize::try_from(process) {
            Ok(process) if process < self.processes() => Ok(process),
            _ => Err(malformed(format!("news of process {process}"))),
        };
        match frame {
            NewsFrame::Loss { process, cause } => {
                let process = index(*process)?;
                let cause = decode_cause(cause).map_err(malformed)?;
                self.lose(process, cause, Some(by));
            }
            NewsFrame::Farewell { origin, number } => {
                let origin = index(*origin)?;
                if self.pass_on(by, origin, *number, frame, None) {
                    self.note_end(origin, &Cause::Left);
                }
            }
            NewsFrame::Notice {
                origin,
                number,
                to,
                content,
            } => {
                let origin = index(*origin)?;
                if to.len() > self.processes().div_ceil(8) {
                    return Err(malformed(format!("news for {} processes", 8 * to.len())));
                }
                let own = to.get(self.process / 8).copied().unwrap_or(0);
                let is_for_all = to.is_empty();
                let event = (is_for_all || own & (1 << (self.process % 8)) != 0)
                    .then(|| NewsEvent::Notice(origin, content.clone()));
                self.pass_on(by, origin, *number, frame, event);
            }
        }
        Ok(())
    }

    /// Passes news on, and tells the watchers of an event. Returns false if they were known.
    fn pass_on(
        &self,
        by: &Connection,
        origin: usize,
        number: u64,
        frame: &NewsFrame,
        event: Option<NewsEvent>,
    ) -> bool {
        {
            let mut state = self.news.state.lock();
            if origin == self.process || !state.seen[origin].insert(number) {
                return false;
            }
            // Always: it was received.
            if let Ok(bytes) = frame.encode() {
                self.queue_news(bytes, Some(by), Some(origin));
            }
            if let Some(event) = event {
                self.news.push(&mut state, event);
                self.shared.reader.wake();
            }
        }
        self.send_news();
        true
    }

    /// Queues news on all connections that carry them, except the one they came by and that with the process they
    /// are of.
    fn queue_news(&self, bytes: Vec<u8>, by: Option<&Connection>, of: Option<usize>) {
        let frame = QueuedFrame::news(bytes);
        for connection in self.carriers() {
            let is_known = by.is_some_and(|by| by.peer() == connection.peer());
            if !is_known && of != Some(connection.peer()) {
                connection.queue(frame.clone());
            }
        }
    }

    /// Sends what is queued, where no other thread writes and the socket takes it. The heartbeat thread sends the
    /// rest.
    fn send_news(&self) {
        for connection in self.carriers() {
            connection.send_soon();
        }
    }
}

impl Connection {
    /// Ends the connection with a process that is lost, and tells it before: it may live, and must not take this one
    /// for lost. The reader has the others told.
    pub(super) fn cast_out(&self, cause: Cause) {
        let encoded = encode_cause(&cause).map(|cause| {
            let process = self.peer() as u64;
            NewsFrame::Loss { process, cause }.encode()
        });
        // Always: the cause is one that travels, and short.
        if let Some(Ok(bytes)) = encoded {
            self.queue(QueuedFrame::news(bytes));
            self.send_soon();
        }
        self.end(cause);
    }
}

fn malformed(detail: impl Into<String>) -> Cause {
    let detail: String = detail.into();
    Cause::Malformed(detail.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once_in_any_order() {
        let mut seen = SeenNumbers::default();
        for number in [1, 2, 5, 4, 7, 3] {
            assert!(seen.insert(number), "{number}");
            assert!(!seen.insert(number), "{number}");
        }
        assert_eq!((seen.floor, seen.above.len()), (5, 1));
        assert!(!seen.insert(0) && seen.insert(6));
        assert_eq!((seen.floor, seen.above.len()), (7, 0));
    }

    #[test]
    fn a_missing_number_is_given_up_after_a_window() {
        let mut seen = SeenNumbers::default();
        for number in 2..2 + WINDOW as u64 {
            assert!(seen.insert(number));
        }
        assert_eq!(seen.above.len(), WINDOW);
        assert!(seen.insert(1000));
        assert!(!seen.insert(1), "it was given up");
        assert_eq!((seen.floor, seen.above.len()), (1 + WINDOW as u64, 1));
        assert!(seen.insert(u64::MAX) && !seen.insert(u64::MAX));
    }
}
