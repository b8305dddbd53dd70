//! What the leader of a process does with the network for an operation, and what it makes of what goes
//! wrong there. No lock is held while it sends and receives.
//!
//! Callers: `across` makes the carrier of an operation; `collective::remote` says what it carries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::away::Away;
use super::meeting::Entry;
use super::relay::{Parcels, Relay};
use super::shared::Floor;
use super::sharing::Loaned;
use crate::codec;
use crate::error::{Call, Error, Result};
use crate::transport::network::{Cancel, Cause, Come, Incoming, Lost, Outgoing, Tag};

/// Who gets what of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience {
    /// Every place gets the same parcel.
    All,
    /// Every place gets one of its own.
    Each,
    /// This place gets one; the others' are empty.
    One(usize),
}

impl Audience {
    /// The parcels to pack, of which a place's is found by [`Self::parcel`].
    pub(super) fn parcels(self, places: usize) -> std::ops::Range<usize> {
        match self {
            Self::All => 0..1,
            Self::Each => 0..places,
            Self::One(place) => place..place + 1,
        }
    }

    /// Which parcel a place gets.
    fn parcel(self, place: usize) -> Option<usize> {
        match self {
            Self::All => Some(0),
            Self::Each => Some(place),
            Self::One(only) => (place == only).then_some(place),
        }
    }
}

/// Makes the parcel for a place from what the ranks here have lent, which is found by seat.
pub(super) type Pack<'p> = &'p dyn Fn(&Floor<'_>, usize) -> Vec<u8>;

/// Says what is wrong with a parcel from a place.
pub(crate) type Check<'p> = &'p dyn Fn(usize, &[u8]) -> Result<(), String>;

/// What an operation sends to the other processes.
pub(crate) struct Plan<'p> {
    pub(crate) audience: Audience,
    pub(crate) pack: Pack<'p>,
    pub(crate) check: Check<'p>,
}

/// Bytes for a place.
pub(crate) struct Outward<'b> {
    pub(crate) place: usize,
    pub(crate) part: u32,
    pub(crate) bytes: &'b [u8],
}

/// Memory for bytes from a place.
pub(crate) struct Inward<'b> {
    pub(crate) place: usize,
    pub(crate) part: u32,
    pub(crate) bytes: &'b mut [u8],
}

/// What the leader does with the network.
pub(crate) struct Carrier<'o, 'm> {
    pub(super) entry: &'o Entry<'m>,
    pub(super) away: &'m Away,
    pub(super) relay: &'o Relay,
    pub(super) deadline: Instant,
}

impl Carrier<'_, '_> {
    /// Sends every place its parcel and receives one from each.
    pub(super) fn carry(&self, plan: &Plan<'_>) -> Result<Parcels> {
        let (places, tag, head) = (self.away.layout.places(), self.tag(0), self.head()?);
        let empty = Bytes::new();
        let parcel = |place| {
            let packed = plan.audience.parcel(place);
            let packed = packed.and_then(|number| self.relay.parcels[number].get());
            packed.unwrap_or(&empty)
        };
        let sends = self.others().map(|place| Outgoing {
            to: places[place].process,
            tag,
            head: &head,
            body: parcel(place),
        });
        let receives = self.others().map(|place| {
            let from = places[place].process;
            Incoming::new(from, tag, Some(&head), None)
        });
        let (sends, mut receives): (Vec<_>, Vec<_>) = (sends.collect(), receives.collect());
        self.exchange(&sends, &mut receives)?;
        let mut come: Vec<_> = (0..places.len())
            .map(|place| parcel(place).clone())
            .collect();
        for (place, receive) in self.others().zip(receives) {
            // An exchange that is done has all it was to receive.
            if let Some(Come::Whole { body, .. }) = receive.come {
                (plan.check)(place, &body).map_err(|message| self.malformed(place, message))?;
                come[place] = body.into();
            }
        }
        Ok(come.into())
    }

    /// The same, with a later deadline.
    pub(crate) fn with_patience(&self, more: Duration) -> Self {
        let deadline = self.deadline + more;
        Self { deadline, ..*self }
    }

    /// The encoded call, which goes with the first message to each place.
    fn head(&self) -> Result<Vec<u8>> {
        let head = codec::encode(&*self.entry.call);
        head.map_err(|message| self.malformed(self.here(), message))
    }

    /// What was packed under this number.
    pub(crate) fn packed(&self, number: usize) -> &[u8] {
        self.relay.parcels[number]
            .get()
            .map_or(&[], |parcel| parcel)
    }

    /// Memory for a result of so many bytes, with anything in it.
    pub(crate) fn memory(&self, bytes: usize) -> Loaned {
        self.entry.meeting.spare.take(bytes)
    }

    /// Sends and receives bytes, each of which a place knows by a part of its own; those with part 0
    /// are the first that a place gets.
    ///
    /// # Errors
    /// The group's failure, if it has one or gets one before all is there.
    pub(crate) fn pass(&self, sends: &[Outward<'_>], receives: Vec<Inward<'_>>) -> Result<()> {
        let places = self.away.layout.places();
        let first = |part| part == 0;
        let any_first = sends.iter().any(|send| first(send.part))
            || receives.iter().any(|receive| first(receive.part));
        let call = if any_first { self.head()? } else { Vec::new() };
        let head = |part| if first(part) { &call[..] } else { &[] };
        let sends = sends.iter().map(|send| Outgoing {
            to: places[send.place].process,
            tag: self.tag(send.part),
            head: head(send.part),
            body: send.bytes,
        });
        let receives = receives.into_iter().map(|receive| {
            let (from, tag) = (places[receive.place].process, self.tag(receive.part));
            Incoming::new(from, tag, Some(head(receive.part)), Some(receive.bytes))
        });
        let (sends, mut receives): (Vec<_>, Vec<_>) = (sends.collect(), receives.collect());
        self.exchange(&sends, &mut receives)
    }

    /// The other places. Each begins with the next after it, so that not all write to one at once.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (here, places) = (self.here(), self.away.layout.places().len());
        (1..places).map(move |step| (here + step) % places)
    }

