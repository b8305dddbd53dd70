//! Sub-groups, as `MPI_Comm_split` makes them.

use super::ProcessGroup;
use super::member::Core;
use crate::collective::{self, Collective};
use crate::error::{Detail, Result};

/// Arguments of one rank in a split, as they travel: 1 if it has a colour or 0, the colour, the key.
type Ballot = [i64; 3];

impl ProcessGroup {
    /// Makes a group of all ranks that give the same colour; with `None`, this rank joins none. In the
    /// new group, ranks are ordered by key, and by their rank in this group where keys are equal. Every
    /// rank of this group must call it.
    ///
    /// The new group has its own order of calls and its own failures, and this handle's timeout.
    ///
    /// # Errors
    /// Those of every call on the group: [`Error::Mismatch`](crate::Error::Mismatch) and its like.
    ///
    /// ```
    /// # use burn_dist::ProcessGroup;
    /// # for group in ProcessGroup::threads(1)? {
    /// // Even ranks and odd ranks, each in their old order.
    /// let half = group.split(Some(group.rank() as u64 % 2), 0)?;
    /// # }
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn split(&self, colour: Option<u64>, key: i64) -> Result<Option<Self>> {
        // The colour's bits travel as an i64, and are only compared for equality.
        let mine: Ballot = [i64::from(colour.is_some()), colour.unwrap_or(0) as i64, key];
        let mut ballots: Vec<Ballot> = vec![Ballot::default(); self.world_size()];
        let ticket = self.ticket("split", "", &[], Detail::default());
        let (call, all) = (Collective::AllGather, ballots.as_flattened_mut());
        collective::run(ticket.handle(), call, Some(&mine[..]), Some(all))?;
        let Some(colour) = colour else {
            return Ok(None);
        };
        let mut members: Vec<usize> = (0..ballots.len())
            .filter(|&rank| ballots[rank][..2] == mine[..2])
            .collect();
        members.sort_by_key(|&rank| (ballots[rank][2], rank));
        // This rank gave the colour itself, so it is among the members.
        let rank = members
            .iter()
            .position(|&rank| rank == self.rank())
            .unwrap_or(0);
        let core = self.core();
        let state = core.state.child(ticket.sequence(), colour, &members);
        Ok(Some(Self::seat(
            Core::new(state, rank, core.world.clone()),
            self.member.lineage(),
            self.timeout,
        )))
    }

    /// A group of the same ranks in the same order, whose calls are apart from this one's. Every rank
    /// calls it.
    ///
    /// # Errors
    /// As [`Self::split`].
    pub(crate) fn duplicate(&self) -> Result<Self> {
        self.part(0)
    }

    /// The group of the ranks that give the same colour, in the order they have. Every rank calls it.
    pub(crate) fn part(&self, colour: u64) -> Result<Self> {
        self.split(Some(colour), 0)?.ok_or_else(|| {
            let message = "the split left this rank out".to_owned();
            self.refuse("split", message)
        })
    }
}
