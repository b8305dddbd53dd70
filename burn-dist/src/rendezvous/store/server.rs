//! The store's server: an [`Acceptor`] whose connections, once they are proved, ask for values.
//!
//! Threads: `burn-dist-store` accepts; `burn-dist-store-N` serves connection N.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use super::table::Table;
use super::wire::{self, Reply, Request, Unread};
use super::{Limits, PURPOSE, check_job};
use crate::net::acceptor::{self, Acceptor, Service};
use crate::net::auth::{Role, authenticate};
use crate::net::channel::Channel;
use crate::net::handshake_error::HandshakeError;
use crate::net::rejects::{Reject, RejectCounts};
use crate::net::secret::Secret;
use crate::net::tls::Tls;

/// A server, until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct StoreServer(Acceptor<Requests>);

impl StoreServer {
    /// Serves the store of the job with this name on a listener, with TLS if there are certificates.
    ///
    /// # Errors
    ///
    /// The system refuses a thread or a way to be woken.
    pub(crate) fn start(
        listener: TcpListener,
        secret: Secret,
        tls: Option<Tls>,
        job: &str,
        limits: Limits,
    ) -> io::Result<Self> {
        let requests = Requests {
            table: Table::new(&limits),
            secret,
            tls,
            job: job.to_owned(),
            limits,
        };
        let limits = acceptor::PortLimits {
            pending: limits.pending,
            live: limits.connections,
            handshake: limits.proof,
        };
        let name = "burn-dist-store".to_owned();
        let port = "the job's store";
        Acceptor::start(listener, name, port, limits, requests).map(Self)
    }

    /// Returns the address of the store.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Returns the number of connections turned away.
    pub(crate) fn rejects(&self) -> RejectCounts {
        self.0.rejects()
    }

    #[cfg(test)]
    pub(crate) fn census(&self) -> acceptor::Census {
        self.0.census()
    }

    /// Closes every connection and joins every thread.
    pub(crate) fn stop(&self) {
        self.0.stop();
    }
}

/// Answers requests to the store.
struct Requests {
    secret: Secret,
    tls: Option<Tls>,
    /// Name of the job.
    job: String,
    limits: Limits,
    table: Table,
}

impl Service for Requests {
    type Session = Channel;

    fn handshake(&self, socket: Arc<TcpStream>, deadline: Instant) -> Result<Channel, Reject> {
        self.authenticate(socket, deadline)
            .map_err(Reject::Unproved)
    }

    /// Answers requests until the client leaves. A client that is cut off is no reject; if it stood for a
    /// process, that process is gone.
    fn serve(&self, stream: Channel) -> Result<(), Reject> {
        let mut process = None;
        let outcome = self.answer_all(&stream, &mut process);
        if let Some(process) = process {
            self.table.note_gone(process);
        }
        outcome
    }

    fn refuse(&self, stream: Channel, reject: &Reject) {
        let reply = Reply::Refused(reject.to_string());
        // It is turned away even if it does not hear why.
        let _ = wire::send(&stream, &reply, Instant::now() + self.limits.request);
    }

    fn stop(&self) {
        self.table.close();
    }
}

impl Requests {
    fn authenticate(
        &self,
        socket: Arc<TcpStream>,
        deadline: Instant,
    ) -> Result<Channel, HandshakeError> {
        let role = Role::Accepts;
        let stream = Channel::open(socket, self.tls.as_ref(), role, deadline)?;
        let job = self.job.as_bytes();
        let theirs = authenticate(&stream, &self.secret, role, PURPOSE, job, deadline)?;
        check_job(&self.job, &theirs)?;
        Ok(stream)
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
