//! Proof of membership: a challenge–response with HMAC-SHA256 in both directions, before anything
//! else of a connection is read.
//!
//! ```text
//! connects                                   accepts
//!   magic, version, nonce          ────▶
//!                                  ◀────       magic, version, nonce, proof
//!   verdict, proof, hello, MAC     ────▶
//!                                  ◀────       verdict, hello, MAC
//! ```
//!
//! Every proof and MAC covers its role, the version, the purpose of the connection, what binds it to its
//! encryption and both nonces, each with its length before it. So a proof can't be replayed (the nonces
//! are new), reflected (the roles differ), carried to another port (the purposes differ) or passed on by
//! somebody who stands between two encrypted connections (what binds them differs; RFC 9266). Proofs are
//! compared in constant time.
//!
//! Invariants: reads have fixed sizes, but for the hello, which is read once the peer is proved and
//! has at most [`HELLO`] bytes; one deadline holds for the whole exchange; a side that refuses says so,
//! so that both tell the same story. What follows on the connection is neither encrypted nor signed,
//! but for what its channel does.
//!
//! Callers: `store` for its connections, `transport` for those between processes.

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
pub(crate) use super::rejected::{HELLO, Rejected};
use super::secret::Secret;
use super::timed::{self, Stream};
#[cfg(any(test, fuzzing))]
pub(crate) use fuzzing::check;
#[cfg(test)]
pub(crate) use fuzzing::seeds;

/// The crate's version and, after the slash, the number of the wire format: raised with any change of it.
/// Tensors travel in the machine's byte order, so those of another order speak another format.
const VERSION: &str = if cfg!(target_endian = "little") {
    concat!(env!("CARGO_PKG_VERSION"), "/3")
} else {
    concat!(env!("CARGO_PKG_VERSION"), "/3-big-endian")
};
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 0;
/// How long to wait for a peer that is told to use no TLS to have read it.
const LAST_WORD: Duration = Duration::from_secs(1);

type Nonce = [u8; 32];
type Code = [u8; 32];

/// Proves to the other side that this one knows the secret, has the same proved by it, and gives its
/// hello. `purpose` says what the connection is for, and must be the same on both sides.
///
/// The stream must be blocking; its timeouts are cleared on success.
///
/// # Errors
///
/// [`Rejected`]; the connection is of no use then.
pub(crate) fn authenticate(
    stream: &impl Stream,
    secret: &Secret,
    role: Role,
    purpose: &[u8],
    hello: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>, Rejected> {
    if hello.len() > HELLO {
        return Err(Rejected::HelloTooLarge(hello.len()));
    }
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|error| Rejected::System(error.to_string()))?;
    let wire = &mut Wire { stream, deadline };
    let theirs = handshake(wire, Version::OURS, nonce, secret, role, purpose, hello)?;
    let cleared = stream
        .set_read_timeout(None)
        .and_then(|()| stream.set_write_timeout(None));
    cleared.map_err(|error| Rejected::System(error.to_string()))?;
    Ok(theirs)
}

/// The handshake itself; `nonce` is this side's, drawn for it alone.
fn handshake<S: Stream>(
    wire: &mut Wire<'_, S>,
    version: Version,
    nonce: Nonce,
    secret: &Secret,
    role: Role,
    purpose: &[u8],
    hello: &[u8],
) -> Result<Vec<u8>, Rejected> {
    let preamble = [&MAGIC[..], &version.0, &nonce].concat();
    let about = [purpose, wire.stream.binding()];

    if role == Role::Connects {
        wire.write(&preamble)?;
        let theirs = wire.read_preamble(version)?;
        if theirs == nonce {
            // A port that echoes, or this very socket connected to itself.
            return Err(Rejected::NotAPeer("an echo of this side".to_owned()));
        }
        let exchange = Exchange::new(secret, version, about, &nonce, &theirs);
        wire.verify_proof(&exchange, Role::Accepts)?;
        let answer = [
            &[ACCEPTED][..],
            &exchange.proof(role),
            &exchange.hello(role, hello),
        ];
        wire.write(&answer.concat())?;
        wire.read_verdict()?;
        wire.read_hello(&exchange, role.other())
    } else {
        let theirs = wire.read_preamble_and_answer(version, &preamble)?;
        let exchange = Exchange::new(secret, version, about, &theirs, &nonce);
        wire.write(&exchange.proof(role))?;
        wire.read_verdict()?;
        wire.verify_proof(&exchange, Role::Connects)?;
        let their_hello = wire.read_hello(&exchange, role.other())?;
        let answer = [&[ACCEPTED][..], &exchange.hello(role, hello)];
        wire.write(&answer.concat())?;
        Ok(their_hello)
    }
}

