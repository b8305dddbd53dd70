//! The connections of one process with the others: those of the overlay, which are there from the start, and those
//! that are made when they are needed.
//!
//! Locks are taken in the order links, open connections, state of a connection; and news, open connections, state
//! of a connection.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use socket2::{SockRef, TcpKeepalive};

use super::connect::NetworkConfig;
use super::connection::Connection;
use super::context::ConnectionContext;
use super::hello::{Answer, JobIdentity};
use super::links::{LinkState, Links};
use super::news::News;
use super::overlay;
use super::write::QueuedFrame;
use crate::net::channel::Channel;
use crate::transport::network::{Cause, Lost};
use crate::transport::watchers::Watchers;

/// The connections of one process with the others.
pub(super) struct Mesh {
    pub(super) process: usize,
    pub(super) identity: JobIdentity,
    pub(super) heartbeat: Duration,
    peers: Box<[Peer]>,
    /// The neighbours in the overlay, in ascending order.
    pub(super) neighbours: Vec<usize>,
    pub(super) links: Mutex<Links>,
    /// Notified when a link changes, a process ends, or the mesh closes.
    pub(super) changed: Condvar,
    /// All connections that were made, also those that have ended.
    open: RwLock<Vec<Arc<Connection>>>,
    /// True once any process has ended. The overlay may no longer connect the others.
    is_thin: AtomicBool,
    /// True once the reader must end.
    is_over: AtomicBool,
    /// Threads that dial on need.
    pub(super) dials: Mutex<Vec<JoinHandle<()>>>,
    pub(super) news: News,
    pub(super) watchers: Watchers,
    pub(super) shared: Arc<ConnectionContext>,
}

struct Peer {
    address: SocketAddr,
    connection: OnceLock<Arc<Connection>>,
}

impl Mesh {
    /// Creates the mesh of a process without connections.
    ///
    /// # Errors
    /// The system refuses sockets.
    pub(super) fn new(place: &NetworkConfig) -> io::Result<Arc<Self>> {
        let processes = place.addresses.len();
        let peers = place.addresses.iter().map(|address| Peer {
            address: *address,
            connection: OnceLock::new(),
        });
        Ok(Arc::new(Self {
            process: place.process,
            identity: JobIdentity::new(place),
            heartbeat: place.heartbeat,
            peers: peers.collect(),
            neighbours: overlay::neighbours(place.process, processes),
            links: Mutex::new(Links::new(place.process, processes)),
            changed: Condvar::new(),
            open: RwLock::default(),
            is_thin: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            dials: Mutex::default(),
            news: News::new(processes),
            watchers: Watchers::default(),
            shared: ConnectionContext::new()?,
        }))
    }

