//! The TCP network of a job: authenticated connections between processes, each used in both directions at once. What
//! a process has of them, and what they cost it, grows with the logarithm of the number of processes, and with the
//! number of those that it exchanges messages with.
//!
//! - `overlay`: the neighbours of each process, with which it is connected from the start;
//! - `mesh`, `links`: the connections of a process, and how far others have come;
//! - `port`, `hello`: the port of this process, which authenticates the other processes;
//! - `connect`, `gather`: bring the connections up; `dial`: makes others when they are needed;
//! - `frame`, `decoder`: the wire format, and frames from a stream of bytes;
//! - `connection`, `guards`, `write`, `outbox`, `read`: one connection, whose socket never blocks; `context`, `moment`:
//!   what it shares with others;
//! - `exchange`, `peer_io`: messages sent and received at once, on several connections;
//! - `reader`: reads the connections that no exchange reads, and tells the watchers;
//! - `news`, `loss`: notices, departures and losses, passed on from process to process;
//! - `heartbeat`: heartbeats, and the detection of silent peers.
//!
//! # Connections
//!
//! The connections of the overlay are there when [`connect::connect`] returns; the higher process dials. Every other
//! one is made when a message is to be sent over it: the sender dials, on a thread of its own, so that the exchange
//! keeps its deadline and can be cancelled. Of two dials at once that of the higher process counts. A dial can be
//! given up at any time before the dialling side has confirmed the answer, and nobody takes it for a loss.
//!
//! # News
//!
//! A broken connection is found at once by whoever has it, a frozen process within a heartbeat and a quarter of a
//! second by its neighbours. They pass on the loss, and every process hears of it after `log2 P` steps or fewer, ends
//! its own connection with the process, and tells its watchers once. What had been received before can still be
//! taken. A process that leaves in good order says so in the same way, after all its other news. A connection that
//! breaks between two processes that both live ends both for all others.
//!
//! Once any process has ended the overlay may have a hole. From then on all connections carry heartbeats and news,
//! and who waits for a message of a process makes a connection with it. So processes that go on after the others
//! have left find one another's ends; but news told before two of them had a connection may be missing, and a wait
//! then ends with the loss, or at its deadline. As long as fewer than about `log2 P` processes end at a time,
//! nothing is missing.
//!
//! # Threads
//!
//! All end in [`TcpNetwork::close`] or when the network is dropped: the reader (`burn-dist-net-<process>`), the
//! heartbeat thread (`burn-dist-net-<process>-heartbeat`), those of the port (`burn-dist-accept-<process>`), and dials
//! under way (`burn-dist-connect-<process>-<peer>`). The threads that call [`Network::exchange`] write messages, and
//! read them while they wait.
//!
//! With certificates the connections are encrypted (`net/channel`). An end of the stream without a goodbye
//! is a broken connection, so nobody on the way can forge an end in good order.
//!
//! Messages not asked for are kept, without a limit, until their group is gone or the connection closed: the
//! collectives send only messages that are expected.

pub(crate) mod connect;
mod connection;
mod context;
mod decoder;
mod dial;
mod exchange;
mod frame;
mod gather;
mod guards;
mod heartbeat;
mod hello;
mod links;
mod loss;
mod mesh;
mod moment;
mod news;
mod outbox;
mod overlay;
mod peer_io;
mod port;
mod read;
mod reader;
mod write;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;

use super::network::{Cancel, Cause, Come, Incoming, Lost, Network, Outgoing, Tag, Watcher};
use crate::net::acceptor::Acceptor;
#[cfg(test)]
use crate::net::rejects::RejectCounts;
use connection::Connection;
#[cfg(any(test, fuzzing))]
pub(crate) use decoder::fuzzing::check as check_frames;
#[cfg(test)]
pub(crate) use decoder::fuzzing::seeds as frame_seeds;
use exchange::Exchange;
#[cfg(any(test, fuzzing))]
pub(crate) use hello::check_hello;
#[cfg(test)]
pub(crate) use hello::hello_seed;
#[cfg(any(test, fuzzing))]
pub(crate) use loss::check_loss;
#[cfg(test)]
pub(crate) use loss::loss_seed;
use mesh::Mesh;
use port::Port;
use reader::Reader;
use write::QueuedFrame;

