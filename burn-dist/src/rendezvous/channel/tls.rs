//! A TLS 1.3 session on a socket, for one thread that reads and one that writes.
//!
//! The session's state is behind one lock, under which only memory is worked on. Who reads gets
//! ciphertext from the socket without the lock, then decrypts under it. Who writes encrypts under it into
//! `unsent`, takes that out, and writes it to the socket without the lock. So neither direction waits
//! for the other's socket.
//!
//! Bounds: rustls keeps less than one record that is incomplete, and no handshake message of more than
//! 64 KiB; `surplus` has less than [`CHUNK`] and a record; `unsent` and what rustls holds for it a little
//! more than [`AT_ONCE`] each.
//!
//! - What reading calls for in the other direction (an answer to a change of keys, an alert) goes with
//!   the next write or flush. Heartbeats see to it that there is one.
//! - rustls changes the keys before they have encrypted too much, on its own.
//! - An end of the socket counts as the end of the stream, with or without TLS's own word for it: every
//!   protocol above has lengths, and its own goodbye where an end is no failure, so that an end which
//!   somebody forged is noticed as a broken connection.
//! - Once a deadline passed within a write, what is in `unsent` is still whole: the next write
//!   goes on with it.
//!
//! Callers: `channel`.

#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::{AlertDescription, Connection};

use super::{MAGIC, Role};
use crate::rendezvous::rejected::Rejected;
use crate::rendezvous::timed::{self, Broken, Stream};
use crate::rendezvous::tls::{Credentials, describe};

/// How much ciphertext is read at once: about a record, as large as they get.
const CHUNK: usize = 16 << 10;
/// How much is encrypted at once.
const AT_ONCE: usize = 64 << 10;
/// How long to wait for the socket to take an alert.
const LAST_WORD: Duration = Duration::from_secs(1);
/// What binds the proof of the secret to this session (RFC 9266).
const BINDING: &[u8] = b"EXPORTER-Channel-Binding";
/// What the accepting side says when it has verified the other's certificate: only then does the
/// connecting side know that it was accepted.
const VERIFIED: u8 = 1;
/// An alert of TLS: an unexpected message, fatal. What a peer without TLS is told.
const NO_PLAIN: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

/// A session whose handshake is done.
pub(crate) struct Session {
    socket: TcpStream,
    binding: [u8; 32],
    state: Mutex<State>,
}

struct State {
    tls: Connection,
    /// What was decrypted and not asked for yet.
    surplus: Vec<u8>,
    /// What is to go to the socket; none while a thread is at it.
    unsent: Option<Unsent>,
    /// Whether this side has said that nothing more comes.
    ended: bool,
}

#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// How many of them the socket has.
    gone: usize,
}

impl Session {
    /// The socket underneath.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Shakes hands: when this returns, both sides have verified the other's certificate.
    pub(super) fn open(
        socket: TcpStream,
        credentials: &Credentials,
        role: Role,
        deadline: Instant,
    ) -> Result<Self, Rejected> {
        let mut tls = credentials.connection(role).map_err(reject)?;
        tls.set_buffer_limit(Some(AT_ONCE));
        let done = shake_hands(&socket, &mut tls, deadline);
        if let Err(rejected) = done {
            if rejected == Rejected::PlainPeer && role == Role::Accepts {
                let _ = timed::write(&socket, &NO_PLAIN, deadline);
            } else {
                // The other side learns why, if it can; it changes nothing here.
                let _ = send(&socket, &mut tls, deadline.min(Instant::now() + LAST_WORD));
            }
            return Err(rejected);
        }
        let binding = tls.export_keying_material([0; 32], BINDING, None);
        let session = Self {
            socket,
            binding: binding.map_err(reject)?,
            state: Mutex::new(State {
                tls,
                surplus: Vec::new(),
                unsent: Some(Unsent::default()),
                ended: false,
            }),
        };
        session.confirm(role, deadline)?;
        Ok(session)
    }

