//! Why a connection was turned away.
//!
//! Callers: `channel` and `auth` say it, `store`, `join` and `transport` count, judge and tell it.

use std::fmt;

use super::timed::Broken;

/// The most bytes of a hello.
pub(crate) const HELLO: usize = 4096;

/// Why a connection was not accepted as one of the job's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(
    not(feature = "tls"),
    expect(dead_code, reason = "some are met with in TLS alone")
)]
pub(crate) enum Rejected {
    /// A proof was wrong, here or there.
    #[error(
        "the secrets differ; give every process of the job the same BURN_DIST_SECRET (or \
         BURN_DIST_SECRET_FILE), and look whether another job uses this port"
    )]
    WrongSecret,
    /// Both know the secret, but for different jobs.
    #[error(
        "another job listens at this address: this process belongs to {}, the other to {}; give each job \
         a port of its own (MASTER_PORT), and all processes of one job the same name (BURN_DIST_JOB)",
        Named(ours),
        Named(theirs)
    )]
    OtherJob {
        /// The name of this process's job; empty if it has none.
        ours: String,
        /// The name of the other's.
        theirs: String,
    },
    /// The other program speaks another version.
    #[error(
        "this program was built with burn-dist {ours}, the other with {theirs}; run the same program \
         on every machine"
    )]
    Version {
        /// The version here.
        ours: String,
        /// The version there.
        theirs: String,
    },
    /// This process encrypts, the other does not.
    #[error(
        "this process uses TLS, the other does not; give every process its certificate, and the CA's \
         (BURN_DIST_TLS_CERT, BURN_DIST_TLS_KEY, BURN_DIST_TLS_CA), or none"
    )]
    PlainPeer,
    /// The other side encrypts, this process does not.
    #[error(
        "the other side uses TLS, this process does not; give every process its certificate, and the \
         CA's (BURN_DIST_TLS_CERT, BURN_DIST_TLS_KEY, BURN_DIST_TLS_CA), or none"
    )]
    TlsPeer,
    /// The certificate of the other side is not one of the job's.
    #[error("the other side's certificate {0}")]
    Certificate(String),
    /// The other side did not accept this side's certificate.
    #[error("the other side refused this process's certificate, which {0}")]
    CertificateRefused(String),
    /// TLS failed for another reason.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The other side is no process of any job.
    #[error("the other side is no burn-dist program (it began with \"{0}\"); is the port right?")]
    NotAPeer(String),
    /// The handshake took too long.
    #[error(
        "no handshake before the deadline; if another program listens on this port, choose another"
    )]
    TooSlow,
    /// The other side closed the connection before the handshake was done.
    #[error("the other side closed the connection during the handshake; look at its log")]
    Closed,
    /// A hello has more bytes than are allowed.
    #[error("a hello of {0} bytes was announced, {HELLO} are allowed")]
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

impl From<Broken> for Rejected {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Late => Self::TooSlow,
            Broken::Closed => Self::Closed,
            Broken::System(error) => Self::System(error.to_string()),
        }
    }
}