/// A version as it travels: text, filled up with zeros.
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
        // It may come from anyone: escaped, so that it can't write over a terminal.
        self.0[..end.unwrap_or(self.0.len())].escape_ascii().fmt(f)
    }
}

/// What both sides know of one handshake, as the beginning of every MAC of it.
struct Exchange(Hmac<Sha256>);

impl Exchange {
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

    /// A role's proof that it knows the secret: the MAC of no content.
    fn proof(&self, role: Role) -> Code {
        self.code(role, b"").finalize().into_bytes().into()
    }

    /// A role's hello as it travels: its length, itself, its MAC. The MAC's content begins with the
    /// length, so it is never empty, and no proof passes for it.
    fn hello(&self, role: Role, hello: &[u8]) -> Vec<u8> {
        let mut bytes = (hello.len() as u16).to_le_bytes().to_vec();
        bytes.extend_from_slice(hello);
        let code = self.code(role, &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&code);
        bytes
    }

    /// Compares in constant time.
    fn verify(&self, role: Role, content: &[u8], code: &Code) -> Result<(), Rejected> {
        let ours = self.code(role, content);
        ours.verify_slice(code).map_err(|_| Rejected::WrongSecret)
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
    fn write(&mut self, bytes: &[u8]) -> Result<(), Rejected> {
        Ok(timed::write(self.stream, bytes, self.deadline)?)
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], Rejected> {
        let mut bytes = [0; N];
        timed::read(self.stream, &mut bytes, self.deadline)?;
        Ok(bytes)
    }

    /// Reads magic and version; the nonce is due even if the version differs.
    fn read_start(&mut self) -> Result<(Version, Nonce), Rejected> {
        let start: [u8; 2] = self.read()?;
        if channel::is_record(start) {
            return Err(Rejected::TlsPeer);
        }
        let rest: [u8; 6] = self.read()?;
        let magic = [&start[..], &rest].concat();
        if magic != MAGIC {
            return Err(Rejected::NotAPeer(magic.escape_ascii().to_string()));
        }
        Ok((Version(self.read()?), self.read()?))
    }

    fn read_preamble(&mut self, ours: Version) -> Result<Nonce, Rejected> {
        let (theirs, nonce) = self.read_start()?;
        same(ours, theirs)?;
        Ok(nonce)
    }

    /// Answers even where the version differs, so that the other side can name both as well.
    fn read_preamble_and_answer(
        &mut self,
        ours: Version,
        preamble: &[u8],
    ) -> Result<Nonce, Rejected> {
        let start = self.read_start();
        if let Err(Rejected::TlsPeer) = start {
            // By this it knows that here is no TLS.
            self.write(preamble)?;
            timed::drain(self.stream, self.deadline.min(Instant::now() + LAST_WORD));
        }
        let (theirs, nonce) = start?;
        self.write(preamble)?;
        same(ours, theirs)?;
        Ok(nonce)
    }

    fn verify_proof(&mut self, exchange: &Exchange, role: Role) -> Result<(), Rejected> {
        let proof = self.read()?;
        exchange.verify(role, b"", &proof).inspect_err(|_| {
            // So that it can say so too; whether it hears it changes nothing here.
            let _ = self.write(&[REFUSED]);
        })
    }

    fn read_verdict(&mut self) -> Result<(), Rejected> {
        match self.read()? {
            [ACCEPTED] => Ok(()),
            [REFUSED] => Err(Rejected::WrongSecret),
            other => Err(Rejected::NotAPeer(other.escape_ascii().to_string())),
        }
    }

    fn read_hello(&mut self, exchange: &Exchange, role: Role) -> Result<Vec<u8>, Rejected> {
        let length: [u8; 2] = self.read()?;
        let size = usize::from(u16::from_le_bytes(length));
        if size > HELLO {
            return Err(Rejected::HelloTooLarge(size));
        }
        let mut bytes = length.to_vec();
        bytes.resize(length.len() + size, 0);
        timed::read(self.stream, &mut bytes[length.len()..], self.deadline)?;
        let code = self.read()?;
        exchange.verify(role, &bytes, &code)?;
        Ok(bytes.split_off(length.len()))
    }
}

fn same(ours: Version, theirs: Version) -> Result<(), Rejected> {
    if ours == theirs {
        return Ok(());
    }
    Err(Rejected::Version {
        ours: ours.to_string(),
        theirs: theirs.to_string(),
    })
}
