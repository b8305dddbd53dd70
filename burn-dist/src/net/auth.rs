//! Proof of membership: a challenge–response with HMAC-SHA256 in both directions, before anything else of a
//! connection is read.
//!
//! ```text
//! connects                                   accepts
//!   magic, version, nonce          ────▶
//!                                  ◀────       magic, version, nonce, proof
//!   verdict, proof, hello, MAC     ────▶
//!                                  ◀────       verdict, hello, MAC
//! ```
//!
//! Every proof and MAC covers its role, the version, the purpose of the connection, the channel's binding and both
//! nonces, each with its length before it. So a proof can't be replayed (the nonces are new), reflected (the roles
//! differ), carried to another port (the purposes differ) or relayed between two encrypted connections (the bindings
//! differ; RFC 9266). Proofs are compared in constant time.
//!
//! Invariants: reads have fixed sizes, except for the hello, which is read once the peer is proved and has at most
//! [`HELLO`] bytes; one deadline holds for the whole exchange; a side that refuses says so, so that both report the
//! same. Only the channel protects the bytes that follow.

#[cfg(any(test, fuzzing))]
mod fuzzing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::Sha256;

pub(crate) use super::channel::Role;
use super::channel::{self, MAGIC};
pub(crate) use super::handshake_error::{HELLO, HandshakeError};
use super::secret::Secret;
use super::timed::{self, Stream};
#[cfg(any(test, fuzzing))]
pub(crate) use fuzzing::check;
#[cfg(test)]
pub(crate) use fuzzing::seeds;

/// Version of the crate and, after the slash, number of the wire format, which every change raises. Tensors are sent
/// in the machine's byte order, so the other order is another format.
const VERSION: &str = if cfg!(target_endian = "little") {
    concat!(env!("CARGO_PKG_VERSION"), "/5")
} else {
    concat!(env!("CARGO_PKG_VERSION"), "/5-big-endian")
};
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 0;
/// Time for a peer to read that it must not use TLS.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

type Nonce = [u8; 32];
type Code = [u8; 32];

/// Proves to the peer that this side knows the secret, verifies the peer's proof, and returns the peer's hello. Both
/// sides must name the same `purpose`.
///
/// The stream must be blocking. Its timeouts are cleared on success.
///
/// # Errors
///
/// The reason why one side does not accept the other. The connection is of no use then.
pub(crate) fn authenticate(
    stream: &impl Stream,
    secret: &Secret,
    role: Role,
    purpose: &[u8],
    hello: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>, HandshakeError> {
    let hello = checked(hello.to_vec())?;
    let hello = |_: &[u8]| hello.clone();
    authenticate_with(stream, secret, role, purpose, &hello, deadline)
}

/// Does the same as [`authenticate`] with a hello made by `hello`. The accepting side makes it from the hello of its
/// peer, and so can answer it; the connecting side is given no bytes.
pub(crate) fn authenticate_with(
    stream: &impl Stream,
    secret: &Secret,
    role: Role,
    purpose: &[u8],
    hello: &dyn Fn(&[u8]) -> Vec<u8>,
    deadline: Instant,
) -> Result<Vec<u8>, HandshakeError> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|error| HandshakeError::System(error.to_string()))?;
    let wire = &mut Wire { stream, deadline };
    let theirs = handshake(wire, Version::OURS, nonce, secret, role, purpose, hello)?;
    let cleared = stream
        .set_read_timeout(None)
        .and_then(|()| stream.set_write_timeout(None));
    cleared.map_err(|error| HandshakeError::System(error.to_string()))?;
    Ok(theirs)
}

/// Does the handshake. `nonce` is this side's, drawn for this handshake alone.
fn handshake<S: Stream>(
    wire: &mut Wire<'_, S>,
    version: Version,
    nonce: Nonce,
    secret: &Secret,
    role: Role,
    purpose: &[u8],
    hello: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Result<Vec<u8>, HandshakeError> {
    let preamble = [&MAGIC[..], &version.0, &nonce].concat();
    let about = [purpose, wire.stream.binding()];

    if role == Role::Connects {
        wire.write(&preamble)?;
        let theirs = wire.read_preamble(version)?;
        if theirs == nonce {
            // A port that echoes, or a socket connected to itself.
            return Err(HandshakeError::NotAPeer("an echo of this side".to_owned()));
        }
        let transcript = Transcript::new(secret, version, about, &nonce, &theirs);
        wire.verify_proof(&transcript, Role::Accepts)?;
        let answer = [
            &[ACCEPTED][..],
            &transcript.proof(role),
            &transcript.hello(role, &checked(hello(&[]))?),
        ];
        wire.write(&answer.concat())?;
        wire.read_verdict()?;
        wire.read_hello(&transcript, role.other())
    } else {
        let theirs = wire.read_preamble_and_answer(version, &preamble)?;
        let transcript = Transcript::new(secret, version, about, &theirs, &nonce);
        wire.write(&transcript.proof(role))?;
        wire.read_verdict()?;
        wire.verify_proof(&transcript, Role::Connects)?;
        let their_hello = wire.read_hello(&transcript, role.other())?;
        let answer = [
            &[ACCEPTED][..],
            &transcript.hello(role, &checked(hello(&their_hello))?),
        ];
        wire.write(&answer.concat())?;
        Ok(their_hello)
    }
}

/// Returns a hello of this side, if it is within the limit.
fn checked(hello: Vec<u8>) -> Result<Vec<u8>, HandshakeError> {
    if hello.len() > HELLO {
        return Err(HandshakeError::HelloTooLarge(hello.len()));
    }
    Ok(hello)
}

/// A version as it is sent: text, padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version([u8; 24]);

impl Version {
    const OURS: Self = Self::of(VERSION);

    const fn of(text: &str) -> Self {
        let (text, mut bytes) = (text.as_bytes(), [0; 24]);
        let mut index = 0;
        while index < text.len() && index < bytes.len() {
            bytes[index] = text[index];
            index += 1;
        }
        Self(bytes)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|&byte| byte == 0);
        // Anyone may have sent it: escaped, so that it can't write over a terminal.
        self.0[..end.unwrap_or(self.0.len())].escape_ascii().fmt(f)
    }
}

