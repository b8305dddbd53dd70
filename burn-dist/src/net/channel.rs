//! The connection of two processes: a socket, or a TLS session on one.
//!
//! One thread may read a channel while another writes it. Reads and writes block as long as the socket's
//! timeouts allow. `Interrupted` is no failure: part of a TLS record arrived, say; the caller checks its deadline
//! and tries again. Of two threads that write at once, one gets `WouldBlock`.
//!
//! A channel may hold back bytes of a [`Write::write`] that the socket does not take; [`Write::flush`] or the
//! next write sends them. A plain channel holds nothing back.

#[cfg(feature = "tls")]
mod tls;

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handshake_error::HandshakeError;
use super::timed::Stream;
use super::tls::Tls;

/// First bytes of every handshake of this crate. They never change.
pub(crate) const MAGIC: [u8; 8] = *b"burndist";

/// Side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The side that connected.
    Connects,
    /// The side that accepted.
    Accepts,
}

impl Role {
    /// Returns the role of the other side.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Connects => Self::Accepts,
            Self::Accepts => Self::Connects,
        }
    }
}

/// Returns true if bytes begin as a record of TLS, which no handshake of this crate does.
pub(super) fn is_record(start: [u8; 2]) -> bool {
    matches!(start, [20..=23, 3])
}

/// A connection with another process.
#[derive(Debug)]
pub(crate) enum Channel {
    /// Without encryption.
    Plain(Arc<TcpStream>),
    /// Encrypted, with certificates verified on both sides.
    #[cfg(feature = "tls")]
    Tls(Box<tls::Session>),
}

impl Channel {
    /// Creates a channel on a connected socket: with TLS if this process has certificates. Both sides have
    /// verified the other's certificate then.
    ///
    /// The socket must be blocking. Its timeouts are undefined afterwards.
    ///
    /// # Errors
    ///
    /// The reason why one side does not accept the other, which was told to the other if it can understand it.
    #[cfg_attr(
        not(feature = "tls"),
        expect(clippy::unnecessary_wraps, reason = "a plain socket can't fail")
    )]
    pub(crate) fn open(
        socket: impl Into<Arc<TcpStream>>,
        tls: Option<&Tls>,
        role: Role,
        deadline: Instant,
    ) -> Result<Self, HandshakeError> {
        let Some(tls) = tls else {
            return Ok(Self::Plain(socket.into()));
        };
        #[cfg(feature = "tls")]
        {
            let session = tls::Session::open(socket.into(), tls.credentials(), role, deadline)?;
            Ok(Self::Tls(Box::new(session)))
        }
        #[cfg(not(feature = "tls"))]
        {
            let _ = (role, deadline);
            match *tls.credentials() {}
        }
    }

    /// Returns the socket underneath, whose timeouts hold for reads and writes.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.socket(),
        }
    }

    /// Shuts one or both directions. Bytes written and not held back still arrive, unless both are shut. With TLS
    /// the end of writing is authenticated.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let (Self::Tls(session), Shutdown::Write) = (self, how) {
            session.say_end();
        }
        self.socket().shutdown(how)
    }
}

#[cfg(test)]
impl From<TcpStream> for Channel {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket.into())
    }
}

impl Stream for Channel {
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket().set_read_timeout(time)
    }

    fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket().set_write_timeout(time)
    }

    fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read_some(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.read_some(buffer),
        }
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write_some(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.write_some(bytes),
        }
    }

    fn flush(&self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.flush(),
        }
    }

    fn binding(&self) -> &[u8] {
        match self {
            Self::Plain(_) => &[],
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.binding(),
        }
    }
}

impl Read for &Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer)
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Channel::Plain(socket) => (&**socket).read_vectored(slices),
            // Decrypted in pieces of 16 KiB at most: a second slice gains nothing.
            #[cfg(feature = "tls")]
            Channel::Tls(_) => {
                let first = slices.iter_mut().find(|slice| !slice.is_empty());
                first.map_or(Ok(0), |slice| self.read_some(slice))
            }
        }
    }
}

impl Write for &Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_some(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Channel::Plain(socket) => (&**socket).write_vectored(slices),
            #[cfg(feature = "tls")]
            Channel::Tls(session) => session.write(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Stream::flush(*self)
    }
}
