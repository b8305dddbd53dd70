//! A collective as data: the requirements on its arguments, the signature by which ranks compare their
//! calls, and the algorithm that runs it.
//!
//! A wrong argument is found before anyone is contacted. The rank that gave it gets
//! [`Error::InvalidArgument`], and the group fails for the others, which would otherwise wait for a call
//! that never comes.

use std::sync::Arc;
use std::time::Duration;

use super::ProcessGroup;
use super::member::Core;
use crate::collective::{Collective, Unfit};
use crate::element::ReduceOp;
use crate::engine::OpHandle;
use crate::error::{Call, Detail, Error, Result};

/// The dtype of bool tensors in signatures. Their elements travel as `u8`.
pub(super) const BOOL: &str = "bool";

/// The right to one operation: its place in the group's order is taken.
pub(super) struct Ticket {
    core: Arc<Core>,
    operation: &'static str,
    call: Arc<Call>,
    timeout: Duration,
}

impl Ticket {
    pub(super) fn sequence(&self) -> u64 {
        self.call.sequence
    }

    /// The error for byte strings that can't be given. All ranks find the same total, and the group goes on; a
    /// malformed string ends it.
    pub(super) fn unfit(&self, unfit: &Unfit, limit: usize) -> Error {
        let (state, rank) = (&self.core.state, self.core.global_rank());
        match *unfit {
            Unfit::TooMany(total) => Error::InvalidArgument {
                rank,
                call: self.operation,
                message: format!(
                    "the ranks give {total} bytes, more than the {limit} of one call; give less at once"
                ),
            },
            Unfit::Malformed(peer) => state.fail(Error::Control {
                rank,
                peer: state.ranks()[peer],
                message: format!("{}: its lengths and elements don't fit together", self.call),
            }),
        }
    }

    /// Runs the operation that the ticket was taken for.
    pub(super) fn run<R>(&self, operation: impl FnOnce(OpHandle<'_>) -> R) -> R {
        operation(self.handle())
    }

    /// The handle of the operation that the ticket was taken for.
    pub(super) fn handle(&self) -> OpHandle<'_> {
        let Self {
            core,
            call,
            timeout,
            ..
        } = self;
        OpHandle::new(&core.state, core.rank, Arc::clone(call), *timeout)
    }
}

impl<M> ProcessGroup<M> {
    /// Takes the next place in the group's order for a call whose arguments are right.
    pub(super) fn ticket(
        &self,
        operation: &'static str,
        dtype: &'static str,
        shape: &[usize],
        mut detail: Detail,
    ) -> Ticket {
        self.member.lineage().tell_fault();
        detail.within.clone_from(&self.within);
        let core = Arc::clone(self.core());
        let sequence = core.next_collective();
        let call = Arc::new(Call {
            operation: operation.into(),
            sequence,
            dtype: dtype.into(),
            shape: shape.to_vec(),
            detail,
        });
        Ticket {
            core,
            operation,
            call,
            timeout: self.timeout,
        }
    }

