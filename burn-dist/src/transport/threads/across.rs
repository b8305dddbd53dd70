//! An operation of a group that lies in several processes.
//!
//! ```text
//! the ranks of a process lend ── all here have come ──> each packs some of the parcels
//!     the leader sends and receives them over the network ──> all unpack what has come
//! ```
//!
//! The leader is the lowest rank of the process; only its thread uses the network, and no lock is held
//! meanwhile. In every round each process sends one parcel, if only an empty one, to every other, with
//! the encoded call: so no operation ends unless all processes make the same one.
//!
//! Callers: `collective::remote`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::away::Away;
use super::meeting::{Entry, Occasion};
use super::relay::{Parcels, Relay, Stage};
use super::shared::{Floor, Lent};
use crate::control;
use crate::error::{Call, Error, Result};
use crate::transport::network::{Cause, Lost, Tag};
use crate::transport::processes::Layout;

/// How long the leader waits for a message before it looks whether the group has failed.
const LOOK_UP: Duration = Duration::from_millis(10);

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
    fn parcels(self, places: usize) -> std::ops::Range<usize> {
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
type Pack<'p> = &'p dyn Fn(&Floor<'_>, usize) -> Vec<u8>;

/// Says what is wrong with a parcel from a place.
pub(crate) type Check<'p> = &'p dyn Fn(usize, &[u8]) -> Result<(), String>;

/// What an operation sends to the other processes.
pub(crate) struct Plan<'p> {
    pub(crate) audience: Audience,
    pub(crate) pack: Pack<'p>,
    pub(crate) check: Check<'p>,
    /// A second round, if there is one.
    pub(crate) second: Option<Second<'p>>,
}

/// A round in which every place gets what the leader makes of the first round's parcels.
pub(crate) struct Second<'p> {
    pub(crate) merge: &'p dyn Fn(&Parcels) -> Vec<u8>,
    pub(crate) check: Check<'p>,
}

/// One rank's entry into one operation of a group that lies in several processes.
pub(crate) struct Abroad<'m> {
    entry: Entry<'m>,
    away: &'m Away,
}

impl<'m> Entry<'m> {
    /// This entry, if ranks of the group are in other processes; itself again if they are not.
    pub(crate) fn abroad(self) -> Result<Abroad<'m>, Self> {
        let meeting = self.meeting;
        match &meeting.away {
            Some(away) => Ok(Abroad { entry: self, away }),
            None => Err(self),
        }
    }
}

impl<'m> Abroad<'m> {
    /// Where the ranks are.
    pub(crate) fn layout(&self) -> &'m Layout {
        &self.away.layout
    }

    /// This rank within the group.
    pub(crate) fn rank(&self) -> usize {
        self.entry.rank
    }

    /// How many ranks take part.
    pub(crate) fn ranks(&self) -> usize {
        self.entry.ranks()
    }

    /// Lends `lent` to the ranks here, who pack the parcels; gives what all places have sent.
    ///
    /// # Errors
    /// The group's failure, if it has one or gets one before all is there.
    pub(crate) fn trade(self, lent: Lent<'_>, plan: &Plan<'_>) -> Result<Parcels> {
        let Self { entry, away } = self;
        let (layout, meeting) = (&away.layout, entry.meeting);
        let occasion = meeting.enter(entry.rank, &entry.call)?;
        let deadline = Instant::now() + entry.timeout;
        let seat = layout.seat(entry.rank);
        let relay = &occasion.relay;
        entry.exchange(&occasion, lent, deadline, |floor| {
            // The ranks share the parcels out among them.
            let parcels = plan.audience.parcels(layout.places().len());
            for place in parcels.skip(seat).step_by(layout.local().len()) {
                // Nobody else packs this one.
                let _ = relay.parcels[place].set(Arc::new((plan.pack)(&floor, place)));
            }
        })?;
        let carrier = Carrier {
            entry: &entry,
            away,
            relay,
            deadline,
        };
        if seat > 0 {
            let come = relay.wait(deadline, || carrier.give_up());
            return come.ok_or_else(|| carrier.failure());
        }
        let mut settling = Settling {
            carrier: &carrier,
            occasion: &occasion,
            come: None,
        };
        let come = carrier.carry(plan)?;
        settling.come = Some(come.clone());
        Ok(come)
    }
}

/// What the leader does with the network.
struct Carrier<'o, 'm> {
    entry: &'o Entry<'m>,
    away: &'m Away,
    relay: &'o Relay,
    deadline: Instant,
}

impl Carrier<'_, '_> {
    fn carry(&self, plan: &Plan<'_>) -> Result<Parcels> {
        let call = &*self.entry.call;
        let head = control::encode(call).map_err(|message| self.malformed(self.here(), message))?;
        let empty = Arc::new(Vec::new());
        let parcel = |place| {
            let packed = plan.audience.parcel(place);
            let packed = packed.and_then(|number| self.relay.parcels[number].get());
            packed.unwrap_or(&empty).clone()
        };
        let first = self.round(0, &head, &parcel, plan.check)?;
        let Some(second) = &plan.second else {
            return Ok(first);
        };
        let merged = Arc::new((second.merge)(&first));
        self.round(1, &[], &|_| merged.clone(), second.check)
    }

