//! One operation's exchange of memory between threads: every rank lends a slice, and when all have
//! come, each works on what all have lent. This file holds all the `unsafe` code of the crate.
//!
//! # Who owns what
//! A [`SharedExchange`] belongs to one operation. Each rank enters it once, on one thread, through
//! [`SharedExchange::run`], and stays inside that call until the exchange is over for it. When all have left it,
//! it may be [renewed](SharedExchange::renew) for another operation. Every rank has a [`ExchangeSeat`]:
//!
//! ```text
//! empty ──> claimed ──> lent ──> done
//!   │          ├──────> copied
//!   └──────────┴──────> closed
//! ```
//!
//! The exchange is *ready* once all seats are lent, copied or done, *over* once none is lent any more, and *closed*
//! once one is closed, or some are copied and others not. There is no lock on this way: a rank writes its own seat
//! and reads the others'. The lock is for those who sleep.
//!
//! Small buffers are copied into the seats, so that nobody waits a second time: each rank has a result of its own,
//! made of the copies, and leaves.
//!
//! # Why it is sound
//! 1. *Lent memory outlives every access.* A [`LentBuffer`] borrows its slice for the whole of `run`.
//!    `run` returns, or unwinds, only through [`Stay::drop`], which no caller can skip because no
//!    caller ever holds a `Stay`. It withdraws the loan if the exchange never becomes ready: it closes the seats
//!    that have not lent. If there was one, that rank can't lend any more, and nobody can have seen the loan, for
//!    loans are read only when all seats have lent. Otherwise it waits until all ranks are done. A rank
//!    is done only after its `share` has returned or unwound, and a `share` can't keep a reference:
//!    a [`PeerBuffers`]'s lifetime is chosen by `run`, so nothing of it fits into the share's result.
//! 2. *No access conflicts with another.* Memory lent to [`LentBuffer::Read`] is only read, by everyone,
//!    through `&[u8]`. Memory lent to [`LentBuffer::InPlace`] is reached only through [`PeerBuffers::segments`],
//!    which gives rank `r` the segment `r` of it. Segments of one slice are disjoint, because they
//!    are cut by the same function of (length, ranks, rank) for all; one rank has one `PeerBuffers`, because
//!    a seat is claimed once, before its loan is written; and they are consumed by `segments`. The lender
//!    doesn't touch its slice meanwhile: its borrow is inside `run`. The two slices of a
//!    [`LentBuffer::Beside`] can't overlap, for one is borrowed mutably, and each follows its rule.
//! 3. *Writes are seen.* A rank's earlier writes, and its loan, reach the others through its seat's phase, which
//!    is released when it becomes lent and acquired by all who find the exchange ready; a share's writes reach the
//!    others through the same phase when it becomes done.
//! 4. *Bytes are safe to share.* Slices are plain bytes here; the callers cast them from and to types
//!    for which any bits are valid.
//! 5. *A loan of an earlier operation is never read.* Phases count from the exchange's turn, and
//!    [`SharedExchange::renew`], which begins the next turn, borrows the exchange mutably: nobody is inside. A
//!    phase of an earlier turn is that of an empty seat.
//! 6. *A copy is written before it is read.* The memory of a seat's copy belongs to the exchange. Who has claimed the
//!    seat writes it, once in a turn, before the seat is copied; from then on it is read as a loan is. A rank whose
//!    buffer was copied waits for nobody afterwards, so it must not access what others have lent: the exchange is
//!    ready only if all seats are copied or none is. Its own buffer was never lent, and `run` gives it to nobody
//!    else.
//!
//! No wake-up is lost: phases and the number of sleepers are written and read in one total order (`SeqCst`). Who
//! changes a phase looks for sleepers afterwards; who is about to sleep counts itself, and looks at the phases
//! afterwards, under the lock that it sleeps with.
//!
#![expect(
    unsafe_code,
    reason = "threads lend one another their buffers; the proof is above"
)]

use std::cell::UnsafeCell;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam::utils::CachePadded;
use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use super::watch::watch_for;

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
    /// All ranks may read a copy of it, and this rank alone reads and writes it. All ranks or none do so in an
    /// operation, with up to [`MAX_COPIED`] bytes.
    Copied(&'a mut [u8]),
}

impl<'a> LentBuffer<'a> {
    /// Lends a buffer that all ranks combine into. The ranks have equally long ones.
    pub(crate) fn combined(buffer: &'a mut [u8], ranks: usize) -> Self {
        if is_small(buffer.len(), ranks) {
            Self::Copied(buffer)
        } else {
            Self::InPlace(buffer)
        }
    }
}

