//! The network's reader: one thread that reads all connections which no exchange reads.
//!
//! A round does what each connection needs, and then waits for the sockets. It leaves a connection alone while
//! exchanges read it: it would only be woken by what they read themselves. The reader alone finds the ends of
//! connections, and tells the watchers; it holds no lock and no right to read meanwhile.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::{Connection, ReaderTask};
use super::mesh::Mesh;
use super::news::NewsEvent;
use crate::transport::network::Cause;

#[cfg(not(unix))]
use std::net::TcpStream as Pipe;
#[cfg(unix)]
use std::os::unix::net::UnixStream as Pipe;

/// Longest wait for the sockets. Less than a second.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// Wakes the reader from its wait for the sockets.
pub(super) struct ReaderWaker {
    is_called: AtomicBool,
    sender: Pipe,
    receiver: Pipe,
}

impl ReaderWaker {
    pub(super) fn new() -> io::Result<Self> {
        let (sender, receiver) = pipe()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Self {
            is_called: AtomicBool::new(false),
            sender,
            receiver,
        })
    }

    /// Has the reader do a round soon.
    pub(super) fn wake(&self) {
        if !self.is_called.swap(true, Ordering::AcqRel) {
            // A pipe that takes no more is full of calls.
            let _ = (&self.sender).write(&[1]);
        }
    }

    /// Begins a round, in which all that was called for before is done.
    fn begin_round(&self) {
        // Sees what was done before a call, or has the caller write again.
        self.is_called.swap(false, Ordering::AcqRel);
    }

    /// Takes the calls that ended a wait. A later one calls again.
    fn clear(&self) {
        let mut calls = [0; 64];
        loop {
            match (&self.receiver).read(&mut calls) {
                Ok(count) if count == calls.len() => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
    }
}

#[cfg(unix)]
fn pipe() -> io::Result<(Pipe, Pipe)> {
    Pipe::pair()
}

#[cfg(not(unix))]
fn pipe() -> io::Result<(Pipe, Pipe)> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let sender = Pipe::connect(listener.local_addr()?)?;
    loop {
        let (receiver, address) = listener.accept()?;
        // Anybody on this machine may connect in between.
        if address == sender.local_addr()? {
            sender.set_nodelay(true)?;
            return Ok((sender, receiver));
        }
    }
}

/// The connections that a reader looks after.
pub(super) struct Reader<'m> {
    mesh: &'m Mesh,
    /// Number of connections that were taken over from the mesh.
    known: usize,
    /// Those that have not ended.
    open: Vec<Arc<Connection>>,
}

impl<'m> Reader<'m> {
    pub(super) fn new(mesh: &'m Mesh) -> Self {
        Self {
            mesh,
            known: 0,
            open: Vec::new(),
        }
    }

    /// Reads until the mesh is over.
    pub(super) fn run(mut self) {
        loop {
            self.mesh.shared.reader.begin_round();
            // Not before: the last call may be for this.
            if self.mesh.is_over() {
                return;
            }
            self.round(MAX_WAIT);
        }
    }

    /// Reads until all connections have ended, at most until the deadline.
    pub(super) fn run_until_ended(mut self, deadline: Instant) {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.mesh.shared.reader.begin_round();
            self.round(left.min(MAX_WAIT));
            if self.open.is_empty() || left.is_zero() {
                return;
            }
        }
    }

    fn round(&mut self, mut wait: Duration) {
        let mesh = self.mesh;
        tell_watchers(mesh);
        let new = mesh.newer(self.known);
        self.known += new.len();
        self.open.extend(new);
        let mut polled = Vec::with_capacity(self.open.len());
        self.open.retain(|connection| {
            let (task, is_blocked) = connection.reader_task();
            let mut events = PollFlags::empty();
            events.set(PollFlags::OUT, is_blocked);
            match task {
                ReaderTask::Report(cause) => {
                    mesh.connection_ended(connection, cause);
                    // The watchers may have to be told.
                    wait = Duration::ZERO;
                    return false;
                }
                ReaderTask::Leave(time) => wait = wait.min(time),
                ReaderTask::Read => {
                    connection.read_all(mesh);
                    // What was read may have more tasks.
                    wait = Duration::ZERO;
                }
                ReaderTask::Poll => events |= PollFlags::IN,
            }
            polled.push(events);
            true
        });
        if !wait.is_zero() {
            self.poll(&polled, wait);
        }
    }

    /// Waits for the sockets, and reads and writes those that are ready.
    fn poll(&self, events: &[PollFlags], wait: Duration) {
        let sockets = self.open.iter().zip(events);
        let sockets: Vec<_> = sockets.filter(|(_, events)| !events.is_empty()).collect();
        let calls = PollFd::new(&self.mesh.shared.reader.receiver, PollFlags::IN);
        let mut polled = vec![calls];
        let fds = sockets
            .iter()
            .map(|(connection, events)| PollFd::new(connection.stream.socket(), **events));
        polled.extend(fds);
        // Less than a second.
        let time = Timespec::try_from(wait).unwrap_or_default();
        // An interrupted wait finds nothing, and the next round waits again.
        if poll(&mut polled, Some(&time)).is_err() {
            return;
        }
        if !polled[0].revents().is_empty() {
            self.mesh.shared.reader.clear();
        }
        for ((connection, _), found) in sockets.into_iter().zip(&polled[1..]) {
            let found = found.revents();
            if found.contains(PollFlags::OUT) {
                connection.send_soon();
            }
            if found.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                connection.read_all(self.mesh);
            }
        }
    }
}

/// Tells the watchers what has happened.
fn tell_watchers(mesh: &Mesh) {
    for event in mesh.news.take() {
        match event {
            NewsEvent::Lost(lost) => mesh.watchers.lost(lost),
            NewsEvent::Notice(from, notice) => {
                if !mesh.watchers.notice(from, notice) {
                    let detail = "more notices than anybody has heard";
                    mesh.lose(from, Cause::Malformed(detail.into()), None);
                }
            }
        }
    }
}