/// The connections of one process with others.
pub(crate) struct TcpNetwork {
    mesh: Arc<Mesh>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// None in tests without a port.
    port: Option<Acceptor<Port>>,
}

impl TcpNetwork {
    /// Starts the network on a mesh whose overlay is connected. `port` is that of this process, open until the
    /// network is closed.
    ///
    /// # Errors
    /// The system refuses a thread.
    fn start(mesh: Arc<Mesh>, port: Option<Acceptor<Port>>) -> io::Result<Self> {
        let network = Self {
            mesh,
            threads: Mutex::default(),
            port,
        };
        // If a thread is refused, dropping the network ends those that were started.
        network.start_threads()?;
        Ok(network)
    }

    fn start_threads(&self) -> io::Result<()> {
        let mut threads = self.threads.lock();
        let name = format!("burn-dist-net-{}", self.mesh.process);
        let mesh = self.mesh.clone();
        let reader = thread::Builder::new().name(name.clone());
        threads.push(reader.spawn(move || Reader::new(&mesh).run())?);
        let mesh = self.mesh.clone();
        let heart = thread::Builder::new().name(format!("{name}-heartbeat"));
        threads.push(heart.spawn(move || heartbeat::run(&mesh))?);
        for connection in self.mesh.carriers() {
            connection.queue(QueuedFrame::heartbeat());
            connection.send_soon();
        }
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
                process = self.mesh.process,
                transport = %port.rejects(),
                "connections were turned away while the port was open"
            );
        }
    }

    /// Waits until the connections have ended, at most until the deadline, and ends the others.
    fn wait_for_ends(&self, threads: &[JoinHandle<()>], deadline: Instant) {
        let is_own = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        if threads.iter().any(is_own) {
            // A watcher owned the network, and this is the thread that has to read.
            Reader::new(&self.mesh).run_until_ended(deadline);
        }
        for connection in self.mesh.all() {
            if connection.wait_for_end(deadline).is_none() {
                connection.end(Cause::Stopped);
            }
        }
    }
}

impl Network for TcpNetwork {
    fn process(&self) -> usize {
        self.mesh.process
    }

    fn processes(&self) -> usize {
        self.mesh.processes()
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
            Some(Come::Placed) | None => Err(self.mesh.lost(from, Cause::Stopped)),
        }
    }

    fn exchange(
        &self,
        sends: &[Outgoing<'_>],
        receives: &mut [Incoming<'_>],
        deadline: Instant,
        cancel: &dyn Cancel,
    ) -> Result<bool, Lost> {
        Exchange::new(&self.mesh, sends, receives, cancel)?.run(deadline)
    }

    fn sent(&self) -> u64 {
        self.mesh.sum(Connection::sent)
    }

    fn messages(&self) -> u64 {
        self.mesh.sum(Connection::messages)
    }

    fn connections(&self) -> usize {
        let all = self.mesh.all();
        all.iter().filter(|one| !one.has_ended()).count()
    }

    fn check(&self, process: usize) -> Result<(), Lost> {
        self.mesh.check(process)
    }

    fn notify_some(&self, notice: &[u8], chosen: &dyn Fn(usize) -> bool) {
        self.mesh.notify(notice, chosen);
    }

    fn forget(&self, groups: &[u64]) {
        self.mesh.shared.forget(groups);
        for connection in self.mesh.all() {
            connection.forget(groups);
        }
    }

    fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.mesh.watchers.add(&watcher);
    }

    /// Waits up to a heartbeat for the other processes to read everything sent to them.
    fn close(&self) {
        let mesh = &self.mesh;
        mesh.close_doors(Instant::now() + mesh.heartbeat);
        let threads = std::mem::take(&mut *self.threads.lock());
        mesh.bid_farewell();
        for connection in mesh.all() {
            connection.queue(QueuedFrame::goodbye());
            connection.send_soon();
        }
        self.wait_for_ends(&threads, Instant::now() + mesh.heartbeat);
        // Not before: it may hold a connection yet that it has just handed over.
        self.close_port();
        mesh.stop();
        mesh.shared.heartbeat.stop();
        mesh.watchers.clear();
        for thread in threads {
            // A watcher may own the network, and so drop it on the reader's thread, which can't wait for itself; it
            // ends next.
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
            .field("process", &self.mesh.process)
            .field("processes", &self.mesh.processes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