    pub(super) fn processes(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn address(&self, peer: usize) -> SocketAddr {
        self.peers[peer].address
    }

    /// Returns the connection with a process, if one was made.
    pub(super) fn connection(&self, process: usize) -> Option<&Arc<Connection>> {
        self.peers.get(process)?.connection.get()
    }

    /// Returns the connections that were made after the first `known` ones.
    pub(super) fn newer(&self, known: usize) -> Vec<Arc<Connection>> {
        self.open.read().iter().skip(known).cloned().collect()
    }

    /// Returns all connections that were made.
    pub(super) fn all(&self) -> Vec<Arc<Connection>> {
        self.newer(0)
    }

    /// Returns the connections that carry heartbeats and news.
    pub(super) fn carriers(&self) -> Vec<Arc<Connection>> {
        let is_thin = self.is_thin();
        let open = self.open.read();
        let carriers = open.iter().filter(|one| is_thin || one.is_overlay());
        carriers.cloned().collect()
    }

    /// Returns the sum of a figure of all connections that were made.
    pub(super) fn sum(&self, figure: impl Fn(&Connection) -> u64) -> u64 {
        self.open.read().iter().map(|one| figure(one)).sum()
    }

    /// Returns true once any process has ended.
    pub(super) fn is_thin(&self) -> bool {
        self.is_thin.load(Ordering::Acquire)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Has the reader end.
    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
        self.shared.reader.wake();
    }

    pub(super) fn lost(&self, process: usize, cause: Cause) -> Lost {
        let peer = self.peers.get(process);
        Lost {
            process,
            address: peer.map_or_else(|| "no address".to_owned(), |peer| peer.address.to_string()),
            cause,
        }
    }

    /// Returns an error unless a number is that of another process.
    pub(super) fn find(&self, process: usize) -> Result<(), Lost> {
        if process < self.processes() && process != self.process {
            return Ok(());
        }
        let detail = "this process has no connection with it";
        Err(self.lost(process, Cause::Malformed(detail.into())))
    }

    /// Returns an error if a process has ended, as far as is known.
    pub(super) fn check(&self, process: usize) -> Result<(), Lost> {
        self.find(process)?;
        if let Some(connection) = self.connection(process) {
            return connection.check_sends();
        }
        let links = self.links.lock();
        match &links.get(process).end {
            _ if links.is_closing => Err(self.lost(process, Cause::Stopped)),
            Some(cause) => Err(self.lost(process, cause.clone())),
            None => Ok(()),
        }
    }

    /// Returns a process that is lost, if there is one. One that left in good order is not.
    pub(super) fn any_lost(&self) -> Option<Lost> {
        if !self.is_thin() {
            return None;
        }
        let links = self.links.lock();
        let ends = links.all().map(|link| &link.end).enumerate();
        let mut lost = ends.filter_map(|(process, end)| Some((process, end.clone()?)));
        let lost =
            lost.find(|(process, end)| *process != self.process && !matches!(end, Cause::Left));
        lost.map(|(process, cause)| self.lost(process, cause))
    }

    /// Returns true if the others take this process for lost.
    pub(super) fn is_cast_out(&self) -> bool {
        self.links.lock().get(self.process).end.is_some()
    }

    /// Returns the neighbours without a connection.
    pub(super) fn missing(&self) -> Vec<usize> {
        let all = self.neighbours.iter().copied();
        all.filter(|peer| self.connection(*peer).is_none())
            .collect()
    }

    /// Waits until there is a connection with every neighbour. Returns false at the deadline.
    pub(super) fn wait_until_complete(&self, deadline: Instant) -> bool {
        let mut links = self.links.lock();
        while !self.missing().is_empty() {
            if self.changed.wait_until(&mut links, deadline).timed_out() {
                return self.missing().is_empty();
            }
        }
        true
    }

    /// Waits until a link changes, at most for this time.
    pub(super) fn wait(&self, time: Duration) {
        self.changed.wait_for(&mut self.links.lock(), time);
    }

    /// Answers the hello of a process that dials this one. An accepted one has the number of its attempt.
    pub(super) fn answer(&self, peer: usize) -> (Answer, Option<u64>) {
        let answer = self.links.lock().answer(peer);
        self.changed.notify_all();
        answer
    }

    /// Makes the connection of an attempt. `confirms` has the peer told, which accepted it. Returns false if the
    /// attempt is void.
    ///
    /// # Errors
    /// The system refuses an option of the socket.
    pub(super) fn join(
        &self,
        peer: usize,
        attempt: u64,
        channel: Channel,
        confirms: bool,
    ) -> io::Result<bool> {
        prepare(channel.socket(), self.heartbeat)?;
        let is_overlay = self.neighbours.binary_search(&peer).is_ok();
        let address = self.peers[peer].address.to_string();
        let shared = self.shared.clone();
        let connection = Arc::new(Connection::new(
            (peer, address),
            is_overlay,
            channel,
            shared,
        ));
        if confirms {
            connection.queue(QueuedFrame::confirmation());
        }
        {
            let mut links = self.links.lock();
            if !links.holds(peer, attempt) {
                return Ok(false);
            }
            if self.is_thin() {
                connection.queue(QueuedFrame::heartbeat());
            }
            let link = links.get_mut(peer);
            link.state = LinkState::Joined;
            link.may_cross = confirms;
            // A link is joined once.
            let _ = self.peers[peer].connection.set(connection.clone());
            self.open.write().push(connection.clone());
        }
        self.changed.notify_all();
        self.shared.reader.wake();
        connection.send_soon();
        Ok(true)
    }

    /// Ends an attempt without a connection. Returns false if it was void.
    pub(super) fn release(&self, peer: usize, attempt: u64) -> bool {
        let was_held = self.links.lock().release(peer, attempt);
        self.changed.notify_all();
        was_held
    }

    /// Notes the end of a process. Returns false if it was known.
    pub(super) fn note_end(&self, process: usize, cause: &Cause) -> bool {
        let is_first = {
            let mut links = self.links.lock();
            if !links.end(process, cause) {
                return false;
            }
            // Under the lock, so that no connection is made in between.
            !self.is_thin.swap(true, Ordering::AcqRel)
        };
        self.changed.notify_all();
        if is_first {
            let all = self.all();
            for connection in all.iter().filter(|connection| !connection.is_overlay()) {
                connection.queue(QueuedFrame::heartbeat());
                connection.send_soon();
            }
        }
        true
    }

    /// Notes the end of a connection, which its reader found.
    pub(super) fn connection_ended(&self, connection: &Connection, cause: Cause) {
        match cause {
            Cause::Stopped => {}
            Cause::Left => {
                self.note_end(connection.peer(), &Cause::Left);
            }
            cause => self.lose(connection.peer(), cause, None),
        }
    }

    /// Takes no new connections, and waits until none is half made: who was accepted may count on it. Then all
    /// dials have ended.
    pub(super) fn close_doors(&self, deadline: Instant) {
        let mut links = self.links.lock();
        links.close();
        self.changed.notify_all();
        while links.all().any(super::links::PeerLink::is_accepting) {
            if self.changed.wait_until(&mut links, deadline).timed_out() {
                break;
            }
        }
        drop(links);
        let dials = std::mem::take(&mut *self.dials.lock());
        for dial in dials {
            // Its panic was printed when it happened.
            let _ = dial.join();
        }
    }
}

/// Sets the options of a connection's socket.
fn prepare(stream: &TcpStream, heartbeat: Duration) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    // Heartbeats find a dead peer first. Keepalive frees the system's side of it if this process itself is
    // stopped for long. The system counts in seconds.
    let idle = heartbeat.max(Duration::from_secs(1));
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
}