    fn tag(&self, part: u32) -> Tag {
        Tag {
            group: self.away.layout.group,
            sequence: self.entry.call.sequence,
            part,
        }
    }

    /// Sends and receives over the network, until all is there.
    fn exchange(&self, sends: &[Outgoing<'_>], receives: &mut [Incoming<'_>]) -> Result<()> {
        let layout = &self.away.layout;
        let from = receives
            .iter()
            .filter_map(|receive| layout.place_of(receive.from));
        self.relay.await_all(from.collect());
        let network = &self.away.network;
        let done = network.exchange(sends, receives, self.deadline, self);
        if done.map_err(|lost| self.lost(&lost))? {
            return Ok(());
        }
        let odd = receives.iter().find(|receive| receive.is_odd());
        let odd = odd.and_then(|odd| Some((layout.place_of(odd.from)?, odd)));
        Err(odd.map_or_else(|| self.failure(), |(place, odd)| self.odd(place, odd)))
    }

    /// What a message means that is not the one that is due.
    fn odd(&self, place: usize, odd: &Incoming<'_>) -> Error {
        match (&odd.come, &odd.into) {
            (Some(Come::Whole { head, .. }), _) if odd.head.is_some_and(|due| due != head) => {
                self.mismatch(place, head)
            }
            (Some(Come::Whole { body, .. }), Some(into)) => {
                let (length, due) = (body.len(), into.len());
                self.malformed(place, wrong_length(length, due))
            }
            _ => self.failure(),
        }
    }

    /// The group's failure; a closed relay has one.
    pub(super) fn failure(&self) -> Error {
        self.entry.withdrawn()
    }

    /// Ends the group if places are missing still.
    pub(super) fn give_up(&self) {
        let awaited = self.relay.awaited();
        if awaited.is_empty() {
            return;
        }
        let (meeting, call) = (self.entry.meeting, &self.entry.call);
        meeting.fail_late(call, self.timeout(&awaited));
    }

    fn timeout(&self, places: &[usize]) -> Error {
        let ranks = &self.entry.meeting.ranks;
        let places = places
            .iter()
            .map(|&place| &self.away.layout.places()[place]);
        let mut missing: Vec<usize> = places
            .flat_map(|place| place.ranks.iter().map(|&rank| ranks[rank]))
            .collect();
        missing.sort_unstable();
        Error::Timeout {
            rank: ranks[self.entry.rank],
            call: self.entry.call.clone(),
            missing,
            after: self.entry.timeout,
        }
    }

    fn lost(&self, lost: &Lost) -> Error {
        if let (Cause::Deadline(_), Some(place)) =
            (&lost.cause, self.away.layout.place_of(lost.process))
        {
            let mut missing = self.relay.awaited();
            if missing.is_empty() {
                // Nothing is due from it, but it takes nothing.
                missing.push(place);
            }
            let (meeting, call) = (self.entry.meeting, &self.entry.call);
            return meeting.fail_late(call, self.timeout(&missing));
        }
        let (meeting, rank) = (self.entry.meeting, self.entry.rank);
        meeting.missed(rank, lost, &self.entry.call)
    }

    /// Both sides find a mismatch; they tell it alike, the lower rank last.
    fn mismatch(&self, place: usize, head: &[u8]) -> Error {
        let call: Arc<Call> = match codec::decode(head) {
            Ok(call) => Arc::new(call),
            Err(message) => return self.malformed(place, message),
        };
        let (here, there) = (self.lowest(self.here()), self.lowest(place));
        let (own, other) = ((here, self.entry.call.clone()), (there, call));
        let ((rank, call), (peer, peer_call)) = if here > there {
            (own, other)
        } else {
            (other, own)
        };
        self.entry.meeting.fail(Error::Mismatch {
            rank,
            call,
            peer,
            peer_call,
        })
    }

    fn malformed(&self, place: usize, message: String) -> Error {
        let (rank, peer) = (
            self.entry.meeting.ranks[self.entry.rank],
            self.lowest(place),
        );
        self.entry.meeting.fail(Error::Control {
            rank,
            peer,
            message,
        })
    }

    /// The global rank that speaks for a place.
    fn lowest(&self, place: usize) -> usize {
        self.entry.meeting.ranks[self.away.layout.places()[place].ranks[0]]
    }

    fn here(&self) -> usize {
        self.away.layout.here()
    }
}

/// Says that a parcel has another length than it should.
pub(crate) fn wrong_length(length: usize, due: usize) -> String {
    format!("it has {length} bytes where {due} are due")
}

impl Cancel for Carrier<'_, '_> {
    /// Returns true if the group has failed.
    fn is_cancelled(&self) -> bool {
        if self.relay.is_due() {
            self.entry.meeting.settle(&self.entry.call);
        }
        self.relay.is_closed()
    }

    fn received_from(&self, process: usize) {
        if let Some(place) = self.away.layout.place_of(process) {
            self.relay.heard_from(place);
        }
    }
}
