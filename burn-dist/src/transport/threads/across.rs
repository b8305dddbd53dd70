//! An operation of a group that lies in several processes.
//!
//! ```text
//! the ranks of a process lend ── all here have come ──> each packs some of the parcels
//!     the leader sends and receives them over the network ──> all unpack what has come
//! ```
//!
//! The leader is the lowest rank of the process; only its thread uses the network, and no lock is held
//! meanwhile. In a round each process sends one parcel, if only an empty one, to every other, with
//! the encoded call: so no operation ends unless all processes make the same one.
//!
//! Callers: `collective::remote`.

use std::sync::Arc;
use std::time::Instant;

use super::away::Away;
use super::carrier::{Carrier, Pack, Plan};
use super::meeting::{Entry, Occasion};
use super::relay::{End, Parcels};
use super::shared::Lent;
use crate::error::Result;
use crate::transport::processes::Layout;

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
        let parcels = plan.audience.parcels(self.layout().places().len());
        self.lead(lent, (parcels, plan.pack), |carrier| carrier.carry(plan))
    }

    /// Lends `lent` to the ranks here, who pack the parcels of these numbers; then the leader carries
    /// them, and all get what it has made of that.
    ///
    /// # Errors
    /// As [`Self::trade`].
    pub(crate) fn lead(
        self,
        lent: Lent<'_>,
        (parcels, pack): (std::ops::Range<usize>, Pack<'_>),
        carry: impl FnOnce(&Carrier<'_, '_>) -> Result<Parcels>,
    ) -> Result<Parcels> {
        let Self { entry, away } = self;
        let (layout, meeting) = (&away.layout, entry.meeting);
        let occasion = meeting.enter(entry.rank, &entry.call)?;
        let deadline = Instant::now() + entry.timeout;
        let seat = layout.seat(entry.rank);
        let relay = &occasion.relay;
        entry.exchange(&occasion, lent, deadline, |floor| {
            // The ranks share the parcels out among them.
            for number in parcels.skip(seat).step_by(layout.local().len()) {
                // Nobody else packs this one.
                let _ = relay.parcels[number].set(pack(&floor, number).into());
            }
        })?;
        let carrier = Carrier {
            entry: &entry,
            away,
            relay,
            deadline,
        };
        if seat > 0 {
            let _span = tracing::trace_span!("wait for network").entered();
            let come = relay.wait(deadline, || carrier.give_up());
            return come.ok_or_else(|| carrier.failure());
        }
        let mut settling = Settling {
            carrier: &carrier,
            occasion: &occasion,
            come: None,
        };
        let come = {
            let _span = tracing::trace_span!("network").entered();
            carry(&carrier)?
        };
        settling.come = Some(come.clone());
        Ok(come)
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
        let end = self.come.take().map_or(End::Closed, End::Delivered);
        if matches!(end, End::Closed) {
            // Whatever failed has said so already, unless the leader panicked.
            meeting.fail(meeting.left(rank, "panicked while it reduced", None));
        }
        let mut state = meeting.lock();
        if matches!(end, End::Delivered(_)) {
            state.done.insert(self.carrier.entry.call.sequence);
        }
        let carried = &mut state.carried;
        carried.retain(|(_, other)| !Arc::ptr_eq(self.occasion, other));
        drop(state);
        self.carrier.relay.end(end);
    }
}
