//! The links of a process: for each other process, how far a connection with it has come.
//!
//! ```text
//!            begin_dial            joined (answer Accepted)
//!   Apart ───────────────▶ Dialling ───────────────────────▶ Joined
//!     ▲  ▲                  │    │ answer (hello of a higher process)
//!     │  └──── release ─────┘    ▼
//!     │                      Accepting ─────────────────────▶ Joined
//!     └──────── release ─────────┘    joined (confirmed)
//! ```
//!
//! Where two processes dial each other at once, the dial of the higher one counts: the lower gives its own up and
//! answers "accepted", the higher answers "busy". An attempt has a number, and what was decided meanwhile for
//! another attempt makes it void. The handshake of a dial that was given up goes on to its end: if it broke off, the
//! other side would count it among those of strangers.
//!
//! Invariants: a link is joined once at most, and stays so. The end of a process is noted once.

use std::mem;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use super::hello::Answer;
use crate::transport::network::Cause;

/// The links of a process.
pub(super) struct Links {
    process: usize,
    table: Vec<PeerLink>,
    last_attempt: u64,
    /// True once this process takes no new connections.
    pub(super) is_closing: bool,
    /// Number of dials on need.
    dials: usize,
}

/// The link with one process.
#[derive(Default)]
pub(super) struct PeerLink {
    pub(super) state: LinkState,
    /// Cause of the end of the process, once it is known.
    pub(super) end: Option<Cause>,
    /// The thread that dials the process because somebody needs it.
    pub(super) dial: Option<Dial>,
    /// Failure of the last attempt to connect.
    pub(super) failure: Option<String>,
    /// Number and socket of a dial that was given up for that of the other side.
    given_up: Option<(u64, Arc<TcpStream>)>,
    /// True if this process's dial made the connection, and one of the other side may still come.
    pub(super) may_cross: bool,
}

/// LinkState of a link.
#[derive(Default)]
pub(super) enum LinkState {
    /// There is no connection.
    #[default]
    Apart,
    /// This process dials.
    Dialling {
        attempt: u64,
        /// To be shut if the attempt is given up.
        socket: Option<Arc<TcpStream>>,
    },
    /// The other process dials, and was accepted. Its confirmation is due.
    Accepting { attempt: u64 },
    /// There is, or was, a connection.
    Joined,
}

/// A dial on need.
pub(super) struct Dial {
    /// Time until which somebody needs the connection.
    pub(super) until: Instant,
}

impl Links {
    pub(super) fn new(process: usize, processes: usize) -> Self {
        Self {
            process,
            table: (0..processes).map(|_| PeerLink::default()).collect(),
            last_attempt: 0,
            is_closing: false,
            dials: 0,
        }
    }

    /// Returns the number of dials on need.
    pub(super) fn dials(&self) -> usize {
        self.dials
    }

    /// Notes that somebody needs a connection, which a thread dials for.
    pub(super) fn set_dial(&mut self, peer: usize, until: Instant) {
        let dial = &mut self.table[peer].dial;
        self.dials += usize::from(dial.is_none());
        *dial = Some(Dial { until });
    }

    /// Notes the end of a dial on need.
    pub(super) fn end_dial(&mut self, peer: usize) {
        self.dials -= usize::from(self.table[peer].dial.take().is_some());
    }

    pub(super) fn get(&self, peer: usize) -> &PeerLink {
        &self.table[peer]
    }