/// True for buffers of which every rank combines all, in place of a part: that takes less time than a second wait.
/// (Measured with 2 ranks on 2 cores: a copy of 1 KiB takes as long as a second wait, one of 4 KiB 2 µs longer. On
/// one core the second wait takes 2 µs.)
pub(crate) fn is_small(bytes: usize, ranks: usize) -> bool {
    bytes <= MAX_COPIED && bytes.saturating_mul(ranks.saturating_sub(1)) <= 4 * MAX_COPIED
}

/// The bytes of the longest copy.
const MAX_COPIED: usize = 1 << 10;

/// A rank's part in an exchange. Seats lie apart in memory, for each is written by one rank and read by all.
struct ExchangeSeat {
    /// The turn of the exchange plus one of the phases below.
    phase: AtomicU64,
    /// The slice lent for reading.
    input: Loan,
    /// The slice lent for work in place.
    output: Loan,
    copy: OnceLock<Box<CopiedBytes>>,
}

/// Memory for a copy, aligned for every element.
#[repr(align(64))]
struct CopiedBytes(UnsafeCell<[u8; MAX_COPIED]>);

// SAFETY: it is written by the rank that has claimed its seat, and read by others only after that (rule 6).
unsafe impl Sync for CopiedBytes {}

/// The phases of a seat. A smaller one belongs to an earlier turn, and means that the seat is empty.
const CLAIMED: u64 = 1;
const LENT: u64 = 2;
const COPIED: u64 = 3;
const DONE: u64 = 4;
const CLOSED: u64 = 5;
/// The distance of two turns.
const TURN: u64 = 8;

/// Address and length of a slice, without its lifetime; null for none. It is turned back into a slice by
/// `PeerBuffers` alone, under the rules at the top of the file.
struct Loan {
    start: AtomicPtr<u8>,
    length: AtomicUsize,
}

impl Loan {
    fn none() -> Self {
        Self {
            start: AtomicPtr::new(null_mut()),
            length: AtomicUsize::new(0),
        }
    }

    fn set(&self, (start, length): (*mut u8, usize)) {
        self.start.store(start, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
    }

    fn get(&self) -> Option<(*mut u8, usize)> {
        let start = self.start.load(Ordering::Relaxed);
        (!start.is_null()).then(|| (start, self.length.load(Ordering::Relaxed)))
    }
}

impl ExchangeSeat {
    fn new() -> Self {
        Self {
            phase: AtomicU64::new(0),
            input: Loan::none(),
            output: Loan::none(),
            copy: OnceLock::new(),
        }
    }

    /// Keeps a loan of the rank that has claimed the seat; gives the phase that the seat comes to.
    fn set(&self, lent: &mut LentBuffer<'_>) -> u64 {
        let none = (null_mut(), 0);
        // Never written through: `PeerBuffers` makes a shared slice of it.
        let read = |slice: &[u8]| (slice.as_ptr().cast_mut(), slice.len());
        let written = |slice: &mut [u8]| (slice.as_mut_ptr(), slice.len());
        let (phase, input, output) = match lent {
            LentBuffer::Read(slice) => (LENT, read(slice), none),
            LentBuffer::InPlace(slice) => (LENT, none, written(slice)),
            LentBuffer::Beside { input, output } => (LENT, read(input), written(output)),
            LentBuffer::Copied(slice) => (COPIED, self.copy(slice), none),
        };
        self.input.set(input);
        self.output.set(output);
        phase
    }

    /// Copies the first [`MAX_COPIED`] bytes of a slice.
    fn copy(&self, slice: &[u8]) -> (*mut u8, usize) {
        let new = || Box::new(CopiedBytes(UnsafeCell::new([0; MAX_COPIED])));
        let start = self.copy.get_or_init(new).0.get().cast::<u8>();
        let length = slice.len().min(MAX_COPIED);
        // SAFETY: the memory is as long, no other slice reaches it, and only the rank that has claimed the seat
        // comes here, once in a turn, before anybody reads it (rule 6).
        unsafe { std::ptr::copy_nonoverlapping(slice.as_ptr(), start, length) };
        (start, length)
    }
}

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
    turn: u64,
    seats: Box<[CachePadded<ExchangeSeat>]>,
    sleepers: AtomicUsize,
    /// A time before the deadline at which somebody looks whether all can still come. Its lock is the one that
    /// ranks sleep with.
    check_at: Mutex<Option<Instant>>,
    moved: Condvar,
    broken: OnceLock<usize>,
}

/// Presence of the ranks before anybody is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attendance {
    Gathering,
    Ready,
    Closed,
}

