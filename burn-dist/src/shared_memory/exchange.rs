//! One operation's exchange of memory between threads: every rank lends a slice, and when all have
//! come, each works on what all have lent. This file holds all the `unsafe` code of the crate.
//!
//! # Who owns what
//! A [`SharedExchange`] belongs to one operation. Each rank enters it once, on one thread, through
//! [`SharedExchange::run`], and stays inside that call until the exchange is over for it:
//!
//! ```text
//! Gathering ── the last rank has lent ──> ready ── every rank has finished ──> over
//!     └─────── somebody closed it ──────> closed
//! ```
//!
//! # Why it is sound
//! 1. *Lent memory outlives every access.* A [`LentBuffer`] borrows its slice for the whole of `run`.
//!    `run` returns, or unwinds, only through [`Stay::drop`], which no caller can skip because no
//!    caller ever holds a `Stay`. It withdraws the loan if the exchange never became ready (nobody
//!    can have seen it then: loans are readable only through `ready`, which is set under the same
//!    lock, once, when all have come); otherwise it waits until all ranks have finished. A rank
//!    finishes only after its `share` has returned or unwound, and a `share` can't keep a reference:
//!    a [`PeerBuffers`]'s lifetime is chosen by `run`, so nothing of it fits into the share's result.
//! 2. *No access conflicts with another.* Memory lent to [`LentBuffer::Read`] is only read, by everyone,
//!    through `&[u8]`. Memory lent to [`LentBuffer::InPlace`] is reached only through [`PeerBuffers::segments`],
//!    which gives rank `r` the segment `r` of it. Segments of one slice are disjoint, because they
//!    are cut by the same function of (length, ranks, rank) for all; one rank has one `PeerBuffers`, because
//!    a second loan under the same rank is refused; and they are consumed by `segments`. The lender
//!    doesn't touch its slice meanwhile: its borrow is inside `run`. The two slices of a
//!    [`LentBuffer::Beside`] can't overlap, for one is borrowed mutably, and each follows its rule.
//! 3. *Writes are seen.* A rank's earlier writes reach the others through the lock under which it
//!    lends (and `ready`, which is released and acquired); a share's writes reach the others through
//!    `finished`, an atomic that all ranks increment with release and read with acquire ordering.
//! 4. *Bytes are safe to share.* Slices are plain bytes here; the callers cast them from and to types
//!    for which any bits are valid.
//!
#![expect(
    unsafe_code,
    reason = "threads lend one another their buffers; the proof is above"
)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Time that a waiting rank spins for the others before it sleeps: longer than the others need when all come
/// together, shorter than it takes to wake a sleeping thread.
const WATCH: Duration = Duration::from_micros(10);

/// A rank's slice, as it is lent to the others.
pub(crate) enum LentBuffer<'a> {
    /// All ranks may read it.
    Read(&'a [u8]),
    /// Rank `r` may read and write segment `r` of it.
    InPlace(&'a mut [u8]),
    /// All ranks may read one slice, and rank `r` read and write segment `r` of another.
    Beside {
        input: &'a [u8],
        output: &'a mut [u8],
    },
}

/// Buffers that a rank has lent, without their lifetime.
#[derive(Clone, Copy)]
struct Loan {
    /// Lent for reading.
    input: Option<Address<*const u8>>,
    /// Lent for work in place.
    output: Option<Address<*mut u8>>,
}

/// Address and length of a slice.
#[derive(Clone, Copy)]
struct Address<P> {
    start: P,
    length: usize,
}

impl Loan {
    fn new(lent: LentBuffer<'_>) -> Self {
        let input = |slice: &[u8]| Address {
            start: slice.as_ptr(),
            length: slice.len(),
        };
        let output = |slice: &mut [u8]| Address {
            start: slice.as_mut_ptr(),
            length: slice.len(),
        };
        let (read, written) = match lent {
            LentBuffer::Read(slice) => (Some(input(slice)), None),
            LentBuffer::InPlace(slice) => (None, Some(output(slice))),
            LentBuffer::Beside {
                input: read,
                output: written,
            } => (Some(input(read)), Some(output(written))),
        };
        Self {
            input: read,
            output: written,
        }
    }
}

// SAFETY: a loan is only an address. It is turned back into a slice by `PeerBuffers` alone, under the rules
// at the top of the file; bytes may be read and written on any thread.
unsafe impl Send for Loan {}
// SAFETY: as above; a shared `Loan` gives no access of its own.
unsafe impl Sync for Loan {}

/// Reason why an exchange did not happen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// It was closed before all ranks had come.
    Closed,
    /// The share of this rank panicked, so that the result is incomplete.
    Broken(usize),
}

/// The meeting point of one operation. See the top of the file.
pub(crate) struct SharedExchange {
    ranks: usize,
    gathering: Mutex<Gathering>,
    moved: Condvar,
    ready: OnceLock<Box<[Loan]>>,
    finished: AtomicUsize,
    broken: OnceLock<usize>,
}

