//! Connections that a port of the job turned away: counted by kind, and logged.
//!
//! Invariant: every connection that a port accepted and did not keep is counted exactly once, before it
//! is closed. (One that the system had not handed over when the port closed was never accepted.)
//!
//! Callers: `store` and `transport`, for a port each; `launch` tells the counts.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use super::auth::Rejected;

/// Of each kind, the first is logged, and then every so many.
const LOGGED: u64 = 100;

/// Why a connection was turned away.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Reject {
    #[error("{0}")]
    Unproved(Rejected),
    #[error("others came, and it had not proved the secret yet")]
    Crowded,
    #[error("the port was closed, and it had not proved the secret yet")]
    Unfinished,
    #[error("the store has as many connections as it allows")]
    Full,
    #[error("{0}")]
    Foreign(String),
    #[error("what it sent is no request: {0}")]
    Malformed(String),
    #[error("the system failed: {0}")]
    System(String),
}

/// How many connections were turned away, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rejects {
    /// A proof was wrong, or replayed.
    pub(crate) wrong_secret: u64,
    /// Another version of this crate.
    pub(crate) version: u64,
    /// Bytes that are no handshake, or a hello that is too large.
    pub(crate) not_a_peer: u64,
    /// No proof in time.
    pub(crate) too_slow: u64,
    /// With TLS where there is none or the other way round, or without a certificate of the job's.
    pub(crate) tls: u64,
    /// Closed before the proof.
    pub(crate) closed: u64,
    /// Gave up its place to a newer one before the proof.
    pub(crate) crowded: u64,
    /// The port was closed before the proof.
    pub(crate) unfinished: u64,
    /// Proved, but one too many.
    pub(crate) full: u64,
    /// Proved, but no process that should call here.
    pub(crate) foreign: u64,
    /// Proved, but sent bytes that are no request, or half a one.
    pub(crate) malformed: u64,
    /// The operating system failed.
    pub(crate) system: u64,
}

impl Rejects {
    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }

    fn by_kind(&self) -> [(&'static str, u64); 12] {
        [
            ("wrong secret", self.wrong_secret),
            ("another version", self.version),
            ("no handshake", self.not_a_peer),
            ("no proof in time", self.too_slow),
            ("without the right TLS", self.tls),
            ("closed before the proof", self.closed),
            ("crowded out", self.crowded),
            ("there when the port closed", self.unfinished),
            ("no room", self.full),
            ("not a process of this job", self.foreign),
            ("no request", self.malformed),
            ("the system failed", self.system),
        ]
    }

    fn count(&mut self, reject: &Reject) -> &mut u64 {
        match reject {
            Reject::Unproved(Rejected::WrongSecret) => &mut self.wrong_secret,
            Reject::Unproved(Rejected::Version { .. }) => &mut self.version,
            Reject::Unproved(Rejected::NotAPeer(_) | Rejected::HelloTooLarge(_)) => {
                &mut self.not_a_peer
            }
            Reject::Unproved(Rejected::TooSlow) => &mut self.too_slow,
            Reject::Unproved(
                Rejected::PlainPeer
                | Rejected::TlsPeer
                | Rejected::Certificate(_)
                | Rejected::CertificateRefused(_)
                | Rejected::Tls(_),
            ) => &mut self.tls,
            Reject::Unproved(Rejected::Closed) => &mut self.closed,
            Reject::Crowded => &mut self.crowded,
            Reject::Unfinished => &mut self.unfinished,
            Reject::Full => &mut self.full,
            Reject::Unproved(Rejected::OtherJob { .. }) | Reject::Foreign(_) => &mut self.foreign,
            Reject::Malformed(_) => &mut self.malformed,
            Reject::Unproved(Rejected::System(_)) | Reject::System(_) => &mut self.system,
        }
    }
}

/// Writes `12 (10 wrong secret, 2 no handshake)`.
impl fmt::Display for Rejects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())?;
        let met = self.by_kind().into_iter().filter(|(_, count)| *count > 0);
        for (place, (kind, count)) in met.enumerate() {
            write!(f, "{}{count} {kind}", [" (", ", "][usize::from(place > 0)])?;
        }
        f.write_str(if self.total() > 0 { ")" } else { "" })
    }
}

/// The counts of a port.
#[derive(Debug)]
pub(crate) struct Ledger {
    port: &'static str,
    rejects: Mutex<Rejects>,
}

impl Ledger {
    /// No counts yet, of what the log calls `port`.
    pub(crate) fn new(port: &'static str) -> Self {
        let rejects = Mutex::default();
        Self { port, rejects }
    }

    /// Counts a connection.
    pub(crate) fn record(&self, address: Option<SocketAddr>, reject: &Reject) {
        let count = {
            let mut rejects = self.rejects.lock().unwrap_or_else(PoisonError::into_inner);
            let count = rejects.count(reject);
            *count += 1;
            *count
        };
        if count == 1 || count.is_multiple_of(LOGGED) {
            tracing::warn!(
                address = address.map(tracing::field::display),
                count,
                "{} turned a connection away: {reject}",
                self.port
            );
        }
    }

    pub(crate) fn counts(&self) -> Rejects {
        *self.rejects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_read_as_a_person_would_say_them() {
        let ledger = Ledger::new("a port");
        assert_eq!(ledger.counts().to_string(), "0");
        ledger.record(None, &Reject::Unproved(Rejected::WrongSecret));
        ledger.record(None, &Reject::Unproved(Rejected::WrongSecret));
        ledger.record(None, &Reject::Crowded);
        let counts = ledger.counts();
        assert_eq!(counts.to_string(), "3 (2 wrong secret, 1 crowded out)");
        assert_eq!(counts.total(), 3);
    }
}
