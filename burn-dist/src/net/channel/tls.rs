//! A TLS 1.3 session on a socket, for one thread that reads and one that writes.
//!
//! One lock guards the session's state, and no I/O is done under it. A reader receives ciphertext from the socket
//! without the lock, then decrypts under it. A writer encrypts under it into `unsent`, takes that out, and writes it
//! to the socket without the lock. So neither direction waits for the socket of the other.
//!
//! Bounds: rustls keeps less than one incomplete record, and no handshake message of more than 64 KiB; `surplus` has
//! less than [`MAX_READ`] and a record; `unsent` and rustls' own buffer have little more than [`MAX_WRITE`] each.
//!
//! - Answers that reading makes necessary (a change of keys, an alert) are sent with the next write or flush.
//!   Heartbeats make sure that there is one.
//! - rustls changes the keys in time by itself.
//! - The end of the socket is the end of the stream, with or without TLS's close_notify. Every protocol above has
//!   lengths, and a goodbye where an end is no failure: a forged end is a broken connection.
//! - After a deadline within a write, `unsent` is still complete: the next write continues with it.

#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::{AlertDescription, Connection};

use super::{MAGIC, Role};
use crate::net::handshake_error::HandshakeError;
use crate::net::timed::{self, Broken, Stream};
use crate::net::tls::{Credentials, describe};

/// Most ciphertext of one read: about the largest record.
const MAX_READ: usize = 16 << 10;
/// Most bytes encrypted at once.
const MAX_WRITE: usize = 64 << 10;
/// Time for the socket to take an alert.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);
/// Label of the value that binds the proof of the secret to this session (RFC 9266).
const BINDING: &[u8] = b"EXPORTER-Channel-Binding";
/// Byte of the accepting side after it has verified the peer's certificate. Only then does the connecting side know
/// that it was accepted.
const VERIFIED: u8 = 1;
/// TLS alert for a peer without TLS: unexpected message, fatal.
const NO_PLAIN: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

/// A session after its handshake.
pub(crate) struct Session {
    socket: Arc<TcpStream>,
    binding: [u8; 32],
    state: Mutex<SessionState>,
}

struct SessionState {
    tls: Connection,
    /// Decrypted bytes that were not read yet.
    surplus: Vec<u8>,
    /// Ciphertext for the socket; none while a thread writes it.
    unsent: Option<Unsent>,
    /// True once this side has sent its end of the stream.
    ended: bool,
}

#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// Number of bytes that the socket took.
    gone: usize,
}

impl Session {
    /// Returns the socket underneath.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Does the handshake. Both sides have verified the other's certificate then.
    pub(super) fn open(
        socket: Arc<TcpStream>,
        credentials: &Credentials,
        role: Role,
        deadline: Instant,
    ) -> Result<Self, HandshakeError> {
        let mut tls = credentials.connection(role).map_err(reject)?;
        tls.set_buffer_limit(Some(MAX_WRITE));
        let done = shake_hands(&socket, &mut tls, deadline);
        if let Err(rejected) = done {
            if rejected == HandshakeError::PlainPeer && role == Role::Accepts {
                let _ = timed::write(&*socket, &NO_PLAIN, deadline);
            } else {
                // Tells the peer why. It changes nothing here if it does not hear it.
                let _ = send(
                    &socket,
                    &mut tls,
                    deadline.min(Instant::now() + ALERT_TIMEOUT),
                );
            }
            return Err(rejected);
        }
        let binding = tls.export_keying_material([0; 32], BINDING, None);
        let session = Self {
            socket,
            binding: binding.map_err(reject)?,
            state: Mutex::new(SessionState {
                tls,
                surplus: Vec::new(),
                unsent: Some(Unsent::default()),
                ended: false,
            }),
        };
        session.confirm(role, deadline)?;
        Ok(session)
    }

    /// Sends or awaits the byte [`VERIFIED`].
    fn confirm(&self, role: Role, deadline: Instant) -> Result<(), HandshakeError> {
        let mut word = [VERIFIED];
        let done = match role {
            Role::Accepts => timed::write(self, &word, deadline),
            Role::Connects => timed::read(self, &mut word, deadline),
        };
        done.map_err(|broken| match broken {
            Broken::System(error) => match error.get_ref().and_then(|e| e.downcast_ref()) {
                Some(error) => reject(rustls::Error::clone(error)),
                None => system(&error),
            },
            other => other.into(),
        })?;
        if word == [VERIFIED] {
            Ok(())
        } else {
            Err(HandshakeError::NotAPeer(word.escape_ascii().to_string()))
        }
    }

    /// Encrypts at most [`MAX_WRITE`] bytes, and writes what the socket takes. Returns the number of bytes encrypted.
    pub(super) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_with(|session, unsent| {
            // Ciphertext held back is sent first. Until then no more bytes are taken.
            session.push(unsent)?;
            let taken = {
                let mut state = session.state.lock();
                if state.ended {
                    return Err(ErrorKind::BrokenPipe.into()); // rustls would drop the bytes silently
                }
                let taken = state.tls.writer().write_vectored(slices)?;
                state.hand_out(unsent)?;
                taken
            };
            // The bytes are taken in any case. The next write or flush meets the same error.
            let _ = session.push(unsent);
            Ok(taken)
        })
    }

    /// Sends the end of the stream, if the socket takes it.
    pub(super) fn say_end(&self) {
        {
            let mut state = self.state.lock();
            state.tls.send_close_notify();
            state.ended = true;
        }
        // The end of the socket says the same, without authentication.
        let _ = self.flush();
    }

    /// Calls `send` with the unsent bytes, without the lock.
    fn send_with<T>(
        &self,
        send: impl FnOnce(&Self, &mut Unsent) -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(mut unsent) = self.state.lock().unsent.take() else {
            return Err(ErrorKind::WouldBlock.into());
        };
        let sent = send(self, &mut unsent);
        self.state.lock().unsent = Some(unsent);
        sent
    }

    /// Writes to the socket once: it blocks no longer than one timeout of the socket.
    fn push(&self, unsent: &mut Unsent) -> io::Result<()> {
        let left = &unsent.bytes[unsent.gone..];
        if left.is_empty() {
            return Ok(());
        }
        let gone = (&*self.socket).write(left)?;
        if gone == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        unsent.gone += gone;
        if unsent.gone < unsent.bytes.len() {
            return Err(ErrorKind::Interrupted.into()); // the caller checks its deadline
        }
        unsent.bytes.clear();
        unsent.gone = 0;
        Ok(())
    }
}

