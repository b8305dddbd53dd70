//! Reasons why two sides of a connection do not accept each other.

use std::fmt;

use super::timed::Broken;

/// Most bytes of a hello.
pub(crate) const HELLO: usize = 4096;

/// Reason why a connection was not accepted as one of the job's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(
    not(feature = "tls"),
    expect(dead_code, reason = "some occur with TLS alone")
)]
pub(crate) enum HandshakeError {
    /// A wrong proof, of either side.
    #[error(
        "the secrets differ; give every process of the job the same BURN_DIST_SECRET (or \
         BURN_DIST_SECRET_FILE), and look whether another job uses this port"
    )]
    WrongSecret,
    /// The same secret, but different jobs.
    #[error(
        "another job listens at this address: this process belongs to {}, the other to {}; give each job \
         a port of its own (MASTER_PORT), and all processes of one job the same name (BURN_DIST_JOB)",
        Named(ours),
        Named(theirs)
    )]
    OtherJob {
        /// Name of this process's job; empty if it has none.
        ours: String,
        /// Name of the peer's job.
        theirs: String,
    },
    /// Another version of the wire format.
    #[error(
        "this program was built with burn-dist {ours}, the other with {theirs}; run the same program \
         on every machine"
    )]
    Version {
        /// Version of this side.
        ours: String,
        /// Version of the peer.
        theirs: String,
    },
    /// TLS on this side only.
    #[error(
        "this process uses TLS, the other does not; give every process its certificate, and the CA's \
         (BURN_DIST_TLS_CERT, BURN_DIST_TLS_KEY, BURN_DIST_TLS_CA), or none"
    )]
    PlainPeer,
    /// TLS on the other side only.
    #[error(
        "the other side uses TLS, this process does not; give every process its certificate, and the \
         CA's (BURN_DIST_TLS_CERT, BURN_DIST_TLS_KEY, BURN_DIST_TLS_CA), or none"
    )]
    TlsPeer,
    /// The peer's certificate is not one of the job's.
    #[error("the other side's certificate {0}")]
    Certificate(String),
    /// The peer did not accept this side's certificate.
    #[error("the other side refused this process's certificate, which {0}")]
    CertificateRefused(String),
    /// Another failure of TLS.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The peer is not a process of any job.
    #[error("the other side is no burn-dist program (it began with \"{0}\"); is the port right?")]
    NotAPeer(String),
    /// No handshake before its deadline.
    #[error(
        "no handshake before the deadline; if another program listens on this port, choose another"
    )]
    TooSlow,
    /// The peer closed the connection during the handshake.
    #[error("the other side closed the connection during the handshake; look at its log")]
    Closed,
    /// A hello beyond the limit.
    #[error("hello: expected at most {HELLO} bytes, got {0}")]
    HelloTooLarge(usize),
    /// The operating system failed.
    #[error("the system failed during the handshake: {0}")]
    System(String),
}

/// Writes `job "mnist"`.
struct Named<'a>(&'a str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("a job without a name"),
            name => write!(f, "job {name:?}"),
        }
    }
}

impl From<Broken> for HandshakeError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Late => Self::TooSlow,
            Broken::Closed => Self::Closed,
            Broken::System(error) => Self::System(error.to_string()),
        }
    }
}
