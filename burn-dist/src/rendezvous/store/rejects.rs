//! Connections that were turned away: counted by kind, and logged.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use super::Rejected;

/// Of each kind, the first is logged, and then every so many.
const LOGGED: u64 = 100;

/// Why a connection was turned away.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Reject {
    #[error("{0}")]
    Unproved(Rejected),
    #[error("others came, and it had not proved the secret yet")]
    Crowded,
    #[error("the store has as many connections as it allows")]
    Full,
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
    /// Proved, but one too many.
    pub(crate) full: u64,
    /// Proved, but sent bytes that are no request, or half a one.
    pub(crate) malformed: u64,
    /// The operating system failed.
    pub(crate) system: u64,
}

impl Rejects {
    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.wrong_secret
            + self.version
            + self.not_a_peer
            + self.too_slow
            + self.tls
            + self.closed
            + self.crowded
            + self.full
            + self.malformed
            + self.system
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
            Reject::Full => &mut self.full,
            Reject::Malformed(_) => &mut self.malformed,
            Reject::Unproved(Rejected::System(_)) | Reject::System(_) => &mut self.system,
        }
    }
}

/// The counts of a server.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Rejects>);

impl Ledger {
    pub(super) fn record(&self, address: Option<SocketAddr>, reject: &Reject) {
        let count = {
            let mut rejects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = rejects.count(reject);
            *count += 1;
            *count
        };
        if count == 1 || count.is_multiple_of(LOGGED) {
            tracing::warn!(
                address = address.map(tracing::field::display),
                count,
                "the job's store turned a connection away: {reject}"
            );
        }
    }

    pub(super) fn counts(&self) -> Rejects {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
