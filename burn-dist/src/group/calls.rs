//! What each call requires of its arguments, and the signature by which ranks compare their calls.
//!
//! A wrong argument is found before anyone is contacted. The rank that gave it gets
//! [`Error::InvalidArgument`], and the group fails for the others, which would otherwise wait for a call
//! that never comes.

use std::sync::Arc;
use std::time::Duration;

use super::ProcessGroup;
use super::member::Core;
use crate::element::{Element, ReduceOp};
use crate::error::{Call, Detail, Error, Result};
use crate::transport::threads::Entry;

/// The right to one operation: its place in the group's order is taken.
pub(super) struct Ticket {
    core: Arc<Core>,
    call: Arc<Call>,
    timeout: Duration,
}

impl Ticket {
    pub(super) fn sequence(&self) -> u64 {
        self.call.sequence
    }

    /// Runs the operation that the ticket was taken for.
    pub(super) fn run<R>(&self, operation: impl FnOnce(Entry<'_>) -> Result<R>) -> Result<R> {
        let Self {
            core,
            call,
            timeout,
        } = self;
        let (meeting, rank) = (&*core.meeting, core.rank);
        let entry = Entry {
            meeting,
            rank,
            call: Arc::clone(call),
            timeout: *timeout,
        };
        meeting.recorded(rank, call, || operation(entry))
    }
}

impl ProcessGroup {
    /// Takes the next place in the group's order for a call whose arguments are right.
    pub(super) fn ticket(
        &self,
        operation: &'static str,
        dtype: &'static str,
        shape: &[usize],
        mut detail: Detail,
    ) -> Ticket {
        self.member.lineage().tell_fault();
        detail.within = self.within.map(Into::into);
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
            call,
            timeout: self.timeout,
        }
    }

    pub(super) fn barrier_ticket(&self) -> Ticket {
        self.ticket("barrier", "", &[], Detail::default())
    }

    pub(super) fn broadcast_ticket<T: Element>(
        &self,
        shape: &[usize],
        root: usize,
    ) -> Result<Ticket> {
        let root = self.check_root("broadcast", root)?;
        Ok(self.ticket(
            "broadcast",
            T::NAME,
            shape,
            Detail {
                root,
                ..Detail::default()
            },
        ))
    }

    pub(super) fn reduce_ticket<T: Element>(
        &self,
        shape: &[usize],
        op: ReduceOp,
        root: usize,
    ) -> Result<Ticket> {
        let root = self.check_root("reduce", root)?;
        let detail = Detail {
            reduction: Some(op.name().into()),
            root,
            ..Detail::default()
        };
        Ok(self.ticket("reduce", T::NAME, shape, detail))
    }

    pub(super) fn all_reduce_ticket<T: Element>(&self, shape: &[usize], op: ReduceOp) -> Ticket {
        let detail = Detail {
            reduction: Some(op.name().into()),
            ..Detail::default()
        };
        self.ticket("all_reduce", T::NAME, shape, detail)
    }

    /// `output` is the length of the output; there is one on the root alone.
    pub(super) fn gather_ticket<T: Element>(
        &self,
        shape: &[usize],
        input: usize,
        output: Option<usize>,
        root: usize,
    ) -> Result<Ticket> {
        let detail = Detail {
            root: self.check_root("gather", root)?,
            ..Detail::default()
        };
        self.check_side("gather", "output", output.is_some(), root)?;
        if let Some(output) = output {
            self.check_whole("gather", "output", output, input)?;
        }
        Ok(self.ticket("gather", T::NAME, shape, detail))
    }

    pub(super) fn all_gather_ticket<T: Element>(
        &self,
        shape: &[usize],
        input: usize,
        output: usize,
    ) -> Result<Ticket> {
        self.check_whole("all_gather", "output", output, input)?;
        Ok(self.ticket("all_gather", T::NAME, shape, Detail::default()))
    }

    /// `input` is the length of the input; there is one on the root alone. The shape is that of the
    /// output, which every rank knows.
    pub(super) fn scatter_ticket<T: Element>(
        &self,
        shape: &[usize],
        input: Option<usize>,
        output: usize,
        root: usize,
    ) -> Result<Ticket> {
        let detail = Detail {
            root: self.check_root("scatter", root)?,
            ..Detail::default()
        };
        self.check_side("scatter", "input", input.is_some(), root)?;
        if let Some(input) = input {
            self.check_whole("scatter", "input", input, output)?;
        }
        Ok(self.ticket("scatter", T::NAME, shape, detail))
    }

    pub(super) fn reduce_scatter_ticket<T: Element>(
        &self,
        shape: &[usize],
        input: usize,
        output: usize,
        op: ReduceOp,
    ) -> Result<Ticket> {
        self.check_whole("reduce_scatter", "input", input, output)?;
        let detail = Detail {
            reduction: Some(op.name().into()),
            ..Detail::default()
        };
        Ok(self.ticket("reduce_scatter", T::NAME, shape, detail))
    }

    pub(super) fn all_to_all_ticket<T: Element>(
        &self,
        shape: &[usize],
        input: usize,
        output: usize,
    ) -> Result<Ticket> {
        self.check_parts("all_to_all", input)?;
        if input != output {
            let message = format!(
                "the output has {output} elements and the input {input}; they must be equal"
            );
            return Err(self.refuse("all_to_all", message));
        }
        Ok(self.ticket("all_to_all", T::NAME, shape, Detail::default()))
    }

    /// Checks that a length can be cut into one part per rank, and gives the part's.
    pub(super) fn check_parts(&self, call: &'static str, length: usize) -> Result<usize> {
        let ranks = self.world_size();
        if length.is_multiple_of(ranks) {
            return Ok(length / ranks);
        }
        let message = format!(
            "the input has {length} elements, which {ranks} ranks can't share evenly; pad it to a \
             multiple of {ranks}"
        );
        Err(self.refuse(call, message))
    }

    /// Checks that a peer is a rank of the group.
    pub(super) fn check_peer(&self, call: &'static str, peer: usize) -> Result<usize> {
        if let Some(&peer) = self.ranks().get(peer) {
            return Ok(peer);
        }
        Err(self.refuse(call, self.no_rank(peer)))
    }

    fn check_root(&self, call: &'static str, root: usize) -> Result<Option<usize>> {
        self.check_peer(call, root).map(Some)
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
            _ => Ok(()),
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

    fn no_rank(&self, rank: usize) -> String {
        let size = self.world_size();
        format!("there is no rank {rank} in a group of {size}; ranks count from 0")
    }

    /// The error of a call that can't be right, of which the other ranks are told.
    pub(super) fn refuse(&self, call: &'static str, message: String) -> Error {
        let core = self.core();
        core.meeting.fail(
            core.meeting
                .left(core.rank, &format!("{call}: {message}"), None),
        );
        Error::InvalidArgument {
            rank: self.global_rank(),
            call,
            message,
        }
    }
}
