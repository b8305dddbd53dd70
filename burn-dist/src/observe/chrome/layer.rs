//! The listener: turns what happens to spans into events of the trace.
//!
//! Invariants: it never waits, for the threads that call it are waited for by other ranks; in a track, each
//! end follows its beginning, and a span that is left out is left out whole.

use super::file::{Event, Kind, Message};
use super::tracks::{Track, Tracks};
use crossbeam::channel::Sender;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Number of events that may wait to be written.
pub(super) const BEHIND: usize = 1 << 20;

pub(super) struct Listener {
    sender: Sender<Message>,
    lost: Arc<AtomicU64>,
    tracks: Arc<Tracks>,
}

/// Data kept with a span.
struct Known {
    rank: Option<usize>,
    fields: Arc<Map<String, Value>>,
}

/// A thread as a trace sees it.
struct Seen {
    /// Tracks of the trace. There is more than one trace only in tests.
    tracks: Arc<Tracks>,
    rank: usize,
    track: Track,
    /// The spans that the thread is in, and whether they are in the trace.
    open: Vec<bool>,
}

thread_local! {
    /// The tracks of this thread, of which there is one for each rank that it works for.
    static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
}

impl Listener {
    pub(super) fn new(sender: Sender<Message>, lost: Arc<AtomicU64>) -> Self {
        let tracks = Arc::default();
        Self {
            sender,
            lost,
            tracks,
        }
    }

    /// Runs `act` on what is known of this thread; not while the thread itself ends.
    fn seen(&self, rank: usize, act: impl FnOnce(&mut Seen)) {
        let _ = SEEN.try_with(|seen| {
            let mut seen = seen.borrow_mut();
            let known = seen
                .iter()
                .position(|seen| seen.rank == rank && Arc::ptr_eq(&seen.tracks, &self.tracks));
            let place = known.unwrap_or_else(|| {
                seen.push(self.meet(rank));
                seen.len() - 1
            });
            act(&mut seen[place]);
        });
    }

    /// This thread, seen for the first time.
    fn meet(&self, rank: usize) -> Seen {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("thread");
        let track = self.tracks.take(rank, name);
        if track.new {
            self.send(Message::Track {
                rank,
                thread: track.thread,
                name: name.to_owned(),
            });
        }
        Seen {
            tracks: Arc::clone(&self.tracks),
            rank,
            track,
            open: Vec::new(),
        }
    }

    fn begin(&self, rank: usize, name: &'static str, fields: Arc<Map<String, Value>>) {
        let at = Instant::now();
        self.seen(rank, |seen| {
            let room = self.sender.len() < BEHIND;
            seen.open.push(room);
            if room {
                let kind = Kind::Begin { name, fields };
                self.event(seen, at, kind);
            } else {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    fn end(&self, rank: usize) {
        let at = Instant::now();
        self.seen(rank, |seen| {
            if seen.open.pop() == Some(true) {
                self.event(seen, at, Kind::End);
            }
        });
    }

    fn event(&self, seen: &Seen, at: Instant, kind: Kind) {
        self.send(Message::Event(Event {
            rank: seen.rank,
            thread: seen.track.thread,
            at,
            kind,
        }));
    }

    fn send(&self, message: Message) {
        // The trace may be finished.
        let _ = self.sender.send(message);
    }
}

impl<S> Layer<S> for Listener
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let rank = fields.rank.or_else(|| {
            let parent = span.parent()?;
            let extensions = parent.extensions();
            extensions.get::<Known>()?.rank
        });
        span.extensions_mut().insert(Known {
            rank,
            fields: Arc::new(fields.others),
        });
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let known = {
            let extensions = span.extensions();
            let known = extensions.get::<Known>();
            known.and_then(|known| Some((known.rank?, Arc::clone(&known.fields))))
        };
        if let Some((rank, fields)) = known {
            self.begin(rank, span.name(), fields);
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let rank = span
            .extensions()
            .get::<Known>()
            .and_then(|known| known.rank);
        if let Some(rank) = rank {
            self.end(rank);
        }
    }
}

/// The fields of a span.
#[derive(Default)]
struct Fields {
    rank: Option<usize>,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.others.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "rank" {
            self.rank = usize::try_from(value).ok();
        } else {
            self.put(field, value.into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        // A number that is written as it stands in the program is one of these.
        match u64::try_from(value) {
            Ok(value) => self.record_u64(field, value),
            Err(_) => self.put(field, value.into()),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }
}