impl SharedExchange {
    pub(crate) fn new(ranks: usize) -> Self {
        Self {
            turn: TURN,
            seats: (0..ranks)
                .map(|_| CachePadded::new(ExchangeSeat::new()))
                .collect(),
            sleepers: AtomicUsize::new(0),
            check_at: Mutex::new(None),
            moved: Condvar::new(),
            broken: OnceLock::new(),
        }
    }

    /// Makes it the exchange of another operation.
    pub(crate) fn renew(&mut self) {
        self.turn += TURN;
        *self.check_at.get_mut() = None;
        self.broken.take();
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
        let mut lent = lent;
        self.lend(rank, &mut lent)?;
        if let LentBuffer::Copied(own) = lent {
            if self.gather(deadline, on_deadline) == Attendance::Closed {
                return Err(Missed::Closed);
            }
            let _span = tracing::trace_span!("transfer").entered();
            return Ok(share(self.buffers(rank, Some(own))));
        }
        let mut stay = Stay {
            exchange: self,
            rank,
            done: false,
        };
        if self.gather(deadline, on_deadline) == Attendance::Closed {
            return Err(Missed::Closed);
        }
        let _span = tracing::trace_span!("transfer").entered();
        let result = share(self.buffers(rank, None));
        stay.done = true;
        drop(stay);
        match self.broken.get() {
            Some(&rank) => Err(Missed::Broken(rank)),
            None => Ok(result),
        }
    }

    fn buffers<'f>(&'f self, rank: usize, own: Option<&'f mut [u8]>) -> PeerBuffers<'f> {
        PeerBuffers {
            seats: &self.seats,
            rank,
            own,
        }
    }

    /// Ends the exchange for those who wait in it or come later, unless all have come. True if it is closed.
    pub(crate) fn close(&self) -> bool {
        let mut closed = false;
        for seat in &self.seats {
            let close = |phase| (phase < self.turn + LENT).then_some(self.turn + CLOSED);
            let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
            closed |= match seat.phase.fetch_update(set, get, close) {
                Ok(_) => true,
                Err(phase) => phase == self.turn + CLOSED,
            };
        }
        if closed {
            self.wake();
        }
        closed
    }

    fn lend(&self, rank: usize, lent: &mut LentBuffer<'_>) -> Result<(), Missed> {
        let seat = self.seats.get(rank).ok_or(Missed::Closed)?;
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        let claim = |phase| (phase < self.turn + CLAIMED).then_some(self.turn + CLAIMED);
        // A seat that is claimed already can't be met by this crate's callers; rule 2 depends on it.
        let claimed = seat.phase.fetch_update(set, get, claim);
        claimed.map_err(|_| Missed::Closed)?;
        let (from, to) = (self.turn + CLAIMED, self.turn + seat.set(lent));
        let lent = seat.phase.compare_exchange(from, to, set, get);
        // Somebody may have closed it meanwhile; then nobody sees the loan.
        lent.map_err(|_| Missed::Closed)?;
        Ok(())
    }

    fn progress(&self) -> Attendance {
        let (mut come, mut copied) = (0, 0);
        for seat in &self.seats {
            let phase = seat.phase.load(Ordering::SeqCst);
            if phase == self.turn + CLOSED {
                return Attendance::Closed;
            }
            come += usize::from(phase >= self.turn + LENT);
            copied += usize::from(phase == self.turn + COPIED);
        }
        if come < self.seats.len() {
            Attendance::Gathering
        } else if copied == 0 || copied == come {
            Attendance::Ready
        } else {
            // Those who have lent can't let the others work on it, who wait for nobody afterwards.
            Attendance::Closed
        }
    }

    fn is_over(&self) -> bool {
        let (done, copied) = (self.turn + DONE, self.turn + COPIED);
        let mut seats = self.seats.iter();
        seats.all(|seat| {
            let phase = seat.phase.load(Ordering::SeqCst);
            phase == done || phase == copied
        })
    }

