//! The connection of two processes: a socket, or a TLS session on one. Everything above reads and writes
//! it alike.
//!
//! A channel is used in both directions at once: one thread may read while one other writes. Whoever
//! reads or writes waits as long as the socket's timeouts say; `Interrupted` means that nothing is
//! wrong and it should try again (a part of a TLS record came, say), after a look at its deadline.
//! Of two threads that write at once, one gets `WouldBlock`.
//!
//! What [`Write::write`] took may be held back when the socket takes no more; [`Write::flush`] or the
//! next write sends it. A plain channel never holds anything back.
//!
//! Callers: `auth` opens on it, `store` and `transport` exchange messages.

#[cfg(feature = "tls")]
mod tls;

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::rejected::Rejected;
use super::timed::Stream;
use super::tls::Tls;

/// What every handshake of this crate begins with. It never changes.
pub(crate) const MAGIC: [u8; 8] = *b"burndist";

/// Who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The side that connected.
    Connects,
    /// The side that accepted.
    Accepts,
}

impl Role {
    /// The other side's.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Connects => Self::Accepts,
            Self::Accepts => Self::Connects,
        }
    }
}

/// Whether bytes begin as a record of TLS, which no handshake of this crate does.
pub(super) fn is_record(start: [u8; 2]) -> bool {
    matches!(start, [20..=23, 3])
}

/// A connection with another process.
#[derive(Debug)]
pub(crate) enum Channel {
    /// As it is.
    Plain(TcpStream),
    /// Encrypted, with certificates verified on both sides.
    #[cfg(feature = "tls")]
    Tls(Box<tls::Session>),
}

impl Channel {
    /// Makes a channel of a connected socket: with TLS, if this process has certificates; then both
    /// sides have verified each other's when this returns.
    ///
    /// The socket must be blocking; its timeouts are any afterwards.
    ///
    /// # Errors
    ///
    /// [`Rejected`]; the other side was told why, if it can understand it.
    #[cfg_attr(
        not(feature = "tls"),
        expect(clippy::unnecessary_wraps, reason = "a socket as it is can't fail")
    )]
    pub(crate) fn open(
        socket: TcpStream,
        tls: Option<&Tls>,
        role: Role,
        deadline: Instant,
    ) -> Result<Self, Rejected> {
        let Some(tls) = tls else {
            return Ok(Self::Plain(socket));
        };
        #[cfg(feature = "tls")]
        {
            let session = tls::Session::open(socket, tls.credentials(), role, deadline)?;
            Ok(Self::Tls(Box::new(session)))
        }
        #[cfg(not(feature = "tls"))]
        {
            let _ = (role, deadline);
            match *tls.credentials() {}
        }
    }

    /// The socket underneath, whose timeouts hold for reads and writes.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(session) => session.socket(),
        }
    }

    /// Shuts one or both directions. What was written and not held back still arrives, unless both are
    /// shut; an end of writing is signed with TLS.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let (Self::Tls(session), Shutdown::Write) = (self, how) {
            session.say_end();
        }
        self.socket().shutdown(how)
    }
}

impl From<TcpStream> for Channel {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
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
            Channel::Plain(socket) => (&*socket).read_vectored(slices),
            // Decrypted in pieces of 16 KiB at most, so that a second slice gains nothing.
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
            Channel::Plain(socket) => (&*socket).write_vectored(slices),
            #[cfg(feature = "tls")]
            Channel::Tls(session) => session.write(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Stream::flush(*self)
    }
}
