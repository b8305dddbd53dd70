//! Accepts the connections of one port while it is open, and bounds what strangers can cost.
//!
//! A connection is pending until its [`Service`] has accepted its handshake; then it is live until the service
//! is done with it. Bounds:
//! - [`PortLimits::pending`] connections are pending at once: for one more, the oldest of them is shut;
//! - [`PortLimits::handshake`] is the time of a handshake;
//! - [`PortLimits::live`] connections are live at once: one more is refused;
//! - [`MAX_REJECTS_PER_SECOND`] connections are turned away in a second: beyond that, new ones wait in the
//!   system's queue.
//!
//! Every connection that was accepted and turned away is counted once, before it is closed.
//!
//! Threads: `NAME` accepts and joins the others; `NAME-N` serves connection N. [`Acceptor::stop`] shuts all
//! sockets and joins the threads.

mod slots;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use parking_lot::Mutex;

#[cfg(test)]
pub(crate) use slots::Census;
use slots::Slots;

use super::rejects::{Reject, RejectCounts, RejectLog};

/// Connections turned away in a second, before new ones have to wait. One costs about 0.1 ms.
const MAX_REJECTS_PER_SECOND: u32 = 1000;
/// Stack of a connection's thread, with room: its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;
/// Pause after the system refused to accept, most often for lack of file handles.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Time for the threads to end once their sockets are shut.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);

/// Bounds of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortLimits {
    /// Connections whose handshake is not done.
    pub(crate) pending: usize,
    /// Connections whose handshake is done.
    pub(crate) live: usize,
    /// Time of a handshake.
    pub(crate) handshake: Duration,
}

/// Handles the connections of a port. Its methods run on the connection's thread.
pub(crate) trait Service: Send + Sync + 'static {
    /// A connection whose handshake is done.
    type Session;

    /// Does the handshake.
    ///
    /// # Errors
    /// The reason to turn the connection away.
    fn handshake(&self, socket: Arc<TcpStream>, deadline: Instant)
    -> Result<Self::Session, Reject>;

    /// Serves a connection until it ends, or hands it over.
    ///
    /// # Errors
    /// The reason to turn the connection away.
    fn serve(&self, session: Self::Session) -> Result<(), Reject>;

    /// Tells a peer, whose handshake is done, why it is turned away.
    fn refuse(&self, _session: Self::Session, _reject: &Reject) {}

    /// Wakes the threads that wait for something else than their socket, because the port closes.
    fn stop(&self) {}
}

