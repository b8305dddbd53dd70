//! The TCP network of a job: one authenticated connection for each pair of processes, used in both directions
//! at once.
//!
//! - `port`: the port of this process, which authenticates the other processes;
//! - `connect`, `gather`: bring the connections up;
//! - `frame`, `decoder`: the wire format, and frames from a stream of bytes;
//! - `connection`, `write`, `read`: one connection, whose socket never blocks;
//! - `exchange`: messages sent and received at once, on several connections;
//! - `heartbeat`: heartbeats, and the detection of silent peers.
//!
//! Threads, which all end in [`TcpNetwork::close`] or when the network is dropped: a reader for each connection
//! (`burn-dist-net-<process>-<peer>`), which reads while no exchange does, the heartbeat thread
//! (`burn-dist-net-<process>-heartbeat`), and those of the port (`burn-dist-accept-<process>`). The threads that call [`Network::exchange`] write messages, and read
//! them while they wait.
//!
//! With certificates the connections are encrypted (`net/channel`). An end of the stream without a goodbye
//! is a broken connection, so nobody on the way can forge an end in good order.
//!
//! A broken connection is found at once; a frozen process or a silent network within a heartbeat and a quarter
//! of a second.
//!
//! Messages not asked for are kept, without a limit, until their group is gone or the connection closed: the
//! collectives send only messages that are expected.

pub(crate) mod connect;
mod connection;
mod decoder;
mod exchange;
mod frame;
mod gather;
mod heartbeat;
mod port;
mod read;
mod write;

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};

use super::network::{Cancel, Cause, Come, Incoming, Lost, Network, Outgoing, Tag, Watcher};
use super::watchers::Watchers;
use crate::net::acceptor::Acceptor;
use crate::net::channel::Channel;
#[cfg(test)]
use crate::net::rejects::RejectCounts;
use connection::Connection;
#[cfg(any(test, fuzzing))]
pub(crate) use decoder::fuzzing::check as check_frames;
#[cfg(test)]
pub(crate) use decoder::fuzzing::seeds as frame_seeds;
use exchange::Exchange;
use heartbeat::Waker;
use port::Port;
#[cfg(any(test, fuzzing))]
pub(crate) use port::check_hello;
#[cfg(test)]
pub(crate) use port::hello_seed;
use write::QueuedFrame;

/// The connections of one process with all others.
pub(crate) struct TcpNetwork {
    process: usize,
    /// By process; none for this one.
    connections: Vec<Option<Arc<Connection>>>,
    watchers: Arc<Watchers>,
    waker: Arc<Waker>,
    heartbeat: Duration,
    /// Messages sent so far.
    messages: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// None in tests without a port.
    port: Option<Acceptor<Port>>,
}

impl TcpNetwork {
    /// Starts the network on connections that are up. `streams` are by process, none for this one. `port` is that
    /// of this process, open until the network is closed.
    ///
    /// # Errors
    /// The system refuses a thread or an option of a socket.
    fn start(
        process: usize,
        streams: Vec<Option<Channel>>,
        heartbeat: Duration,
        port: Option<Acceptor<Port>>,
    ) -> io::Result<Self> {
        let waker = Arc::new(Waker::default());
        let mut connections = Vec::with_capacity(streams.len());
        for (peer, stream) in streams.into_iter().enumerate() {
            connections.push(match stream {
                Some(stream) => {
                    prepare(stream.socket(), heartbeat)?;
                    Some(Arc::new(Connection::new(peer, stream, waker.clone())))
                }
                None => None,
            });
        }
        let network = Self {
            process,
            connections,
            watchers: Arc::default(),
            waker,
            heartbeat,
            messages: AtomicU64::new(0),
            threads: Mutex::default(),
            port,
        };
        // If a thread is refused, dropping the network ends those that were started.
        network.start_threads()?;
        Ok(network)
    }

    fn start_threads(&self) -> io::Result<()> {
        let mut threads = self.threads.lock();
        for connection in self.all() {
            connection.queue(QueuedFrame::heartbeat());
            let (connection, watchers) = (connection.clone(), self.watchers.clone());
            let name = format!("burn-dist-net-{}-{}", self.process, connection.peer());
            threads.push(
                thread::Builder::new()
                    .name(name)
                    .spawn(move || connection.run_reader(&watchers))?,
            );
        }
        let all: Vec<_> = self.all().cloned().collect();
        let (waker, heartbeat) = (self.waker.clone(), self.heartbeat);
        threads.push(
            thread::Builder::new()
                .name(format!("burn-dist-net-{}-heartbeat", self.process))
                .spawn(move || heartbeat::run(&all, &waker, heartbeat))?,
        );
        Ok(())
    }

    /// Returns the number of connections that the port has turned away so far.
    #[cfg(test)]
    pub(crate) fn rejects(&self) -> RejectCounts {
        self.port
            .as_ref()
            .map(Acceptor::rejects)
            .unwrap_or_default()
    }