struct Gathering {
    loans: Vec<Option<Loan>>,
    came: usize,
    closed: bool,
    /// A time before the deadline at which somebody looks whether all can still come.
    check_at: Option<Instant>,
}

impl SharedExchange {
    pub(crate) fn new(ranks: usize) -> Self {
        Self {
            ranks,
            gathering: Mutex::new(Gathering {
                loans: vec![None; ranks],
                came: 0,
                closed: false,
                check_at: None,
            }),
            moved: Condvar::new(),
            ready: OnceLock::new(),
            finished: AtomicUsize::new(0),
            broken: OnceLock::new(),
        }
    }

    /// Lends `lent` as `rank`, waits for the others, does `share` of the work, and waits until all
    /// have done theirs.
    ///
    /// At `deadline`, `on_deadline` is called once, and before that by one rank for each [`Self::check_at`]. It
    /// closes the exchange if ranks are missing for good; if it doesn't, the wait goes on.
    pub(crate) fn run<R>(
        &self,
        rank: usize,
        lent: LentBuffer<'_>,
        deadline: Instant,
        on_deadline: impl Fn(),
        share: impl FnOnce(PeerBuffers<'_>) -> R,
    ) -> Result<R, Missed> {
        self.lend(rank, Loan::new(lent))?;
        let mut stay = Stay {
            exchange: self,
            rank,
            done: false,
        };
        let gathered = {
            let _span = tracing::trace_span!("wait for ranks").entered();
            self.gather(deadline, on_deadline)
        };
        let Some(loans) = gathered else {
            return Err(Missed::Closed);
        };
        let _span = tracing::trace_span!("transfer").entered();
        let result = share(PeerBuffers {
            loans,
            rank,
            ranks: self.ranks,
            lifetime: PhantomData,
        });
        stay.done = true;
        drop(stay);
        match self.broken.get() {
            Some(&rank) => Err(Missed::Broken(rank)),
            None => Ok(result),
        }
    }

    /// Ends the exchange for those who wait in it or come later, unless all have come.
    pub(crate) fn close(&self) {
        let mut gathering = self.gathering.lock();
        if self.ready.get().is_none() {
            gathering.closed = true;
            self.moved.notify_all();
        }
    }

    fn lend(&self, rank: usize, loan: Loan) -> Result<(), Missed> {
        let mut gathering = self.gathering.lock();
        // The second condition can't be met by this crate's callers; rule 2 depends on it.
        if gathering.closed || gathering.loans.get(rank).is_none_or(Option::is_some) {
            return Err(Missed::Closed);
        }
        gathering.loans[rank] = Some(loan);
        gathering.came += 1;
        if gathering.came == self.ranks {
            let all = gathering.loans.iter().copied().flatten().collect();
            // Only the last rank comes here, and it comes once, so nothing is set already.
            let _ = self.ready.set(all);
            self.moved.notify_all();
        }
        Ok(())
    }

    /// Has a rank that waits look at `until`, before its deadline, whether all can still come.
    pub(crate) fn check_at(&self, until: Instant) {
        let mut gathering = self.gathering.lock();
        let earlier = gathering.check_at.is_none_or(|other| until < other);
        if earlier {
            gathering.check_at = Some(until);
            self.moved.notify_all();
        }
    }

    /// Waits until all have lent (then gives the loans) or the exchange is closed (then nothing).
    fn gather(&self, deadline: Instant, on_deadline: impl Fn()) -> Option<&[Loan]> {
        watch_for(|| self.ready.get().is_some());
        // None once it has passed.
        let mut deadline = Some(deadline);
        loop {
            if let Some(loans) = self.ready.get() {
                return Some(loans);
            }
            let mut gathering = self.gathering.lock();
            let mut due = false;
            while self.ready.get().is_none() && !gathering.closed && !due {
                let now = Instant::now();
                due = gathering.check_at.take_if(|until| *until <= now).is_some()
                    || deadline.take_if(|deadline| *deadline <= now).is_some();
                if !due {
                    let next = gathering.check_at.into_iter().chain(deadline).min();
                    match next {
                        Some(next) => {
                            self.moved.wait_for(&mut gathering, next - now);
                        }
                        None => self.moved.wait(&mut gathering),
                    }
                }
            }
            if gathering.closed {
                return None;
            }
            drop(gathering);
            if due && self.ready.get().is_none() {
                on_deadline();
            }
        }
    }

    /// Reports this rank's share done and waits for those of the others.
    ///
    /// There is no deadline here, on purpose: the others still hold this rank's memory, so leaving
    /// would be unsound. It is also not needed, for nothing remains that could wait: every rank is
    /// inside its share, which is a bounded pass over memory with no code of a user's, no lock and no
    /// input or output, and which counts as finished even if it panics. (Around it, whoever listens to
    /// the spans of `tracing` is called; a listener must not wait for anything, here as anywhere.)
    fn finish(&self) {
        if self.finished.fetch_add(1, Ordering::AcqRel) + 1 == self.ranks {
            // Under the lock, so that nobody who has seen one missing is still about to sleep.
            let _gathering = self.gathering.lock();
            self.moved.notify_all();
            return;
        }
        let over = || self.finished.load(Ordering::Acquire) == self.ranks;
        if watch_for(over) {
            return;
        }
        let mut gathering = self.gathering.lock();
        while !over() {
            self.moved.wait(&mut gathering);
        }
    }

    /// Takes a loan back that nobody has seen; false if they have.
    fn withdraw(&self, rank: usize) -> bool {
        let mut gathering = self.gathering.lock();
        if self.ready.get().is_some() {
            return false;
        }
        gathering.loans[rank] = None;
        // Without this rank the exchange can't become ready.
        gathering.closed = true;
        self.moved.notify_all();
        true
    }
}

/// A rank's presence in an exchange; dropping it is the only way out (rule 1).
struct Stay<'e> {
    exchange: &'e SharedExchange,
    rank: usize,
    done: bool,
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        if !self.done {
            if self.exchange.withdraw(self.rank) {
                return;
            }
            // The first rank to break is the one that is reported; a second one adds nothing.
            let _ = self.exchange.broken.set(self.rank);
        }
        self.exchange.finish();
    }
}