    pub(super) fn get_mut(&mut self, peer: usize) -> &mut PeerLink {
        &mut self.table[peer]
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &PeerLink> {
        self.table.iter()
    }

    /// Begins to dial a process, and returns the number of the attempt; none if there is no need or no use.
    pub(super) fn begin_dial(&mut self, peer: usize) -> Option<u64> {
        let link = &self.table[peer];
        if self.is_closing || link.end.is_some() || !matches!(link.state, LinkState::Apart) {
            return None;
        }
        self.last_attempt += 1;
        let attempt = self.last_attempt;
        self.table[peer].state = LinkState::Dialling {
            attempt,
            socket: None,
        };
        Some(attempt)
    }

    /// True if nobody may connect with a process any more.
    pub(super) fn is_shut(&self, peer: usize) -> bool {
        self.is_closing || self.table[peer].end.is_some()
    }

    /// Keeps the socket of an attempt to dial. Returns false if nobody may connect with the process any more.
    pub(super) fn keep_socket(&mut self, peer: usize, number: u64, new: &Arc<TcpStream>) -> bool {
        if self.is_shut(peer) {
            return false;
        }
        let link = &mut self.table[peer];
        match &mut link.state {
            LinkState::Dialling { attempt, socket } if *attempt == number => {
                *socket = Some(new.clone());
            }
            _ => link.given_up = Some((number, new.clone())),
        }
        true
    }

    /// Answers the hello of a process that dials this one. An accepted one has the number of its attempt.
    pub(super) fn answer(&mut self, peer: usize) -> (Answer, Option<u64>) {
        if self.is_shut(peer) {
            return (Answer::Refused, None);
        }
        let link = &mut self.table[peer];
        match &mut link.state {
            // Of two dials at once, the one that does not count.
            LinkState::Joined if mem::take(&mut link.may_cross) => return (Answer::Busy, None),
            LinkState::Joined => return (Answer::Connected, None),
            LinkState::Dialling { .. } if self.process > peer => return (Answer::Busy, None),
            LinkState::Dialling { attempt, socket } => {
                link.given_up = socket.take().map(|socket| (*attempt, socket));
            }
            // It dials again, so it has given up the attempt before.
            LinkState::Apart | LinkState::Accepting { .. } => {}
        }
        self.last_attempt += 1;
        let attempt = self.last_attempt;
        link.state = LinkState::Accepting { attempt };
        (Answer::Accepted, Some(attempt))
    }

    /// True if an attempt is not void.
    pub(super) fn holds(&self, peer: usize, number: u64) -> bool {
        match self.table[peer].state {
            LinkState::Dialling { attempt, .. } | LinkState::Accepting { attempt } => {
                attempt == number
            }
            LinkState::Apart | LinkState::Joined => false,
        }
    }

    /// Ends an attempt without a connection. Returns false if it was void.
    pub(super) fn release(&mut self, peer: usize, attempt: u64) -> bool {
        let was_held = self.holds(peer, attempt);
        let link = &mut self.table[peer];
        if was_held {
            link.state = LinkState::Apart;
        }
        link.given_up.take_if(|(number, _)| *number == attempt);
        was_held
    }

    /// Notes the end of a process. Returns false if it was known.
    pub(super) fn end(&mut self, peer: usize, cause: &Cause) -> bool {
        let link = &mut self.table[peer];
        if link.end.is_some() {
            return false;
        }
        link.end = Some(cause.clone());
        link.shut_given_up();
        // A process that has left may have sent something before, on a connection that is not confirmed yet.
        if !matches!(
            (cause, &link.state),
            (Cause::Left, LinkState::Accepting { .. })
        ) {
            link.abandon();
        }
        true
    }

    /// Takes no new connections, and gives up all dials.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
        for link in &mut self.table {
            link.shut_given_up();
            if let LinkState::Dialling { .. } = link.state {
                link.abandon();
            }
        }
    }
}

impl PeerLink {
    /// Gives up an attempt under way.
    fn abandon(&mut self) {
        if let LinkState::Dialling { socket, .. } = &self.state
            && let Some(socket) = socket
        {
            // Fails only if the peer has closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        if !matches!(self.state, LinkState::Joined) {
            self.state = LinkState::Apart;
        }
    }

    /// Ends the handshake of a dial that was given up.
    fn shut_given_up(&mut self) {
        if let Some((_, socket)) = self.given_up.take() {
            // Fails only if the peer has closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn is_accepting(&self) -> bool {
        matches!(self.state, LinkState::Accepting { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_dials_at_once_that_of_the_higher_process_counts() {
        let (mut low, mut high) = (Links::new(1, 3), Links::new(2, 3));
        let lows = low.begin_dial(2).unwrap();
        let highs = high.begin_dial(1).unwrap();
        assert_eq!(high.answer(1), (Answer::Busy, None));
        let (answer, accepted) = low.answer(2);
        assert_eq!(answer, Answer::Accepted);
        assert!(!low.holds(2, lows) && low.holds(2, accepted.unwrap()));
        assert!(high.holds(1, highs));
        low.release(2, lows);
        assert!(low.get(2).is_accepting(), "a void attempt changes nothing");
        assert_eq!(low.begin_dial(2), None);
    }

    #[test]
    fn the_last_of_several_hellos_counts() {
        let mut links = Links::new(0, 2);
        let (_, first) = links.answer(1);
        let (_, second) = links.answer(1);
        assert!(!links.holds(1, first.unwrap()) && links.holds(1, second.unwrap()));
    }

    #[test]
    fn nobody_connects_with_a_process_that_has_ended_or_closes() {
        let mut links = Links::new(0, 4);
        let dial = links.begin_dial(1).unwrap();
        assert!(links.end(1, &Cause::Stopped) && !links.end(1, &Cause::Left));
        assert!(!links.holds(1, dial));
        assert_eq!(links.answer(1), (Answer::Refused, None));
        let (_, accepted) = links.answer(2);
        assert!(links.end(2, &Cause::Left));
        assert!(
            links.holds(2, accepted.unwrap()),
            "what it sent may come yet"
        );
        let dial = links.begin_dial(3).unwrap();
        links.close();
        assert!(!links.holds(3, dial));
        assert_eq!(links.begin_dial(3), None);
    }
}
