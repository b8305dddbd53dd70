//! Dials: attempts to connect with a process, on a thread of their own when somebody needs it.
//!
//! Who has something to send dials; who only receives waits for the sender's dial, until any process has ended: then
//! nobody else may watch over the sender, and who waits for it dials too.
//!
//! A dial that is refused means that the process has ended. Its cause is waited for shortly: it may be on its way.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::connection::Connection;
use super::hello::{Answer, HANDSHAKE_TIMEOUT};
use super::links::LinkState;
use super::mesh::Mesh;
use crate::transport::network::{Cause, Lost};

/// First and longest time between two attempts to connect; it doubles.
pub(super) const RETRY: (Duration, Duration) =
    (Duration::from_millis(5), Duration::from_millis(200));
/// Longest wait for the cause of the end of a process that refuses a connection.
const NEWS_DELAY: Duration = Duration::from_secs(1);
/// Longest wait for a connect between two checks whether the dial is still wanted.
const CONNECT_POLL: Duration = Duration::from_millis(50);
/// Most dials at once. Others wait for their turn.
const MAX_DIALS: usize = 32;
/// Stack of a dial's thread, with room: its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

/// Reason why an attempt made no connection.
pub(super) enum NoConnection {
    /// Nobody listens at the address.
    Refused(String),
    /// It failed otherwise; the next attempt may succeed.
    Failed(String),
    /// There is no use for the attempt, or the other side dials.
    Void,
}

impl Mesh {
    /// Returns the connection with a process; none if it is not there yet. Has it made if this process `sends`, or
    /// if nobody else may watch over the peer.
    ///
    /// # Errors
    /// The process has ended, or this one closes.
    pub(super) fn reach(
        self: &Arc<Self>,
        peer: usize,
        sends: bool,
        deadline: Instant,
    ) -> Result<Option<&Connection>, Lost> {
        if let Some(connection) = self.connection(peer) {
            return Ok(Some(connection));
        }
        let mut links = self.links.lock();
        if links.is_closing {
            return Err(self.lost(peer, Cause::Stopped));
        }
        let link = links.get(peer);
        if let (Some(cause), false) = (&link.end, link.is_accepting()) {
            // It may have been joined before it ended.
            return match self.connection(peer) {
                Some(connection) => Ok(Some(connection)),
                None => Err(self.lost(peer, cause.clone())),
            };
        }
        if !matches!(link.state, LinkState::Apart) || !(sends || self.is_thin()) {
            return Ok(None);
        }
        if let Some(dial) = &mut links.get_mut(peer).dial {
            dial.until = dial.until.max(deadline);
            return Ok(None);
        }
        if links.dials() >= MAX_DIALS {
            return Ok(None);
        }
        let mesh = self.clone();
        let started = thread::Builder::new()
            .name(format!("burn-dist-connect-{}-{peer}", self.process))
            .stack_size(STACK_BYTES)
            .spawn(move || mesh.run_dial(peer));
        match started {
            Ok(thread) => {
                links.set_dial(peer, deadline);
                let mut threads = self.dials.lock();
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
                Ok(None)
            }
            Err(error) => {
                let detail = format!("no thread to connect with it: {error}");
                Err(self.lost(peer, Cause::Disconnected(detail.into())))
            }
        }
    }

    /// Returns the error of a wait for a connection that ends at its deadline after `elapsed`. Only who `sends` is told
    /// why its dials failed: a message that does not come may just be late.
    pub(super) fn late(&self, peer: usize, sends: bool, elapsed: Duration) -> Lost {
        let links = self.links.lock();
        let cause = match &links.get(peer).failure {
            Some(failure) if sends => Cause::Disconnected(
                format!(
                    "no connection within {:.1} s: {failure}",
                    elapsed.as_secs_f64()
                )
                .into(),
            ),
            _ => Cause::Deadline(elapsed),
        };
        self.lost(peer, cause)
    }