    /// Sends every place its parcel and receives one from each.
    fn round(
        &self,
        part: u32,
        head: &[u8],
        parcel: &dyn Fn(usize) -> Arc<Vec<u8>>,
        check: Check<'_>,
    ) -> Result<Parcels> {
        let (network, places) = (&self.away.network, self.away.layout.places());
        let (group, sequence) = (self.away.layout.group, self.entry.call.sequence);
        let tag = Tag {
            group,
            sequence,
            part,
        };
        let here = self.here();
        // Each begins with the next after it, so that not all write to one at once.
        let others = || (1..places.len()).map(|step| (here + step) % places.len());
        self.relay.await_all(others().collect());
        for place in others() {
            self.look_up()?;
            network
                .send(
                    places[place].process,
                    tag,
                    head,
                    &parcel(place),
                    self.deadline,
                )
                .map_err(|lost| self.lost(&lost))?;
        }
        let mut come: Vec<Option<Arc<Vec<u8>>>> = vec![None; places.len()];
        come[here] = Some(parcel(here));
        for place in others() {
            let (theirs, body) = self.receive(place, tag)?;
            if theirs != head {
                return Err(self.mismatch(place, &theirs));
            }
            check(place, &body).map_err(|message| self.malformed(place, message))?;
            come[place] = Some(Arc::new(body));
        }
        Ok(come.into_iter().flatten().collect())
    }

    fn receive(&self, place: usize, tag: Tag) -> Result<(Vec<u8>, Vec<u8>)> {
        let process = self.away.layout.places()[place].process;
        loop {
            let next = (Instant::now() + LOOK_UP).min(self.deadline);
            match self.away.network.receive(process, tag, next) {
                Ok(come) => {
                    self.relay.heard_from(place);
                    return Ok(come);
                }
                Err(lost) => {
                    self.look_up()?;
                    if !matches!(lost.cause, Cause::Deadline(_)) {
                        return Err(self.lost(&lost));
                    }
                }
            }
            if Instant::now() >= self.deadline {
                // What came while this one was waited for isn't missing.
                for other in self.relay.awaited() {
                    let process = self.away.layout.places()[other].process;
                    if self
                        .away
                        .network
                        .receive(process, tag, self.deadline)
                        .is_ok()
                    {
                        self.relay.heard_from(other);
                    }
                }
                self.give_up();
                return Err(self.failure());
            }
        }
    }

    /// Fails if the group has.
    fn look_up(&self) -> Result<()> {
        if self.relay.is_closed() {
            Err(self.failure())
        } else {
            Ok(())
        }
    }

    /// The group's failure; a closed relay has one.
    fn failure(&self) -> Error {
        let (meeting, rank) = (self.entry.meeting, self.entry.rank);
        meeting.fail(meeting.left(rank, "withdrew", None))
    }

    /// Ends the group if places are missing still.
    fn give_up(&self) {
        let awaited = self.relay.awaited();
        if awaited.is_empty() {
            return;
        }
        self.entry.meeting.fail(self.timeout(&awaited));
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
        let meeting = self.entry.meeting;
        let place = self.away.layout.place_of(lost.process);
        if let (Cause::Deadline(_), Some(place)) = (&lost.cause, place) {
            return meeting.fail(self.timeout(&[place]));
        }
        meeting.missed(self.entry.rank, lost, &self.entry.call)
    }

    /// Both sides find a mismatch; they tell it alike, the lower rank last.
    fn mismatch(&self, place: usize, head: &[u8]) -> Error {
        let call: Arc<Call> = match control::decode(head) {
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

/// Ends the leader's part when dropped, so that the others here never wait for a leader that is gone.
struct Settling<'c, 'o, 'm> {
    carrier: &'c Carrier<'o, 'm>,
    occasion: &'c Arc<Occasion>,
    /// What has come from all.
    come: Option<Parcels>,
}

impl Drop for Settling<'_, '_, '_> {
    fn drop(&mut self) {
        let (meeting, rank) = (self.carrier.entry.meeting, self.carrier.entry.rank);
        let next = self.come.take().map_or(Stage::Closed, Stage::Delivered);
        if matches!(next, Stage::Closed) {
            // Whatever failed has said so already, unless the leader panicked.
            meeting.fail(meeting.left(rank, "panicked while it reduced", None));
        }
        let mut state = meeting.lock();
        let carried = &mut state.carried;
        carried.retain(|(_, other)| !Arc::ptr_eq(self.occasion, other));
        drop(state);
        self.carrier.relay.step(next);
    }
}