/// Buffers that one rank may access while all are present.
pub(crate) struct PeerBuffers<'f> {
    loans: &'f [Loan],
    rank: usize,
    ranks: usize,
    lifetime: PhantomData<&'f mut [u8]>,
}

/// This rank's segment of what one rank has lent.
pub(crate) enum Segment<'f> {
    /// Of a slice that is lent for reading.
    Read(&'f [u8]),
    /// Of a slice that is lent for work in place.
    InPlace(&'f mut [u8]),
    /// Of each of both.
    Beside {
        input: &'f [u8],
        output: &'f mut [u8],
    },
}

impl Segment<'_> {
    /// The segment, to read.
    pub(crate) fn input(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::InPlace(bytes) => bytes,
            Self::Beside { input, .. } => input,
        }
    }

    /// The segment, to write, if there is one.
    pub(crate) fn output(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Read(_) => None,
            Self::InPlace(bytes) => Some(bytes),
            Self::Beside { output, .. } => Some(output),
        }
    }
}

impl<'f> PeerBuffers<'f> {
    /// The whole slice that `rank` lent for reading; empty if it lent none.
    pub(crate) fn read(&self, rank: usize) -> &'f [u8] {
        let input = self.loans.get(rank).and_then(|loan| loan.input);
        input.map_or(&[], |Address { start, length }| {
            // SAFETY: the loan came from a live `&[u8]` of this length, whose lender stays in `run`
            // for longer than `'f` (rule 1) and which is only read (rule 2).
            unsafe { std::slice::from_raw_parts(start, length) }
        })
    }

    /// The part of a slice of `length` bytes that is this rank's.
    fn segment(&self, length: usize) -> Range<usize> {
        segment(length, self.ranks, self.rank)
    }

    /// This rank's segment of what every rank has lent, in rank order.
    pub(crate) fn segments(self) -> Vec<Segment<'f>> {
        let cut = |rank: usize| {
            let whole = self.read(rank);
            let input = &whole[self.segment(whole.len())];
            let Some(Address { start, length }) = self.loans[rank].output else {
                return Segment::Read(input);
            };
            let segment = self.segment(length);
            // SAFETY: the loan came from a live `&mut [u8]` of `length` bytes, whose lender stays in
            // `run` for longer than `'f` (rule 1); the segment lies within it, is disjoint from
            // every other rank's and is given out once, as `segments` consumes the buffers (rule 2).
            let output =
                unsafe { std::slice::from_raw_parts_mut(start.add(segment.start), segment.len()) };
            match self.loans[rank].input {
                Some(_) => Segment::Beside { input, output },
                None => Segment::InPlace(output),
            }
        };
        (0..self.loans.len()).map(cut).collect()
    }
}

/// The part of a slice of `length` bytes that is a rank's: nearly equal parts, cut at multiples of a cache line
/// so that no two ranks write to one, and no element is cut.
pub(crate) fn segment(length: usize, ranks: usize, rank: usize) -> Range<usize> {
    let step = length.div_ceil(ranks).next_multiple_of(CACHE_LINE);
    let cut = |rank: usize| rank.saturating_mul(step).min(length);
    cut(rank)..cut(rank + 1)
}

/// The unit in which slices are cut: a multiple of every element's size.
const CACHE_LINE: usize = 64;

/// Watches for `done` for a few microseconds, and tells whether it came.
pub(crate) fn watch_for(done: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > WATCH {
            return false;
        }
        // Where ranks outnumber cores, whoever is waited for needs this one.
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests;