impl Stream for Session {
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(time)
    }

    fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(time)
    }

    /// Returns `Interrupted` if no complete record was received yet, so that the caller checks its deadline.
    fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(count) = self.state.lock().take(buffer)? {
            return Ok(count);
        }
        let mut ciphertext = [0; MAX_READ];
        let count = (&*self.socket).read(&mut ciphertext)?;
        if count == 0 {
            return Ok(0);
        }
        match self.state.lock().absorb(&ciphertext[..count], buffer)? {
            0 => Err(ErrorKind::Interrupted.into()),
            count => Ok(count),
        }
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write(&[IoSlice::new(bytes)])
    }

    fn flush(&self) -> io::Result<()> {
        self.send_with(|session, unsent| {
            session.state.lock().hand_out(unsent)?;
            session.push(unsent)
        })
    }

    fn binding(&self) -> &[u8] {
        &self.binding
    }
}

impl SessionState {
    /// Returns bytes decrypted already: none if there are none, 0 at the end of the stream.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.surplus.is_empty() {
            let count = self.surplus.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.surplus[..count]);
            self.surplus.drain(..count);
            return Ok(Some(count));
        }
        match self.tls.reader().read(buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Decrypts all of `ciphertext`, and keeps the bytes that do not fit into `buffer`.
    fn absorb(&mut self, mut ciphertext: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while !ciphertext.is_empty() {
            if self.tls.read_tls(&mut ciphertext)? == 0 {
                break; // the peer has sent its end of the stream
            }
            let read = self.tls.process_new_packets();
            read.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            let mut reader = self.tls.reader();
            while filled < buffer.len() {
                match reader.read(&mut buffer[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            // Ends with `WouldBlock` unless the stream ended. The bytes before that are kept.
            let _ = reader.read_to_end(&mut self.surplus);
        }
        Ok(filled)
    }

    /// Takes the ciphertext of rustls.
    fn hand_out(&mut self, unsent: &mut Unsent) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut unsent.bytes)?;
        }
        Ok(())
    }
}

fn shake_hands(
    socket: &TcpStream,
    tls: &mut Connection,
    deadline: Instant,
) -> Result<(), HandshakeError> {
    let mut chunk = [0; 4096];
    let mut first = true;
    loop {
        send(socket, tls, deadline)?;
        if !tls.is_handshaking() {
            return Ok(());
        }
        let count = timed::read_some(socket, &mut chunk, deadline)?;
        let mut came = &chunk[..count];
        if std::mem::take(&mut first) {
            expect_record(came)?;
        }
        while !came.is_empty() {
            tls.read_tls(&mut came).map_err(|error| system(&error))?;
            tls.process_new_packets().map_err(reject)?;
        }
    }
}

/// Sends the ciphertext of rustls.
fn send(socket: &TcpStream, tls: &mut Connection, deadline: Instant) -> Result<(), HandshakeError> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).map_err(|error| system(&error))?;
    }
    Ok(timed::write(socket, &bytes, deadline)?)
}

/// Checks by its first bytes that the peer uses TLS.
fn expect_record(start: &[u8]) -> Result<(), HandshakeError> {
    match start {
        [20..=23] | [20..=23, 3, ..] => Ok(()),
        _ if start.starts_with(&MAGIC) => Err(HandshakeError::PlainPeer),
        _ => {
            let start = &start[..start.len().min(MAGIC.len())];
            Err(HandshakeError::NotAPeer(start.escape_ascii().to_string()))
        }
    }
}

fn system(error: &io::Error) -> HandshakeError {
    HandshakeError::System(error.to_string())
}

/// Returns the handshake error for an error of TLS.
fn reject(error: rustls::Error) -> HandshakeError {
    use AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(error) => HandshakeError::Certificate(describe(&error)),
        rustls::Error::NoCertificatesPresented => {
            HandshakeError::Certificate("is missing: it presented none".to_owned())
        }
        rustls::Error::AlertReceived(alert) => HandshakeError::CertificateRefused(match alert {
            Alert::UnknownCA => "was not signed by the CA that it knows".to_owned(),
            Alert::CertificateExpired => "has expired by its clock, or is not valid yet".to_owned(),
            Alert::BadCertificate => "is not for the job's name".to_owned(),
            Alert::CertificateRequired => "was not presented".to_owned(),
            Alert::UnsupportedCertificate => "may not be used by this side".to_owned(),
            Alert::DecryptError | Alert::CertificateRevoked | Alert::CertificateUnknown => {
                format!("it could not verify ({alert:?})")
            }
            other => return HandshakeError::Tls(format!("the other side says {other:?}")),
        }),
        other => HandshakeError::Tls(other.to_string()),
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}
