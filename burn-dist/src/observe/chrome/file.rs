//! The thread that writes a trace: one line an event, of the array that the format is.

use super::Clock;
use super::tracks::process;
use crossbeam::channel::{Receiver, TryRecvError};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

/// Message to the thread of the file.
pub(super) enum Message {
    /// A track that is used from now on.
    Track {
        rank: usize,
        thread: u64,
        name: String,
    },
    Event(Event),
    /// The trace is complete.
    End,
}

/// Something happened to a span.
pub(super) struct Event {
    pub(super) rank: usize,
    pub(super) thread: u64,
    pub(super) at: Instant,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Begin {
        name: &'static str,
        fields: Arc<Map<String, Value>>,
    },
    End,
}

/// Writes what comes until the end. After an error the rest is left in the channel, which goes with the
/// thread: whoever sends does not wait.
pub(super) fn write(file: File, inbox: &Receiver<Message>, clock: Clock) -> io::Result<()> {
    let mut lines = Lines {
        file: BufWriter::new(file),
        started: false,
    };
    loop {
        let message = match inbox.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // Nothing more for now: let others see it.
                lines.file.flush()?;
                match inbox.recv() {
                    Ok(message) => message,
                    Err(_) => break,
                }
            }
        };
        match message {
            Message::Track { rank, thread, name } => lines.track(rank, thread, &name)?,
            Message::Event(event) => lines.event(event, clock)?,
            Message::End => break,
        }
    }
    lines.end()
}

struct Lines {
    file: BufWriter<File>,
    started: bool,
}

impl Lines {
    fn line(&mut self, value: &Value) -> io::Result<()> {
        let before = if self.started { ",\n" } else { "[\n" };
        self.started = true;
        write!(self.file, "{before}{value}")
    }

    fn end(&mut self) -> io::Result<()> {
        let before = if self.started { "\n" } else { "[" };
        writeln!(self.file, "{before}]")?;
        self.file.flush()
    }

    fn track(&mut self, rank: usize, thread: u64, name: &str) -> io::Result<()> {
        let process = process(rank);
        let mut tell = |what: &str, key: &str, value: Value| {
            let arguments = Map::from_iter([(key.to_owned(), value)]);
            self.line(&json!({
                "ph": "M", "pid": process, "tid": thread, "name": what, "args": arguments,
            }))
        };
        tell("process_name", "name", format!("rank {rank}").into())?;
        tell("process_sort_index", "sort_index", rank.into())?;
        tell("thread_name", "name", name.into())?;
        tell("thread_sort_index", "sort_index", order(name).into())
    }

    fn event(&mut self, event: Event, clock: Clock) -> io::Result<()> {
        let (process, thread) = (process(event.rank), event.thread);
        // Microseconds; a double holds those since 1970 to a quarter of one, in steps that never go back.
        let time = clock.nanoseconds(event.at) as f64 / 1000.0;
        self.line(&match event.kind {
            Kind::Begin { name, fields } => json!({
                "ph": "B", "pid": process, "tid": thread, "ts": time, "name": name, "args": *fields,
            }),
            Kind::End => json!({ "ph": "E", "pid": process, "tid": thread, "ts": time }),
        })
    }
}

/// Returns the position of a thread among those of its rank: computation first, then averaging, then the rest.
fn order(thread: &str) -> usize {
    let kinds = ["burn-dist-rank-", "burn-dist-reducer-", "burn-dist-comm-"];
    let found = kinds.iter().position(|kind| thread.starts_with(kind));
    found.unwrap_or(kinds.len())
}
