//! The store's server.
//!
//! Threads: `burn-dist-store` accepts connections and owns the handles of the other threads, which it
//! joins; `burn-dist-store-N` proves a connection and then serves it. Whoever stops the server joins the
//! first.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use super::connections::{Census, Connections, Seat};
use super::table::Table;
use super::wire::{self, Reply, Request, Unread};
use super::{Limits, PURPOSE, same_job};
use crate::rendezvous::auth::{self, Rejected, Role};
use crate::rendezvous::channel::Channel;
use crate::rendezvous::rejects::{Ledger, Reject, Rejects};
use crate::rendezvous::secret::Secret;
use crate::rendezvous::tls::Tls;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// What a connection's thread needs, with room: its buffers are on the heap.
const STACK: usize = 256 << 10;
/// When to try again after the system refused to accept (no file handles left, most often).
const PAUSE: Duration = Duration::from_millis(50);

/// A server, until it is shut down or dropped.
pub(crate) struct StoreServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    waker: Waker,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    secret: Secret,
    tls: Option<Tls>,
    /// The job's name.
    job: String,
    limits: Limits,
    table: Table,
    connections: Connections,
    ledger: Ledger,
}

impl StoreServer {
    /// Serves the store of the job with this name on a listener, with TLS if there are certificates.
    ///
    /// # Errors
    ///
    /// What the system says if it refuses a thread or a way to be woken.
    pub(crate) fn start(
        listener: TcpListener,
        secret: Secret,
        tls: Option<Tls>,
        job: &str,
        limits: Limits,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let mut listener = mio::net::TcpListener::from_std(listener);
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let shared = Arc::new(Shared {
            table: Table::new(&limits),
            connections: Connections::new(&limits),
            ledger: Ledger::new("the job's store"),
            secret,
            tls,
            job: job.to_owned(),
            limits,
        });
        let mut reception = Reception {
            listener,
            poll,
            shared: Arc::clone(&shared),
            threads: HashMap::new(),
        };
        let accepting = thread::Builder::new()
            .name("burn-dist-store".to_owned())
            .spawn(move || reception.run())?;
        Ok(Self {
            address,
            shared,
            waker,
            accepting: Some(accepting),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it turned away.
    pub(crate) fn rejected(&self) -> Rejects {
        self.shared.ledger.counts()
    }

    /// How many connections it has.
    pub(crate) fn census(&self) -> Census {
        self.shared.connections.census()
    }

    /// Closes every connection and joins every thread.
    pub(crate) fn shutdown(&mut self) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        self.shared.connections.stop();
        self.shared.table.close();
        if let Err(error) = self.waker.wake() {
            // The accepting thread can't be told, so it can't be joined either.
            tracing::error!("the job's store could not be stopped: {error}");
            return;
        }
        if accepting.join().is_err() {
            tracing::error!("the job's store ended with a panic");
        }
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl std::fmt::Debug for StoreServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreServer")
            .field("address", &self.address)
            .field("connections", &self.census())
            .field("rejected", &self.rejected())
            .finish_non_exhaustive()
    }
}

/// What the accepting thread owns.
struct Reception {
    listener: mio::net::TcpListener,
    poll: Poll,
    shared: Arc<Shared>,
    threads: HashMap<u64, JoinHandle<()>>,
}

impl Reception {
    fn run(&mut self) {
        let mut events = Events::with_capacity(8);
        let mut pause = None;
        while !self.shared.connections.is_stopping() {
            if let Err(error) = self.poll.poll(&mut events, pause)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!("the job's store takes no more connections: {error}");
                break;
            }
            pause = self.accept_all();
            self.join_those_who_left();
        }
        for (_, thread) in self.threads.drain() {
            // It was logged where it happened, and the store does not depend on it.
            let _ = thread.join();
        }
    }

    /// Accepts until nobody waits; gives the time after which to look again where that is not known.
    fn accept_all(&mut self) -> Option<Duration> {
        loop {
            match self.listener.accept() {
                Ok((stream, address)) => self.receive(stream.into(), address),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return None,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        let reject = Reject::System(error.to_string());
                        self.shared.ledger.record(None, &reject);
                        return Some(PAUSE);
                    }
                },
            }
            if self.shared.connections.is_stopping() {
                return None;
            }
        }
    }

    fn receive(&mut self, stream: TcpStream, address: SocketAddr) {
        let started = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_nodelay(true))
            .and_then(|()| stream.try_clone());
        let started = started.and_then(|handle| {
            let Some(number) = self.shared.connections.admit(handle) else {
                self.shared
                    .ledger
                    .record(Some(address), &Reject::Unfinished);
                return Ok(());
            };
            self.join_those_who_left();
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new()
                .name(format!("burn-dist-store-{number}"))
                .stack_size(STACK)
                .spawn(move || shared.attend(number, stream, address))
                .inspect_err(|_| drop(self.shared.connections.seat(number)))?;
            self.threads.insert(number, thread);
            Ok(())
        });
        if let Err(error) = started {
            let reject = Reject::System(error.to_string());
            self.shared.ledger.record(Some(address), &reject);
        }
    }

    fn join_those_who_left(&mut self) {
        for number in self.shared.connections.take_left() {
            if let Some(thread) = self.threads.remove(&number) {
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    /// A connection's life, on its own thread. A reject is counted before the connection is closed.
    fn attend(&self, number: u64, socket: TcpStream, address: SocketAddr) {
        let seat = self.connections.seat(number);
        let stream = match self.prove(&seat, socket) {
            Ok(stream) => Arc::new(stream),
            Err(reject) => return self.ledger.record(Some(address), &reject),
        };
        if let Err(reject) = seat.promote(&stream) {
            self.ledger.record(Some(address), &reject);
            let reply = Reply::Refused(reject.to_string());
            // Courtesy: it is turned away whether it hears it or not.
            let _ = wire::send(&*stream, &reply, Instant::now() + self.limits.request);
        } else if let Err(reject) = self.serve(&stream)
            && !self.connections.is_stopping()
        {
            // Where the server goes, it was the server that cut a request off.
            self.ledger.record(Some(address), &reject);
        }
    }

    fn prove(&self, seat: &Seat<'_>, socket: TcpStream) -> Result<Channel, Reject> {
        let proved = self.shake_hands(socket);
        proved.map_err(|rejected| match rejected {
            _ if seat.displaced() => Reject::Crowded,
            _ if self.connections.is_stopping() => Reject::Unfinished,
            rejected => Reject::Unproved(rejected),
        })
    }

    fn shake_hands(&self, socket: TcpStream) -> Result<Channel, Rejected> {
        let deadline = Instant::now() + self.limits.proof;
        let role = Role::Accepts;
        let stream = Channel::open(socket, self.tls.as_ref(), role, deadline)?;
        let hello = self.job.as_bytes();
        let theirs = auth::authenticate(&stream, &self.secret, role, PURPOSE, hello, deadline)?;
        same_job(&self.job, &theirs)?;
        Ok(stream)
    }

    /// Answers requests until the client leaves. A client that is cut off is no reject; if it stood for a
    /// process, that one is gone.
    fn serve(&self, stream: &Channel) -> Result<(), Reject> {
        let mut process = None;
        let outcome = self.answer_all(stream, &mut process);
        if let Some(process) = process
            && !self.connections.is_stopping()
        {
            self.table.note_gone(process);
        }
        outcome
    }

    fn answer_all(&self, stream: &Channel, process: &mut Option<usize>) -> Result<(), Reject> {
        loop {
            let request: Request = match wire::receive_next(stream, self.limits.request) {
                Ok(request) => request,
                Err(Unread::Malformed(what)) => return Err(Reject::Malformed(what)),
                Err(Unread::Ended | Unread::Broken(_)) => return Ok(()),
            };
            match request {
                Request::Announce { process: told } => *process = Some(told),
                Request::Leave => *process = None,
                _ => {}
            }
            let reply = self.table.answer(request);
            if wire::send(stream, &reply, Instant::now() + self.limits.request).is_err() {
                return Ok(());
            }
        }
    }
}
