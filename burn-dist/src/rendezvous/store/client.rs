//! A client of the store: one connection, one operation at a time.
//!
//! Invariant: after a broken exchange the next bytes could be the answer to another request, so every later call
//! fails with the same error.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wire::{self, Reply, Request, Unread};
use super::{GONE, HandshakeError, MAX_KEY, MAX_VALUE, PURPOSE, check_job};
use crate::net::auth::{self, Role};
use crate::net::channel::Channel;
use crate::net::secret::Secret;
use crate::net::tls::Tls;

/// Time for the server to answer a request that does not wait.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the store.
#[derive(Debug)]
pub(crate) struct StoreClient {
    stream: Channel,
    local: SocketAddr,
    broken: Option<StoreError>,
}

/// Reason why a request to the store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// No connection came about.
    #[error("{0}")]
    Unreachable(Arc<str>),
    /// A connection, but one side did not accept the other.
    #[error("{0}")]
    Handshake(HandshakeError),
    /// The connection broke.
    #[error("the connection to the store was lost: {0}")]
    Lost(Arc<str>),
    /// No value of the key before the deadline.
    #[error("nobody set {0:?} in the store before the deadline")]
    Late(String),
    /// The server's reason.
    #[error("the store refused: {0}")]
    Refused(String),
}

/// Result of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Swap {
    /// The value was the expected one and is now the new one.
    Done,
    /// The value was this one, and still is.
    Differs(Option<Vec<u8>>),
}

impl StoreClient {
    /// Connects once to the store of the job with this name, with TLS if there are certificates, and proves the
    /// secret.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] if there is no connection before the deadline,
    /// [`StoreError::Handshake`] if one side did not accept the other, [`StoreError::Refused`] or
    /// [`StoreError::Lost`] if the server had no place.
    pub(crate) fn connect(
        server: SocketAddr,
        secret: &Secret,
        tls: Option<&Tls>,
        job: &str,
        deadline: Instant,
    ) -> Result<Self, StoreError> {
        let unreachable = |error: std::io::Error| StoreError::Unreachable(error.to_string().into());
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero is not allowed; the system counts no less than microseconds.
        let stream = TcpStream::connect_timeout(&server, left.max(Duration::from_micros(1)))
            .map_err(unreachable)?;
        let local = stream.local_addr().map_err(unreachable)?;
        if stream.peer_addr().is_ok_and(|peer| peer == local) {
            // With nobody there, the system may have chosen the very port it connects to.
            return Err(StoreError::Unreachable("connection refused".into()));
        }
        stream.set_nodelay(true).map_err(unreachable)?;
        let role = Role::Connects;
        let stream = Channel::open(stream, tls, role, deadline).map_err(StoreError::Handshake)?;
        auth::authenticate(&stream, secret, role, PURPOSE, job.as_bytes(), deadline)
            .and_then(|theirs| check_job(job, &theirs))
            .map_err(StoreError::Handshake)?;
        let mut client = Self {
            stream,
            local,
            broken: None,
        };
        // The secret is proved; an answer shows that there was a place, too.
        client.get("")?;
        Ok(client)
    }