/// State that both sides share of one handshake: the beginning of every MAC.
struct Transcript(Hmac<Sha256>);

impl Transcript {
    fn new(
        secret: &Secret,
        version: Version,
        [purpose, binding]: [&[u8]; 2],
        connects: &Nonce,
        accepts: &Nonce,
    ) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut code = Hmac::new_from_slice(secret.key()).expect("HMAC takes any key");
        for part in [&MAGIC[..], &version.0, purpose, binding, connects, accepts] {
            absorb(&mut code, part);
        }
        Self(code)
    }

    fn code(&self, role: Role, content: &[u8]) -> Hmac<Sha256> {
        let mut code = self.0.clone();
        absorb(
            &mut code,
            match role {
                Role::Connects => b"connects",
                Role::Accepts => b"accepts",
            },
        );
        absorb(&mut code, content);
        code
    }

    /// Returns a role's proof that it knows the secret: the MAC of no content.
    fn proof(&self, role: Role) -> Code {
        self.code(role, b"").finalize().into_bytes().into()
    }

    /// Encodes a role's hello: its length, its bytes, its MAC. The MAC covers the length, so its content is never
    /// empty, and no proof passes for it.
    fn hello(&self, role: Role, hello: &[u8]) -> Vec<u8> {
        let mut bytes = (hello.len() as u16).to_le_bytes().to_vec();
        bytes.extend_from_slice(hello);
        let code = self.code(role, &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&code);
        bytes
    }

    /// Compares a code in constant time.
    fn verify(&self, role: Role, content: &[u8], code: &Code) -> Result<(), HandshakeError> {
        let ours = self.code(role, content);
        ours.verify_slice(code)
            .map_err(|_| HandshakeError::WrongSecret)
    }
}

fn absorb(code: &mut Hmac<Sha256>, part: &[u8]) {
    code.update(&(part.len() as u64).to_le_bytes());
    code.update(part);
}

/// A connection with the deadline of its handshake.
struct Wire<'a, S> {
    stream: &'a S,
    deadline: Instant,
}

impl<S: Stream> Wire<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        Ok(timed::write(self.stream, bytes, self.deadline)?)
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], HandshakeError> {
        let mut bytes = [0; N];
        timed::read(self.stream, &mut bytes, self.deadline)?;
        Ok(bytes)
    }

    /// Reads magic, version and nonce. The nonce is read even if the version differs.
    fn read_start(&mut self) -> Result<(Version, Nonce), HandshakeError> {
        let start: [u8; 2] = self.read()?;
        if channel::is_record(start) {
            return Err(HandshakeError::TlsPeer);
        }
        let rest: [u8; 6] = self.read()?;
        let magic = [&start[..], &rest].concat();
        if magic != MAGIC {
            return Err(HandshakeError::NotAPeer(magic.escape_ascii().to_string()));
        }
        Ok((Version(self.read()?), self.read()?))
    }

    fn read_preamble(&mut self, ours: Version) -> Result<Nonce, HandshakeError> {
        let (theirs, nonce) = self.read_start()?;
        same(ours, theirs)?;
        Ok(nonce)
    }

    /// Answers even if the version differs, so that the peer can name both versions too.
    fn read_preamble_and_answer(
        &mut self,
        ours: Version,
        preamble: &[u8],
    ) -> Result<Nonce, HandshakeError> {
        let start = self.read_start();
        if let Err(HandshakeError::TlsPeer) = start {
            // Tells the peer that this side has no TLS.
            self.write(preamble)?;
            timed::drain(
                self.stream,
                self.deadline.min(Instant::now() + REFUSAL_TIMEOUT),
            );
        }
        let (theirs, nonce) = start?;
        self.write(preamble)?;
        same(ours, theirs)?;
        Ok(nonce)
    }

    fn verify_proof(&mut self, transcript: &Transcript, role: Role) -> Result<(), HandshakeError> {
        let proof = self.read()?;
        transcript.verify(role, b"", &proof).inspect_err(|_| {
            // Tells the peer why. It changes nothing here if it does not hear it.
            let _ = self.write(&[REFUSED]);
        })
    }

    fn read_verdict(&mut self) -> Result<(), HandshakeError> {
        match self.read()? {
            [ACCEPTED] => Ok(()),
            [REFUSED] => Err(HandshakeError::WrongSecret),
            other => Err(HandshakeError::NotAPeer(other.escape_ascii().to_string())),
        }
    }

    fn read_hello(
        &mut self,
        transcript: &Transcript,
        role: Role,
    ) -> Result<Vec<u8>, HandshakeError> {
        let length: [u8; 2] = self.read()?;
        let size = usize::from(u16::from_le_bytes(length));
        if size > HELLO {
            return Err(HandshakeError::HelloTooLarge(size));
        }
        let mut bytes = length.to_vec();
        bytes.resize(length.len() + size, 0);
        timed::read(self.stream, &mut bytes[length.len()..], self.deadline)?;
        let code = self.read()?;
        transcript.verify(role, &bytes, &code)?;
        Ok(bytes.split_off(length.len()))
    }
}

fn same(ours: Version, theirs: Version) -> Result<(), HandshakeError> {
    if ours == theirs {
        return Ok(());
    }
    Err(HandshakeError::Version {
        ours: ours.to_string(),
        theirs: theirs.to_string(),
    })
}
