//! Counts and logs the connections that a port turned away.
//!
//! Invariant: a connection that a port accepted and did not keep is counted once, before it is closed. (The port
//! never accepted those that the system still held when it closed.)

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::handshake_error::HandshakeError;

/// Reason why a connection was turned away.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Reject {
    #[error("{0}")]
    Unproved(HandshakeError),
    #[error("newer connections took its place before its handshake was done")]
    Crowded,
    #[error("the port closed before its handshake was done")]
    Unfinished,
    #[error("the port has as many connections as it allows")]
    Full,
    #[error("process {0} has a connection already")]
    Connected(usize),
    #[error("{0}")]
    Foreign(String),
    #[error("invalid request: {0}")]
    Malformed(String),
    #[error("the operating system failed: {0}")]
    System(String),
}

/// Numbers of connections that were turned away, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RejectCounts {
    /// A proof was wrong, or replayed.
    pub(crate) wrong_secret: u64,
    /// Another version of this crate.
    pub(crate) version: u64,
    /// No handshake, or a hello that is too large.
    pub(crate) not_a_peer: u64,
    /// No proof in time.
    pub(crate) too_slow: u64,
    /// TLS on one side only, or no certificate of the job.
    pub(crate) tls: u64,
    /// Closed before the proof.
    pub(crate) closed: u64,
    /// Evicted by a newer connection before the proof.
    pub(crate) crowded: u64,
    /// Without a proof when the port closed.
    pub(crate) unfinished: u64,
    /// Proved, but one too many.
    pub(crate) full: u64,
    /// Proved, but the process has a connection.
    pub(crate) connected: u64,
    /// Proved, but not a process that connects here.
    pub(crate) foreign: u64,
    /// Proved, but an invalid or incomplete request.
    pub(crate) malformed: u64,
    /// The operating system failed.
    pub(crate) system: u64,
}

impl RejectCounts {
    pub(crate) fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }

    fn by_kind(&self) -> [(&'static str, u64); 13] {
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
            ("connected already", self.connected),
            ("not a process of this job", self.foreign),
            ("invalid request", self.malformed),
            ("the system failed", self.system),
        ]
    }

    fn of(&mut self, reject: &Reject) -> &mut u64 {
        use HandshakeError as Error;
        match reject {
            Reject::Unproved(Error::WrongSecret) => &mut self.wrong_secret,
            Reject::Unproved(Error::Version { .. }) => &mut self.version,
            Reject::Unproved(Error::NotAPeer(_) | Error::HelloTooLarge(_)) => &mut self.not_a_peer,
            Reject::Unproved(Error::TooSlow) => &mut self.too_slow,
            Reject::Unproved(
                Error::PlainPeer
                | Error::TlsPeer
                | Error::Certificate(_)
                | Error::CertificateRefused(_)
                | Error::Tls(_),
            ) => &mut self.tls,
            Reject::Unproved(Error::Closed) => &mut self.closed,
            Reject::Crowded => &mut self.crowded,
            Reject::Unfinished => &mut self.unfinished,
            Reject::Full => &mut self.full,
            Reject::Connected(_) => &mut self.connected,
            Reject::Unproved(Error::OtherJob { .. }) | Reject::Foreign(_) => &mut self.foreign,
            Reject::Malformed(_) => &mut self.malformed,
            Reject::Unproved(Error::System(_)) | Reject::System(_) => &mut self.system,
        }
    }
}

/// Writes `12 (10 wrong secret, 2 no handshake)`.
impl fmt::Display for RejectCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())?;
        let counted = self.by_kind().into_iter().filter(|(_, count)| *count > 0);
        for (place, (kind, count)) in counted.enumerate() {
            write!(f, "{}{count} {kind}", [" (", ", "][usize::from(place > 0)])?;
        }
        f.write_str(if self.total() > 0 { ")" } else { "" })
    }
}

/// The counts of a port. It logs the first reject of each kind and then the tenth, the hundredth and so on:
/// strangers can't fill the log.
#[derive(Debug)]
pub(crate) struct RejectLog {
    port: &'static str,
    state: Mutex<RejectState>,
}

#[derive(Debug)]
struct RejectState {
    counts: RejectCounts,
    /// Start of the second in which `recent` rejects were counted.
    second: Instant,
    recent: u32,
}

impl RejectLog {
    /// Creates the counts of a port, which the log calls `port`.
    pub(crate) fn new(port: &'static str) -> Self {
        let state = Mutex::new(RejectState {
            counts: RejectCounts::default(),
            second: Instant::now(),
            recent: 0,
        });
        Self { port, state }
    }

    pub(crate) fn port(&self) -> &'static str {
        self.port
    }

    /// Counts a connection.
    pub(crate) fn record(&self, address: Option<SocketAddr>, reject: &Reject) {
        let count = {
            let mut state = self.state.lock();
            if state.second.elapsed() >= SECOND {
                (state.second, state.recent) = (Instant::now(), 0);
            }
            state.recent = state.recent.saturating_add(1);
            let count = state.counts.of(reject);
            *count += 1;
            *count
        };
        if is_power_of_ten(count) {
            tracing::warn!(
                address = address.map(tracing::field::display),
                count,
                "{} turned a connection away: {reject}",
                self.port
            );
        }
    }

    /// Returns the rest of this second, if so many connections were turned away in it.
    pub(crate) fn pause(&self, most: u32) -> Option<Duration> {
        let state = self.state.lock();
        let left = SECOND.saturating_sub(state.second.elapsed());
        (state.recent >= most && !left.is_zero()).then_some(left)
    }

    /// Sets the start of the second in which rejects are counted.
    #[cfg(test)]
    pub(super) fn set_second(&self, start: Instant) {
        self.state.lock().second = start;
    }

    pub(crate) fn counts(&self) -> RejectCounts {
        self.state.lock().counts
    }
}

pub(super) const SECOND: Duration = Duration::from_secs(1);

fn is_power_of_ten(count: u64) -> bool {
    count
        .checked_ilog10()
        .is_some_and(|digits| count == 10_u64.pow(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_by_kind() {
        let log = RejectLog::new("a port");
        assert_eq!(log.counts().to_string(), "0");
        log.record(None, &Reject::Unproved(HandshakeError::WrongSecret));
        log.record(None, &Reject::Unproved(HandshakeError::WrongSecret));
        log.record(None, &Reject::Crowded);
        let counts = log.counts();
        assert_eq!(counts.to_string(), "3 (2 wrong secret, 1 crowded out)");
        assert_eq!(counts.total(), 3);
    }

    #[test]
    fn too_many_in_a_second_make_a_pause_and_few_log_lines() {
        let log = RejectLog::new("a port");
        // A second that does not end while the test runs.
        log.set_second(Instant::now() + Duration::from_hours(1));
        assert_eq!(log.pause(1), None);
        log.record(None, &Reject::Full);
        assert_eq!(log.pause(1), Some(SECOND));
        assert_eq!(log.pause(2), None);
        let logged = (1..1_000_000).filter(|count| is_power_of_ten(*count));
        assert_eq!(logged.count(), 6);
    }
}