    /// Wakes those who sleep, after a change of a phase.
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Under the lock, so that nobody who has seen the phase before is still about to sleep.
            let _check_at = self.check_at.lock();
            self.moved.notify_all();
        }
    }

    /// Has a rank that waits look at `until`, before its deadline, whether all can still come.
    pub(crate) fn check_at(&self, until: Instant) {
        let mut check_at = self.check_at.lock();
        if check_at.is_none_or(|other| until < other) {
            *check_at = Some(until);
            self.moved.notify_all();
        }
    }

    /// Waits until the exchange is ready or closed.
    fn gather(&self, deadline: Instant, on_deadline: impl Fn()) -> Attendance {
        let _span = tracing::trace_span!("wait for ranks").entered();
        let progress = self.progress();
        if progress != Attendance::Gathering {
            // This rank may be the last that came.
            self.wake();
            return progress;
        }
        watch_for(|| self.progress() != Attendance::Gathering);
        // None once it has passed.
        let mut deadline = Some(deadline);
        loop {
            let progress = self.progress();
            if progress != Attendance::Gathering {
                return progress;
            }
            let mut check_at = self.check_at.lock();
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let mut due = false;
            while self.progress() == Attendance::Gathering && !due {
                let now = Instant::now();
                due = check_at.take_if(|until| *until <= now).is_some()
                    || deadline.take_if(|deadline| *deadline <= now).is_some();
                if !due {
                    let next = check_at.into_iter().chain(deadline).min();
                    match next {
                        Some(next) => {
                            self.moved.wait_for(&mut check_at, next - now);
                        }
                        None => self.moved.wait(&mut check_at),
                    }
                }
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            drop(check_at);
            if due && self.progress() == Attendance::Gathering {
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
    fn finish(&self, rank: usize) {
        let seat = &self.seats[rank];
        seat.phase.store(self.turn + DONE, Ordering::SeqCst);
        if self.is_over() {
            self.wake();
            return;
        }
        if watch_for(|| self.is_over()) {
            return;
        }
        let mut check_at = self.check_at.lock();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !self.is_over() {
            self.moved.wait(&mut check_at);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
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
            if self.exchange.close() {
                return;
            }
            // The first rank to break is the one that is reported; a second one adds nothing.
            let _ = self.exchange.broken.set(self.rank);
        }
        self.exchange.finish(self.rank);
    }
}

/// Buffers that one rank may access while all are present.
pub(crate) struct PeerBuffers<'f> {
    seats: &'f [CachePadded<ExchangeSeat>],
    rank: usize,
    /// This rank's own buffer, where all have copied theirs.
    own: Option<&'f mut [u8]>,
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
        let input = self.seats.get(rank).and_then(|seat| seat.input.get());
        input.map_or(&[], |(start, length)| {
            // SAFETY: the loan came from a live `&[u8]` of this length, whose lender stays in `run`
            // for longer than `'f` (rule 1) and which is only read (rule 2), or from a copy of as many bytes,
            // which lives as long as the exchange and is only read by now (rule 6).
            unsafe { std::slice::from_raw_parts(start, length) }
        })
    }

    /// The part of a slice of `length` bytes that is this rank's.
    fn segment(&self, length: usize) -> Range<usize> {
        segment(length, self.seats.len(), self.rank)
    }

    /// This rank's segment of what every rank has lent, in rank order. Of copies it is all.
    pub(crate) fn segments(mut self) -> Segments<'f> {
        if let Some(own) = self.own.take() {
            let all = (0..self.seats.len()).map(|rank| Segment::Read(self.read(rank)));
            let mut all: Segments<'f> = all.collect();
            all[self.rank] = Segment::Beside {
                input: self.read(self.rank),
                output: own,
            };
            return all;
        }
        let cut = |(rank, seat): (usize, &CachePadded<ExchangeSeat>)| {
            let whole = self.read(rank);
            let input = &whole[self.segment(whole.len())];
            let Some((start, length)) = seat.output.get() else {
                return Segment::Read(input);
            };
            let segment = self.segment(length);
            // SAFETY: the loan came from a live `&mut [u8]` of `length` bytes, whose lender stays in
            // `run` for longer than `'f` (rule 1); the segment lies within it, is disjoint from
            // every other rank's and is given out once, as `segments` consumes the buffers (rule 2).
            let output =
                unsafe { std::slice::from_raw_parts_mut(start.add(segment.start), segment.len()) };
            match seat.input.get() {
                Some(_) => Segment::Beside { input, output },
                None => Segment::InPlace(output),
            }
        };
        self.seats.iter().enumerate().map(cut).collect()
    }
}

/// The segments of all ranks; up to four of them take no memory.
pub(crate) type Segments<'f> = SmallVec<[Segment<'f>; 4]>;

/// The part of a slice of `length` bytes that is a rank's: nearly equal parts, cut at multiples of a cache line
/// so that no two ranks write to one, and no element is cut.
pub(crate) fn segment(length: usize, ranks: usize, rank: usize) -> Range<usize> {
    let step = length.div_ceil(ranks).next_multiple_of(CACHE_LINE);
    let cut = |rank: usize| rank.saturating_mul(step).min(length);
    cut(rank)..cut(rank + 1)
}

/// The unit in which slices are cut: a multiple of every element's size.
const CACHE_LINE: usize = 64;

#[cfg(test)]
mod tests;