    /// Closes the port, and logs once how many connections it turned away.
    fn close_port(&self) {
        let Some(port) = &self.port else {
            return;
        };
        if port.stop() && port.rejects().total() > 0 {
            tracing::warn!(
                process = self.process,
                transport = %port.rejects(),
                "connections were turned away while the port was open"
            );
        }
    }

    /// Waits until every process has said that it has all its connections. Returns those that have not at the
    /// deadline.
    fn wait_until_up(&self, deadline: Instant) -> Result<Vec<usize>, Lost> {
        let mut missing = Vec::new();
        for connection in self.all() {
            if !connection.wait_until_up(deadline)? {
                missing.push(connection.peer());
            }
        }
        Ok(missing)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.connections.iter().flatten()
    }

    fn connection(&self, process: usize) -> Result<&Connection, Lost> {
        match self.connections.get(process) {
            Some(Some(connection)) => Ok(connection),
            _ => Err(Lost {
                process,
                address: "no address".to_owned(),
                cause: Cause::Malformed("this process has no connection with it".into()),
            }),
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

impl Network for TcpNetwork {
    fn process(&self) -> usize {
        self.process
    }

    fn processes(&self) -> usize {
        self.connections.len()
    }

    fn send(
        &self,
        to: usize,
        tag: Tag,
        head: &[u8],
        body: &[u8],
        deadline: Instant,
    ) -> Result<(), Lost> {
        let send = Outgoing {
            to,
            tag,
            head,
            body,
        };
        self.exchange(&[send], &mut [], deadline, &NeverCancelled)
            .map(drop)
    }

    fn receive(
        &self,
        from: usize,
        tag: Tag,
        deadline: Instant,
    ) -> Result<(Vec<u8>, Vec<u8>), Lost> {
        let mut receive = [Incoming::new(from, tag, None, None)];
        self.exchange(&[], &mut receive, deadline, &NeverCancelled)?;
        let [Incoming { come, .. }] = receive;
        match come {
            Some(Come::Whole { head, body }) => Ok((head, body)),
            // Nothing was due, and nobody stopped the exchange.
            Some(Come::Placed) | None => Err(self.connection(from)?.lost(Cause::Stopped)),
        }
    }

    fn exchange(
        &self,
        sends: &[Outgoing<'_>],
        receives: &mut [Incoming<'_>],
        deadline: Instant,
        cancel: &dyn Cancel,
    ) -> Result<bool, Lost> {
        let connection = |peer| self.connection(peer);
        self.messages.fetch_add(sends.len() as u64, Relaxed);
        Exchange::new(connection, sends, receives, cancel)?.run(deadline)
    }

    fn sent(&self) -> u64 {
        self.all().map(|connection| connection.sent()).sum()
    }

    fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    fn connections(&self) -> usize {
        let up = |connection: &&Arc<Connection>| connection.check().is_ok();
        self.all().filter(up).count()
    }

    fn check(&self, process: usize) -> Result<(), Lost> {
        self.connection(process)?.check()
    }

    fn notify_some(&self, notice: &[u8], chosen: &dyn Fn(usize) -> bool) {
        for connection in self.all().filter(|connection| chosen(connection.peer())) {
            match QueuedFrame::notice(notice) {
                Ok(frame) => connection.queue(frame),
                Err(error) => return tracing::error!("a notice was not sent: {error}"),
            }
        }
    }

    fn forget(&self, groups: &[u64]) {
        for connection in self.all() {
            connection.forget(groups);
        }
    }

    fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.watchers.add(&watcher);
    }

    /// Waits up to a heartbeat for the other processes to read everything sent to them.
    fn close(&self) {
        self.close_port();
        let threads = std::mem::take(&mut *self.threads.lock());
        for connection in self.all() {
            connection.queue(QueuedFrame::goodbye());
        }
        let deadline = Instant::now() + self.heartbeat;
        for connection in self.all() {
            if connection.wait_for_end(deadline).is_none() {
                connection.end(Cause::Stopped);
            }
        }
        self.waker.stop();
        self.watchers.clear();
        for thread in threads {
            // A watcher may own the network, and so drop it on a reader's thread, which can't wait
            // for itself; it ends next.
            if thread.thread().id() != thread::current().id() {
                // Its panic would be a watcher's, and was printed when it happened.
                let _ = thread.join();
            }
        }
    }
}

/// Cancels nothing: a single message waits for its deadline alone.
struct NeverCancelled;

impl Cancel for NeverCancelled {
    fn is_cancelled(&self) -> bool {
        false
    }

    fn received_from(&self, _: usize) {}
}

impl Drop for TcpNetwork {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for TcpNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpNetwork")
            .field("process", &self.process)
            .field("processes", &self.connections.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