    /// Takes the ticket of a collective whose input and output have these lengths on this rank.
    pub(super) fn collective_ticket(
        &self,
        collective: Collective,
        (dtype, shape): (&'static str, &[usize]),
        (input, output): (Option<usize>, Option<usize>),
    ) -> Result<Ticket> {
        let name = collective.name();
        let mut detail = Detail::default();
        if let Some(root) = collective.root() {
            detail.root = Some(self.check_peer(name, root)?);
        }
        if let Some(op) = collective.reduction() {
            if dtype == BOOL && !matches!(op, ReduceOp::Min | ReduceOp::Max) {
                let message = format!(
                    "bool tensors have no {}; use Min (all) or Max (any), or cast them to int",
                    op.name()
                );
                return Err(self.refuse(name, message));
            }
            detail.reduction = Some(op.name().into());
        }
        let (given, taken) = (input.unwrap_or_default(), output.unwrap_or_default());
        match collective {
            Collective::Gather { root } => {
                self.check_side(name, "output", output.is_some(), root)?;
                if output.is_some() {
                    self.check_whole(name, "output", taken, given)?;
                }
            }
            Collective::AllGather => self.check_whole(name, "output", taken, given)?,
            Collective::Scatter { root } => {
                self.check_side(name, "input", input.is_some(), root)?;
                if input.is_some() {
                    self.check_whole(name, "input", given, taken)?;
                }
            }
            Collective::ReduceScatter { .. } => self.check_whole(name, "input", given, taken)?,
            Collective::AllToAll => {
                self.check_parts(name, given)?;
                if given != taken {
                    let message = format!(
                        "the output has {taken} elements and the input {given}; they must be equal"
                    );
                    return Err(self.refuse(name, message));
                }
            }
            // Any length is right for one rank; ranks compare theirs.
            Collective::Barrier
            | Collective::Broadcast { .. }
            | Collective::Reduce { .. }
            | Collective::AllReduce { .. } => {}
        }
        Ok(self.ticket(name, dtype, shape, detail))
    }

    /// The length of this rank's output, if it has one, for an input of this length on every rank that has one.
    pub(super) fn output_length(
        &self,
        collective: Collective,
        input: usize,
    ) -> Result<Option<usize>> {
        let whole = input.saturating_mul(self.world_size());
        Ok(match collective {
            Collective::Gather { root } => (self.rank() == root).then_some(whole),
            Collective::AllGather => Some(whole),
            Collective::Scatter { .. } | Collective::ReduceScatter { .. } => {
                Some(self.check_parts(collective.name(), input)?)
            }
            Collective::Barrier
            | Collective::Broadcast { .. }
            | Collective::Reduce { .. }
            | Collective::AllReduce { .. }
            | Collective::AllToAll => Some(input),
        })
    }

    /// Checks that a length can be cut into one part per rank, and gives the part's.
    pub(super) fn check_parts(&self, call: &'static str, length: usize) -> Result<usize> {
        let ranks = self.world_size();
        if length.is_multiple_of(ranks) {
            return Ok(length / ranks);
        }
        let message = format!(
            "expected an input whose length (of a tensor, its first dimension) is a multiple of the {ranks} ranks, \
             got {length}; pad it"
        );
        Err(self.refuse(call, message))
    }

    /// Checks that there is one part for each rank.
    pub(super) fn check_count(&self, call: &'static str, parts: usize) -> Result<()> {
        let ranks = self.world_size();
        if parts == ranks {
            return Ok(());
        }
        let message = format!("{parts} parts were given where {ranks} ranks need one each");
        Err(self.refuse(call, message))
    }

    /// Checks that a peer is a rank of the group, and gives its global rank.
    pub(super) fn check_peer(&self, call: &'static str, peer: usize) -> Result<usize> {
        if let Some(&peer) = self.ranks().get(peer) {
            return Ok(peer);
        }
        let size = self.world_size();
        let message = format!("there is no rank {peer} in a group of {size}; ranks count from 0");
        Err(self.refuse(call, message))
    }

    /// Checks that what the root alone has is there on the root alone.
    pub(super) fn check_side(
        &self,
        call: &'static str,
        what: &str,
        given: bool,
        root: usize,
    ) -> Result<()> {
        match (given, self.rank() == root) {
            (false, true) => {
                Err(self.refuse(call, format!("the root must give an {what}; pass Some")))
            }
            (true, false) => {
                Err(self.refuse(call, format!("only the root has an {what}; pass None")))
            }
            (true, true) | (false, false) => Ok(()),
        }
    }

    /// Checks that the whole has one part per rank.
    fn check_whole(&self, call: &'static str, what: &str, whole: usize, part: usize) -> Result<()> {
        let ranks = self.world_size();
        if part.checked_mul(ranks) == Some(whole) {
            return Ok(());
        }
        let message = format!(
            "the {what} has {whole} elements where {ranks} ranks with {part} each need {}",
            part.saturating_mul(ranks)
        );
        Err(self.refuse(call, message))
    }

    /// The error of a call that can't be right, of which the other ranks are told.
    pub(crate) fn refuse(&self, call: &'static str, message: String) -> Error {
        let core = self.core();
        core.state.fail(
            core.state
                .left(core.rank, &format!("{call}: {message}"), None),
        );
        Error::InvalidArgument {
            rank: self.global_rank(),
            call,
            message,
        }
    }
}