/// An open port, until it is stopped or dropped.
pub(crate) struct Acceptor<S: Service> {
    address: SocketAddr,
    shared: Arc<AcceptorState<S>>,
    waker: Waker,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<S: Service> Acceptor<S> {
    /// Accepts connections on a listener. `name` is that of its threads, `port` that of the port in the log.
    ///
    /// # Errors
    /// The system refuses a thread or a way to be woken.
    pub(crate) fn start(
        listener: TcpListener,
        name: String,
        port: &'static str,
        limits: PortLimits,
        service: S,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        let poll = Poll::new()?;
        let registry = poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(registry, WAKER)?;
        let shared = Arc::new(AcceptorState {
            limits,
            service,
            rejects: RejectLog::new(port),
            slots: Slots::new(limits),
        });
        let accepting = Accepting {
            listener,
            poll,
            name: name.clone(),
            shared: Arc::clone(&shared),
            threads: HashMap::new(),
        };
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || accepting.run())?;
        Ok(Self {
            address,
            shared,
            waker,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Returns the address of the port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn service(&self) -> &S {
        &self.shared.service
    }

    /// Returns the number of connections turned away.
    pub(crate) fn rejects(&self) -> RejectCounts {
        self.shared.rejects.counts()
    }

    /// Returns the number of connections.
    #[cfg(test)]
    pub(crate) fn census(&self) -> Census {
        self.shared.slots.census()
    }

    /// Closes the port and every connection that was not handed over, and joins every thread. Returns false if it
    /// was closed before.
    pub(crate) fn stop(&self) -> bool {
        let Some(thread) = self.thread.lock().take() else {
            return false;
        };
        self.shared.slots.shut_all();
        self.shared.service.stop();
        if let Err(error) = self.waker.wake() {
            // A thread that is not told can't be joined.
            tracing::error!("{} did not close: {error}", self.shared.rejects.port());
        } else if thread.join().is_err() {
            tracing::error!("{} ended with a panic", self.shared.rejects.port());
        }
        true
    }
}

impl<S: Service> Drop for Acceptor<S> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<S: Service> fmt::Debug for Acceptor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("address", &self.address)
            .field("rejects", &self.shared.rejects.counts())
            .finish_non_exhaustive()
    }
}

struct AcceptorState<S> {
    limits: PortLimits,
    service: S,
    rejects: RejectLog,
    slots: Slots,
}

impl<S: Service> AcceptorState<S> {
    /// Runs a connection on its own thread, from the handshake to its end.
    fn run(&self, number: u64, socket: Arc<TcpStream>, address: SocketAddr) {
        let slot = self.slots.slot(number);
        let deadline = Instant::now() + self.limits.handshake;
        let outcome = match self.service.handshake(socket, deadline) {
            Err(reject) => Err(slot.check().err().unwrap_or(reject)),
            Ok(session) => match slot.promote() {
                Ok(()) => match self.service.serve(session) {
                    // The port's end cut it off.
                    Err(_) if self.slots.is_stopping() => Ok(()),
                    outcome => outcome,
                },
                Err(reject) => {
                    self.rejects.record(Some(address), &reject);
                    return self.service.refuse(session, &reject);
                }
            },
        };
        if let Err(reject) = outcome {
            self.rejects.record(Some(address), &reject);
        }
    }
}

/// State of the accepting thread.
struct Accepting<S> {
    listener: mio::net::TcpListener,
    poll: Poll,
    name: String,
    shared: Arc<AcceptorState<S>>,
    threads: HashMap<u64, JoinHandle<()>>,
}

impl<S: Service> Accepting<S> {
    fn run(mut self) {
        let mut events = Events::with_capacity(8);
        let mut pause = None;
        while !self.shared.slots.is_stopping() {
            if let Err(error) = self.poll.poll(&mut events, pause)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!("{} stopped: {error}", self.shared.rejects.port());
                break;
            }
            pause = self.accept_all();
            self.join_ended();
        }
        let left = self
            .shared
            .slots
            .wait_until_empty(Instant::now() + STOP_TIMEOUT);
        self.join_ended();
        if left > 0 {
            tracing::error!(
                "{} closed, but {left} of its threads did not end within {STOP_TIMEOUT:?}",
                self.shared.rejects.port()
            );
        }
    }

    /// Accepts until no connection waits. Returns the time after which to try again, unless an event tells.
    fn accept_all(&mut self) -> Option<Duration> {
        while !self.shared.slots.is_stopping() {
            if let Some(pause) = self.shared.rejects.pause(MAX_REJECTS_PER_SECOND) {
                return Some(pause);
            }
            match self.listener.accept() {
                Ok((socket, address)) => {
                    if let Err(error) = self.begin(socket.into(), address) {
                        let reject = Reject::System(error.to_string());
                        self.shared.rejects.record(Some(address), &reject);
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return None,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        let reject = Reject::System(error.to_string());
                        self.shared.rejects.record(None, &reject);
                        return Some(ACCEPT_BACKOFF);
                    }
                },
            }
        }
        None
    }

    /// Starts the thread of a connection.
    fn begin(&mut self, socket: TcpStream, address: SocketAddr) -> io::Result<()> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        let socket = Arc::new(socket);
        let Some(number) = self.shared.slots.admit(&socket) else {
            let reject = Reject::Unfinished;
            self.shared.rejects.record(Some(address), &reject);
            return Ok(());
        };
        self.join_ended();
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name(format!("{}-{number}", self.name))
            .stack_size(STACK_BYTES)
            .spawn(move || shared.run(number, socket, address))
            .inspect_err(|_| drop(self.shared.slots.slot(number)))?;
        self.threads.insert(number, thread);
        Ok(())
    }

    /// Joins the threads of the connections that ended.
    fn join_ended(&mut self) {
        for number in self.shared.slots.take_ended() {
            if let Some(thread) = self.threads.remove(&number) {
                // A panic was printed by the thread itself.
                let _ = thread.join();
            }
        }
    }
}