    /// The accepting side's word that all is well.
    fn confirm(&self, role: Role, deadline: Instant) -> Result<(), Rejected> {
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
            Err(Rejected::NotAPeer(word.escape_ascii().to_string()))
        }
    }

    /// Takes what it can, up to [`AT_ONCE`], and has the socket take it.
    pub(super) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.send_with(|session, unsent| {
            // What is held back goes first. While it doesn't go, nothing more is taken.
            session.push(unsent)?;
            let taken = {
                let mut state = session.lock();
                if state.ended {
                    return Err(ErrorKind::BrokenPipe.into()); // rustls would drop it without a word
                }
                let taken = state.tls.writer().write_vectored(slices)?;
                state.hand_out(unsent)?;
                taken
            };
            // The bytes are taken in any case: what fails here, the next write or flush meets with.
            let _ = session.push(unsent);
            Ok(taken)
        })
    }

    /// Tells the other side that nothing more comes, if the socket takes it.
    pub(super) fn say_end(&self) {
        {
            let mut state = self.lock();
            state.tls.send_close_notify();
            state.ended = true;
        }
        // The end of the socket says the same, if less reliably.
        let _ = self.flush();
    }

    /// Has `send` work on what is to be sent, without the lock.
    fn send_with<T>(
        &self,
        send: impl FnOnce(&Self, &mut Unsent) -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(mut unsent) = self.lock().unsent.take() else {
            return Err(ErrorKind::WouldBlock.into());
        };
        let sent = send(self, &mut unsent);
        self.lock().unsent = Some(unsent);
        sent
    }

    /// Writes to the socket, once: so one timeout of the socket is all that is waited.
    fn push(&self, unsent: &mut Unsent) -> io::Result<()> {
        let left = &unsent.bytes[unsent.gone..];
        if left.is_empty() {
            return Ok(());
        }
        let gone = (&self.socket).write(left)?;
        if gone == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        unsent.gone += gone;
        if unsent.gone < unsent.bytes.len() {
            return Err(ErrorKind::Interrupted.into()); // some went: time for a look at the deadline
        }
        unsent.bytes.clear();
        unsent.gone = 0;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream for Session {
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(time)
    }

    fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(time)
    }

    /// `Interrupted` if what came is no whole record yet, so that the caller looks at its deadline.
    fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(count) = self.lock().take(buffer)? {
            return Ok(count);
        }
        let mut ciphertext = [0; CHUNK];
        let count = (&self.socket).read(&mut ciphertext)?;
        if count == 0 {
            return Ok(0);
        }
        match self.lock().absorb(&ciphertext[..count], buffer)? {
            0 => Err(ErrorKind::Interrupted.into()),
            count => Ok(count),
        }
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write(&[IoSlice::new(bytes)])
    }

    fn flush(&self) -> io::Result<()> {
        self.send_with(|session, unsent| {
            session.lock().hand_out(unsent)?;
            session.push(unsent)
        })
    }

    fn binding(&self) -> &[u8] {
        &self.binding
    }
}

impl State {
    /// What is decrypted already: nothing at the end of the stream, none if more must come first.
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

    /// Decrypts all of `ciphertext`: what does not fit into `buffer` is kept.
    fn absorb(&mut self, mut ciphertext: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while !ciphertext.is_empty() {
            if self.tls.read_tls(&mut ciphertext)? == 0 {
                break; // the other side has said that this is the end
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
            // It ends with `WouldBlock` where the stream goes on; what came before that is kept.
            let _ = reader.read_to_end(&mut self.surplus);
        }
        Ok(filled)
    }

    /// Gives the ciphertext that rustls has made.
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
) -> Result<(), Rejected> {
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

/// Sends what rustls has made.
fn send(socket: &TcpStream, tls: &mut Connection, deadline: Instant) -> Result<(), Rejected> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).map_err(|error| system(&error))?;
    }
    Ok(timed::write(socket, &bytes, deadline)?)
}

/// Whether the other side speaks TLS, from the first bytes that came of it.
fn expect_record(start: &[u8]) -> Result<(), Rejected> {
    match start {
        [20..=23] | [20..=23, 3, ..] => Ok(()),
        _ if start.starts_with(&MAGIC) => Err(Rejected::PlainPeer),
        _ => {
            let start = &start[..start.len().min(MAGIC.len())];
            Err(Rejected::NotAPeer(start.escape_ascii().to_string()))
        }
    }
}

fn system(error: &io::Error) -> Rejected {
    Rejected::System(error.to_string())
}

/// What an error of TLS means for a connection that opens.
fn reject(error: rustls::Error) -> Rejected {
    use AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(error) => Rejected::Certificate(describe(&error)),
        rustls::Error::NoCertificatesPresented => {
            Rejected::Certificate("is missing: it presented none".to_owned())
        }
        rustls::Error::AlertReceived(alert) => Rejected::CertificateRefused(match alert {
            Alert::UnknownCA => "was not signed by the CA that it knows".to_owned(),
            Alert::CertificateExpired => "has expired by its clock, or is not valid yet".to_owned(),
            Alert::BadCertificate => "is not for the job's name".to_owned(),
            Alert::CertificateRequired => "was not presented".to_owned(),
            Alert::UnsupportedCertificate => "may not be used by this side".to_owned(),
            Alert::DecryptError | Alert::CertificateRevoked | Alert::CertificateUnknown => {
                format!("it could not verify ({alert:?})")
            }
            other => return Rejected::Tls(format!("the other side says {other:?}")),
        }),
        other => Rejected::Tls(other.to_string()),
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}