    /// Returns the address of this side, which the server's machine can reach.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    ///
    /// [`StoreError`], as all operations.
    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        check(key, &[value])?;
        let (key, value) = (key.to_owned(), value.to_vec());
        match self.ask(&Request::Set { key, value }, Instant::now())? {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Returns the value of a key, if it has one.
    pub(crate) fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = key.to_owned();
        match self.ask(&Request::Get { key }, Instant::now())? {
            Reply::Value(value) => Ok(value),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Waits for the value of a key. [`StoreError::Late`] if it has none at the deadline.
    pub(crate) fn wait(&mut self, key: &str, deadline: Instant) -> Result<Vec<u8>, StoreError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.wait_for(key, left, deadline)
    }

    /// Waits for the value of a key like [`wait`](Self::wait), at the server for at most `time`. A busy server may
    /// answer as late as the deadline.
    pub(crate) fn wait_for(
        &mut self,
        key: &str,
        time: Duration,
        deadline: Instant,
    ) -> Result<Vec<u8>, StoreError> {
        let request = Request::Wait {
            key: key.to_owned(),
            milliseconds: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        };
        match self.ask(&request, deadline)? {
            Reply::Value(Some(value)) => Ok(value),
            Reply::Value(None) => Err(StoreError::Late(key.to_owned())),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Adds to the number at a key, 0 if it has no value, and returns the sum.
    pub(crate) fn add(&mut self, key: &str, amount: i64) -> Result<i64, StoreError> {
        let key = key.to_owned();
        match self.ask(&Request::Add { key, amount }, Instant::now())? {
            Reply::Number(sum) => Ok(sum),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sets the value of a key if it is the expected one so far (none: it has none).
    pub(crate) fn compare_and_set(
        &mut self,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
    ) -> Result<Swap, StoreError> {
        check(key, &[value, expected.unwrap_or_default()])?;
        let request = Request::CompareAndSet {
            key: key.to_owned(),
            expected: expected.map(<[u8]>::to_vec),
            value: value.to_vec(),
        };
        match self.ask(&request, Instant::now())? {
            Reply::Done => Ok(Swap::Done),
            Reply::Differs(value) => Ok(Swap::Differs(value)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Lets this client stand for a process: if its connection ends before it has [left](Self::leave), that process
    /// is gone.
    pub(crate) fn announce(&mut self, process: usize) -> Result<(), StoreError> {
        match self.ask(&Request::Announce { process }, Instant::now())? {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Ends the connection in good order.
    pub(crate) fn leave(mut self) -> Result<(), StoreError> {
        match self.ask(&Request::Leave, Instant::now())? {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Returns the first process that ended without having left, if one has. A busy server may answer as late as
    /// the deadline.
    pub(crate) fn gone(&mut self, deadline: Instant) -> Result<Option<usize>, StoreError> {
        let key = GONE.to_owned();
        let value = match self.ask(&Request::Get { key }, deadline)? {
            Reply::Value(Some(value)) => value,
            Reply::Value(None) => return Ok(None),
            other => return Err(self.unexpected(&other)),
        };
        match <[u8; 8]>::try_from(value) {
            Ok(number) => Ok(usize::try_from(u64::from_le_bytes(number)).ok()),
            Err(_) => Err(self.lose("it names a process that is gone by no number")),
        }
    }

    /// Sends a request and receives its reply, until [`REPLY_TIMEOUT`] after `due`.
    fn ask(&mut self, request: &Request, due: Instant) -> Result<Reply, StoreError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let deadline = due.max(Instant::now()) + REPLY_TIMEOUT;
        let sent = wire::send(&self.stream, request, deadline);
        // A server that turned this client away has said why, even where the request was not sent.
        let reply = wire::receive(&self.stream, deadline).map_err(|unread| match (sent, unread) {
            (Err(broken), _) | (Ok(()), Unread::Broken(broken)) => broken.to_string(),
            (_, Unread::Malformed(what)) => format!("its answer can't be read: {what}"),
            (_, Unread::Ended) => "it ended".to_owned(),
        });
        match reply {
            Ok(Reply::Refused(why)) => Err(StoreError::Refused(why)),
            Ok(reply) => Ok(reply),
            Err(why) => Err(self.lose(&why)),
        }
    }

    fn unexpected(&mut self, reply: &Reply) -> StoreError {
        self.lose(&format!("it answered {reply:?} to another question"))
    }

    fn lose(&mut self, why: &str) -> StoreError {
        let lost = StoreError::Lost(why.into());
        self.broken = Some(lost.clone());
        lost
    }
}

/// Checks what the server would refuse: it would not even read it.
fn check(key: &str, values: &[&[u8]]) -> Result<(), StoreError> {
    let longest = values.iter().map(|value| value.len()).max().unwrap_or(0);
    if key.len() > MAX_KEY || longest > MAX_VALUE {
        return Err(StoreError::Refused(format!(
            "expected at most {MAX_KEY} bytes of key and {MAX_VALUE} of value, got {} and {longest}",
            key.len()
        )));
    }
    Ok(())
}
