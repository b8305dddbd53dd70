//! Asynchronous calls: owned buffers in, owned buffers out, one after the other on this rank's
//! communication thread.
//!
//! A call takes its place in the group's order when it is made, so asynchronous and blocking calls may
//! follow one another as long as all ranks make them in one order.

use super::calls::Ticket;
use super::{ProcessGroup, Work};
use crate::collective;
use crate::element::{Element, ReduceOp};
use crate::error::Result;
use crate::transport::threads::Entry;
use std::ops::Range;
use std::time::Instant;
use tracing::Span;

/// Each call is the blocking call of the same name on another thread. Wrong arguments are reported by
/// [`Work::wait`] too. The time that a call waits for other ranks counts from when it is its turn.
impl ProcessGroup {
    /// [`Self::barrier`] without waiting for it.
    pub fn barrier_async(&self) -> Work<()> {
        self.start(Ok(self.barrier_ticket()), collective::barrier)
    }

    /// [`Self::broadcast`] on an owned buffer.
    pub fn broadcast_async<T: Element>(&self, mut buffer: Vec<T>, root: usize) -> Work<Vec<T>> {
        self.start(
            self.broadcast_ticket::<T>(&[buffer.len()], root),
            move |entry| collective::broadcast(entry, &mut buffer, root).map(|()| buffer),
        )
    }

    /// [`Self::reduce`] on an owned buffer, which comes back on every rank.
    pub fn reduce_async<T: Element>(
        &self,
        mut buffer: Vec<T>,
        op: ReduceOp,
        root: usize,
    ) -> Work<Vec<T>> {
        self.start(
            self.reduce_ticket::<T>(&[buffer.len()], op, root),
            move |entry| collective::reduce(entry, &mut buffer, op, root).map(|()| buffer),
        )
    }

    /// [`Self::all_reduce`] on an owned buffer.
    pub fn all_reduce_async<T: Element>(&self, mut buffer: Vec<T>, op: ReduceOp) -> Work<Vec<T>> {
        self.start(
            Ok(self.all_reduce_ticket::<T>(&[buffer.len()], op)),
            move |entry| collective::all_reduce(entry, &mut buffer, op).map(|()| buffer),
        )
    }

    /// [`Self::all_reduce`] on a buffer of any kind, in a span, with the time that it took.
    pub(crate) fn all_reduce_owned<T: Element, B: AsMut<[T]> + Send + 'static>(
        &self,
        mut buffer: B,
        op: ReduceOp,
        span: Span,
    ) -> Work<(B, Range<Instant>)> {
        let ticket = self.all_reduce_ticket::<T>(&[buffer.as_mut().len()], op);
        self.start(Ok(ticket), move |entry| {
            let _span = span.entered();
            let start = Instant::now();
            collective::all_reduce(entry, buffer.as_mut(), op)?;
            Ok((buffer, start..Instant::now()))
        })
    }

    /// [`Self::gather`] of an owned buffer; the result is `None` on all ranks but the root.
    pub fn gather_async<T: Element>(&self, input: Vec<T>, root: usize) -> Work<Option<Vec<T>>> {
        let length = input.len().saturating_mul(self.world_size());
        let output = (self.rank() == root).then_some(length);
        let ticket = self.gather_ticket::<T>(&[input.len()], input.len(), output, root);
        self.start(ticket, move |entry| {
            let mut output = output.map(zeros::<T>);
            collective::gather(entry, &input, output.as_deref_mut(), root).map(|()| output)
        })
    }

    /// [`Self::all_gather`] of an owned buffer.
    pub fn all_gather_async<T: Element>(&self, input: Vec<T>) -> Work<Vec<T>> {
        let length = input.len().saturating_mul(self.world_size());
        let ticket = self.all_gather_ticket::<T>(&[input.len()], input.len(), length);
        self.start(ticket, move |entry| {
            let mut output = zeros(length);
            collective::all_gather(entry, &input, &mut output).map(|()| output)
        })
    }

    /// [`Self::scatter`] of an owned buffer; `length` is that of the part that each rank gets.
    pub fn scatter_async<T: Element>(
        &self,
        input: Option<Vec<T>>,
        length: usize,
        root: usize,
    ) -> Work<Vec<T>> {
        let whole = input.as_ref().map(Vec::len);
        self.start(
            self.scatter_ticket::<T>(&[length], whole, length, root),
            move |entry| {
                let mut output = zeros(length);
                collective::scatter(entry, input.as_deref(), &mut output, root).map(|()| output)
            },
        )
    }

    /// [`Self::reduce_scatter`] of an owned buffer, whose length is a multiple of the number of ranks.
    pub fn reduce_scatter_async<T: Element>(&self, input: Vec<T>, op: ReduceOp) -> Work<Vec<T>> {
        let length = input.len() / self.world_size();
        let ticket = self
            .check_parts("reduce_scatter", input.len())
            .and_then(|part| {
                self.reduce_scatter_ticket::<T>(&[input.len()], input.len(), part, op)
            });
        self.start(ticket, move |entry| {
            let mut output = zeros(length);
            collective::reduce_scatter(entry, &input, &mut output, op).map(|()| output)
        })
    }

    /// [`Self::all_to_all`] of an owned buffer.
    pub fn all_to_all_async<T: Element>(&self, input: Vec<T>) -> Work<Vec<T>> {
        let ticket = self.all_to_all_ticket::<T>(&[input.len()], input.len(), input.len());
        self.start(ticket, move |entry| {
            let mut output = zeros(input.len());
            collective::all_to_all(entry, &input, &mut output).map(|()| output)
        })
    }

    /// Queues the operation that a ticket was taken for.
    pub(super) fn start<R: Send + 'static>(
        &self,
        ticket: Result<Ticket>,
        operation: impl FnOnce(Entry<'_>) -> Result<R> + Send + 'static,
    ) -> Work<R> {
        let rank = self.global_rank();
        let ticket = match ticket {
            Ok(ticket) => ticket,
            Err(error) => return Work::ready(rank, Err(error)),
        };
        let (job, work) = Work::new(rank, move || ticket.run(operation));
        match self.member.submit(job) {
            Ok(()) => work,
            Err(error) => {
                // The others can't have this operation without this rank.
                let (meeting, rank) = (&self.core().meeting, self.rank());
                meeting.fail(meeting.left(rank, &error.to_string(), None));
                Work::ready(self.global_rank(), Err(error))
            }
        }
    }
}

fn zeros<T: Element>(length: usize) -> Vec<T> {
    bytemuck::zeroed_vec(length)
}
