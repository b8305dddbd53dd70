//! Blocking and asynchronous calls: one public method serves both, by the mode of the handle.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::StreamId;
use tracing::Span;

use super::member::Lineage;
use super::p2p::Waiting;
use super::{ProcessGroup, Work};
use crate::collective::{self, Collective};
use crate::element::{Element, ReduceOp};
use crate::error::Result;

/// An operation that owns all it needs.
pub(super) type OwnedCall<R> = Box<dyn FnOnce() -> Result<R> + Send>;

/// The way in which the calls of a [`ProcessGroup`] give their results. The trait is sealed.
pub trait Mode: Sized {
    /// The type that a call with a result of type `R` returns.
    type Returned<R>;

    /// Runs an operation whose place in the group's order is taken.
    #[doc(hidden)]
    fn run<R: Send + 'static>(
        group: &ProcessGroup<Self>,
        job: Result<OwnedCall<R>>,
    ) -> Self::Returned<R>;

    /// Runs a wait for messages, or leaves it to the one who wants them.
    #[doc(hidden)]
    fn wait<R>(group: &ProcessGroup<Self>, waiting: Result<Waiting<R>>) -> Self::Returned<R>;

    /// Gives a result that is there already.
    #[doc(hidden)]
    fn ready<R>(group: &ProcessGroup<Self>, result: Result<R>) -> Self::Returned<R>;
}

/// Calls wait for their result and return it. This is the mode of a group's own handles.
#[derive(Clone, Copy, Debug)]
pub struct Blocking;

/// Calls return [`Work`] at once. This is the mode of [`ProcessGroup::start`].
#[derive(Clone, Copy, Debug)]
pub struct Started;

/// A handle whose calls don't wait: see [`ProcessGroup::start`].
pub type Start = ProcessGroup<Started>;

impl Mode for Blocking {
    type Returned<R> = Result<R>;

    fn run<R: Send + 'static>(_: &ProcessGroup, job: Result<OwnedCall<R>>) -> Result<R> {
        job?()
    }

    fn wait<R>(_: &ProcessGroup, waiting: Result<Waiting<R>>) -> Result<R> {
        (waiting?.job)()
    }

    fn ready<R>(_: &ProcessGroup, result: Result<R>) -> Result<R> {
        result
    }
}

impl Mode for Started {
    type Returned<R> = Work<R>;

    fn run<R: Send + 'static>(group: &Start, job: Result<OwnedCall<R>>) -> Work<R> {
        // A GPU orders what it is asked for on a stream, and the caller uses the result.
        let stream = StreamId::current();
        match job {
            Ok(job) => group.enqueue(move || stream.executes(job)),
            Err(error) => Self::ready(group, Err(error)),
        }
    }

    fn wait<R>(group: &Start, waiting: Result<Waiting<R>>) -> Work<R> {
        match waiting {
            Ok(waiting) => Work::later(group.global_rank(), waiting),
            Err(error) => Self::ready(group, Err(error)),
        }
    }

    fn ready<R>(group: &Start, result: Result<R>) -> Work<R> {
        Work::ready(group.global_rank(), group.reporter(), result)
    }
}

impl<M> ProcessGroup<M> {
    /// Returns what is told of the errors of works that a program drops. The library's own calls wait for theirs, or
    /// give another error.
    fn reporter(&self) -> Option<Arc<Lineage>> {
        let lineage = self.member.lineage();
        self.within.is_none().then(|| Arc::clone(lineage))
    }

    /// Queues an operation for the communication thread.
    fn enqueue<R: Send + 'static>(
        &self,
        operation: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> Work<R> {
        let (job, work) = Work::new(self.global_rank(), self.reporter(), operation);
        match self.member.submit(job) {
            Ok(()) => work,
            Err(error) => {
                // The others can't have this operation without this rank.
                let (state, rank) = (&self.core().state, self.rank());
                state.fail(state.left(rank, &error.to_string(), None));
                Work::ready(self.global_rank(), None, Err(error))
            }
        }
    }

    /// Starts an all_reduce of a buffer of any kind, in a span. The result has the time that it took.
    pub(crate) fn all_reduce_owned<T: Element, B: AsMut<[T]> + Send + 'static>(
        &self,
        mut buffer: B,
        op: ReduceOp,
        span: Span,
    ) -> Work<(B, Range<Instant>)> {
        let length = buffer.as_mut().len();
        let call = Collective::AllReduce { op };
        let ticket = self.collective_ticket(call, (T::NAME, &[length]), (None, Some(length)));
        let ticket = match ticket {
            Ok(ticket) => ticket,
            Err(error) => return Work::ready(self.global_rank(), None, Err(error)),
        };
        self.enqueue(move || {
            ticket.run(|handle| {
                let _span = span.entered();
                let start = Instant::now();
                collective::run(handle, call, None, Some(buffer.as_mut()))?;
                Ok((buffer, start..Instant::now()))
            })
        })
    }
}