    /// Dials a process until there is a connection, or nobody needs one.
    fn run_dial(self: Arc<Self>, peer: usize) {
        let mut pause = RETRY.0;
        loop {
            match self.attempt(peer, Instant::now() + HANDSHAKE_TIMEOUT) {
                Err(NoConnection::Refused(reason)) => {
                    if !self.await_end(peer, Instant::now() + NEWS_DELAY) {
                        self.lose(peer, Cause::Disconnected(reason.into()), None);
                    }
                }
                Err(NoConnection::Failed(reason)) => {
                    self.links.lock().get_mut(peer).failure = Some(reason);
                }
                Ok(()) | Err(NoConnection::Void) => {}
            }
            let next = Instant::now() + pause;
            pause = (pause * 2).min(RETRY.1);
            if self.is_done(peer, next) {
                return;
            }
        }
    }

    /// Waits for the next attempt. Returns true, and ends the dial, if none is needed.
    fn is_done(&self, peer: usize, next: Instant) -> bool {
        let mut links = self.links.lock();
        loop {
            let link = links.get(peer);
            let now = Instant::now();
            let is_late = link.dial.as_ref().is_none_or(|dial| dial.until <= now);
            let is_joined = matches!(link.state, LinkState::Joined);
            if links.is_closing || is_joined || link.end.is_some() || is_late {
                links.end_dial(peer);
                drop(links);
                self.changed.notify_all();
                return true;
            }
            if now >= next {
                return false;
            }
            self.changed.wait_until(&mut links, next);
        }
    }

    /// Waits until the end of a process is known, or a connection is there or on its way. Returns false at the
    /// deadline.
    fn await_end(&self, peer: usize, deadline: Instant) -> bool {
        let mut links = self.links.lock();
        loop {
            let link = links.get(peer);
            let is_apart = matches!(link.state, LinkState::Apart);
            if links.is_closing || link.end.is_some() || !is_apart {
                return true;
            }
            if self.changed.wait_until(&mut links, deadline).timed_out() {
                return false;
            }
        }
    }

    /// Tries once to make a connection with a process.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(super) fn attempt(&self, peer: usize, deadline: Instant) -> Result<(), NoConnection> {
        let Some(number) = self.links.lock().begin_dial(peer) else {
            return Err(NoConnection::Void);
        };
        let made = self.attempt_as(peer, number, deadline);
        if made.is_err() && !self.release(peer, number) {
            // It was given up, and failed for that reason alone.
            return Err(NoConnection::Void);
        }
        made
    }

    fn attempt_as(&self, peer: usize, number: u64, deadline: Instant) -> Result<(), NoConnection> {
        let failed = |reason: &dyn std::fmt::Display| NoConnection::Failed(reason.to_string());
        let is_shut = || self.links.lock().is_shut(peer);
        let socket = open_socket(self.address(peer), deadline, &is_shut).map_err(|error| {
            if error.kind() == ErrorKind::ConnectionRefused {
                NoConnection::Refused(error.to_string())
            } else {
                failed(&error)
            }
        })?;
        let socket = Arc::new(socket);
        if !self.links.lock().keep_socket(peer, number, &socket) {
            return Err(NoConnection::Void);
        }
        let shaken = self.identity.dial(socket, deadline);
        let (channel, hello) = shaken.map_err(|reject| failed(&reject))?;
        if hello.process != peer {
            let reason = format!("process {} is at that address", hello.process);
            return Err(NoConnection::Failed(reason));
        }
        match hello.answer {
            Answer::Accepted => match self.join(peer, number, channel, true) {
                Ok(true) => Ok(()),
                Ok(false) => Err(NoConnection::Void),
                Err(error) => Err(failed(&error)),
            },
            Answer::Busy => Err(NoConnection::Void),
            Answer::Connected => Err(failed(&"it has a connection with this process already")),
            Answer::Refused => Err(failed(&"it takes no connection of this process")),
        }
    }
}

/// Connects a socket. Gives up early once `is_shut`.
fn open_socket(
    address: SocketAddr,
    deadline: Instant,
    is_shut: &dyn Fn() -> bool,
) -> io::Result<TcpStream> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error)
            if error.kind() != ErrorKind::WouldBlock
                && Errno::from_io_error(&error) != Some(Errno::INPROGRESS) =>
        {
            return Err(error);
        }
        Ok(()) | Err(_) => {}
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        if is_shut() {
            return Err(io::Error::other("it is no longer needed"));
        }
        let mut polled = [PollFd::new(&socket, PollFlags::OUT)];
        // Less than a second.
        let time = Timespec::try_from(left.min(CONNECT_POLL)).unwrap_or_default();
        match poll(&mut polled, Some(&time)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}
