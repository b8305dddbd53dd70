//! An exchange: the thread that sends and waits for messages moves their bytes itself, on all the
//! connections that it needs at once.
//!
//! It writes what the sockets take and reads what has come, in turn, and sleeps only when none of them
//! goes on: after some tries where the other side has lately answered fast, at once where it has not (its
//! way is slow, or it computes, and this core is better used for that). So two processes that send to each
//! other never wait for each other, no byte is copied but by the system, and no other thread is woken. A
//! connection may be in use by several exchanges: one of them reads it, and keeps what is the others'; each
//! frame has one writer.
//!
//! Whoever leaves before a frame is written leaves its rest to the next writer; only a deadline in the
//! middle of one ends the connection, for the other side takes too little of it.
//!
//! Callers: the network.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::{Connection, Reading, Turn};
use super::frame::{HEADER, Header};
use super::inbound::Shelf;
use super::reading::Taken;
use crate::transport::locks::lock;
use crate::transport::network::{CANCEL_POLL, Cancel, Cause, Come, Incoming, Lost, Outgoing, Tag};

/// How often the sockets are tried, and the core left to others, before the thread sleeps: some tenths of
/// a millisecond. With a tenth of it, two processes that exchange 64 KiB can fall into step asleep, each
/// waking the other, and take twice as long.
const TRIES: u32 = 200;
/// After a sleep of this time or longer, tries are spared: bytes come so slowly that there is time to sleep
/// between them. (At 1 Gbit/s they come in bursts a fraction of a millisecond apart.)
const LONG_SLEEP: Duration = Duration::from_micros(100);
/// How long to sleep while another thread reads or writes a connection that this one needs too.
const ELSEWHERE: Duration = Duration::from_millis(1);
/// How long to leave the network's reader to tell of notices, before looking again.
const HELD: Duration = Duration::from_millis(1);

/// An exchange under way.
pub(super) struct Exchange<'c, 'm, 's, 'r> {
    lanes: Vec<Lane<'c>>,
    sends: &'m [Outgoing<'s>],
    receives: &'m mut [Incoming<'r>],
    cancel: &'m dyn Cancel,
}

/// One connection's part in it.
struct Lane<'c> {
    connection: &'c Connection,
    /// The numbers of its messages, the last first.
    unsent: Vec<usize>,
    frame: Option<Frame<'c>>,
    /// Whether the socket took less than it was given.
    full: bool,
    reading: Option<Reading<'c>>,
    /// How many messages have not come.
    awaited: usize,
    /// Whether one came that was not due.
    odd: bool,
}

/// A frame that is being written.
struct Frame<'c> {
    turn: Turn<'c>,
    header: [u8; HEADER],
    number: usize,
    written: usize,
}

/// The memory that is waiting for messages of one process.
struct Wanted<'m, 'b> {
    from: usize,
    receives: &'m mut [Incoming<'b>],
}

impl<'b> Wanted<'_, 'b> {
    fn find(&mut self, tag: Tag) -> Option<&mut Incoming<'b>> {
        let mut all = self.receives.iter_mut();
        all.find(|one| one.from == self.from && one.tag == tag && one.come.is_none())
    }
}

impl Shelf for Wanted<'_, '_> {
    fn place(&mut self, tag: Tag, head: &[u8], length: usize) -> Option<&mut [u8]> {
        self.find(tag)?.place(head, length)
    }
}

impl<'c, 'm, 's, 'r> Exchange<'c, 'm, 's, 'r> {
    /// # Errors
    /// There is no connection with a process, or a message is too long.
    pub(super) fn new(
        connection: impl Fn(usize) -> Result<&'c Connection, Lost>,
        sends: &'m [Outgoing<'s>],
        receives: &'m mut [Incoming<'r>],
        cancel: &'m dyn Cancel,
    ) -> Result<Self, Lost> {
        let mut lanes: Vec<Lane<'c>> = Vec::new();
        let mut lane = |peer| -> Result<usize, Lost> {
            let found = lanes.iter().position(|lane| lane.connection.peer() == peer);
            if let Some(found) = found {
                return Ok(found);
            }
            lanes.push(Lane::new(connection(peer)?));
            Ok(lanes.len() - 1)
        };
        let senders: Vec<_> = sends.iter().map(|send| lane(send.to)).collect();
        let receivers: Vec<_> = receives.iter().map(|receive| lane(receive.from)).collect();
        for (number, lane) in senders.into_iter().enumerate().rev() {
            lanes[lane?].unsent.push(number);
        }
        for lane in receivers {
            lanes[lane?].awaited += 1;
        }
        Ok(Self {
            lanes,
            sends,
            receives,
            cancel,
        })
    }

    /// Runs until all is done (true), the caller or an odd message stops it (false), a process is
    /// lost, or the deadline has passed.
    pub(super) fn run(mut self, deadline: Instant) -> Result<bool, Lost> {
        let start = Instant::now();
        let ended = self.advance(start, deadline);
        self.leave();
        ended
    }

    fn advance(&mut self, start: Instant, deadline: Instant) -> Result<bool, Lost> {
        let mut tries = 0;
        loop {
            let mut moved = false;
            for lane in &mut self.lanes {
                moved |= lane.write(self.sends)?;
                let awaited = lane.awaited;
                moved |= lane.read(self.receives)?;
                if awaited > 0 && lane.awaited == 0 {
                    self.cancel.received_from(lane.connection.peer());
                }
            }
            if self.lanes.iter().any(|lane| lane.odd) {
                return Ok(false);
            }
            if self.lanes.iter().all(Lane::is_done) {
                return Ok(true);
            }
            if self.cancel.is_cancelled() {
                return Ok(false);
            }
            if moved {
                tries = 0;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.late(start.elapsed()));
            }
            tries += 1;
            if tries > self.tries() {
                let asleep = Instant::now();
                self.sleep(left.min(CANCEL_POLL));
                self.note_sleep(asleep.elapsed());
                tries = 0;
            } else {
                // Whoever is waited for may need this core.
                std::thread::yield_now();
            }
        }
    }

    /// How often to try before a sleep.
    fn tries(&self) -> u32 {
        let mut waiting = self.waiting();
        let is_fast = waiting.any(|connection| !connection.is_slow.load(Relaxed));
        if is_fast { TRIES } else { 1 }
    }

    /// Lets the next waits for the same processes learn from this one.
    fn note_sleep(&self, time: Duration) {
        for connection in self.waiting() {
            connection.is_slow.store(time >= LONG_SLEEP, Relaxed);
        }
    }

    /// The connections that are not done.
    fn waiting(&self) -> impl Iterator<Item = &'c Connection> {
        let lanes = self.lanes.iter().filter(|lane| !lane.is_done());
        lanes.map(|lane| lane.connection)
    }

    /// Sleeps until a socket goes on, or for this time.
    fn sleep(&self, time: Duration) {
        let mut waits = Vec::with_capacity(self.lanes.len());
        let mut elsewhere = None;
        for lane in &self.lanes {
            let mut events = PollFlags::empty();
            events.set(PollFlags::OUT, lane.full && lane.wants_to_write());
            events.set(PollFlags::IN, lane.reading.is_some());
            if !events.is_empty() {
                waits.push(PollFd::new(lane.connection.stream.socket(), events));
            }
            let kept_out = lane.wants_to_write() && !lane.full;
            if kept_out || (lane.awaited > 0 && lane.reading.is_none()) {
                elsewhere = Some(lane.connection);
            }
        }
        match elsewhere {
            // It is told when the other thread has stopped, or has come upon a message of this one's.
            Some(connection) if waits.is_empty() => connection.doze(time),
            other => {
                let time = if other.is_some() {
                    time.min(ELSEWHERE)
                } else {
                    time
                };
                // It is less than a second; and what an interrupted wait would say is found next.
                let time = Timespec {
                    tv_sec: 0,
                    tv_nsec: time.subsec_nanos().into(),
                };
                let _ = poll(&mut waits, Some(&time));
            }
        }
    }

    /// The first process that is waited for has not answered.
    fn late(&self, elapsed: Duration) -> Lost {
        let cause = Cause::Deadline(elapsed);
        let waiting = self.lanes.iter().find(|lane| !lane.is_done());
        let mut lost = waiting.map(|lane| lane.connection.lost(cause.clone()));
        for lane in &self.lanes {
            if lane.frame.as_ref().is_some_and(|frame| frame.written > 0) {
                lane.connection.end(cause.clone());
                lost = Some(lane.connection.lost(cause.clone()));
            }
        }
        // It is called only while somebody is waited for.
        lost.unwrap_or_else(|| self.lanes[0].connection.lost(cause))
    }

    /// Gives back all that it holds.
    fn leave(&mut self) {
        for lane in &mut self.lanes {
            let connection = lane.connection;
            if let Some(reading) = &mut lane.reading {
                reading.clear(&mut Wanted {
                    from: connection.peer(),
                    receives: self.receives,
                });
            }
            lane.reading = None;
            if let Some(frame) = lane.frame.take()
                && frame.written > 0
            {
                let Outgoing { head, body, .. } = self.sends[frame.number];
                connection.leave(frame.turn, [&frame.header, head, body], frame.written);
            }
            if !lock(&connection.state).outbox.is_empty() {
                // It came while this thread wrote, when nobody else could send it.
                connection.waker.wake();
            }
        }
    }
}

impl<'c> Lane<'c> {
    fn new(connection: &'c Connection) -> Self {
        Self {
            connection,
            unsent: Vec::new(),
            frame: None,
            full: false,
            reading: None,
            awaited: 0,
            odd: false,
        }
    }

    fn is_done(&self) -> bool {
        self.awaited == 0 && !self.wants_to_write()
    }

    fn wants_to_write(&self) -> bool {
        self.frame.is_some() || !self.unsent.is_empty()
    }

    /// Writes what the socket takes; says whether it took anything.
    fn write(&mut self, sends: &[Outgoing<'_>]) -> Result<bool, Lost> {
        let mut moved = false;
        self.full = false;
        while self.wants_to_write() {
            let frame = match &mut self.frame {
                Some(frame) => frame,
                None => match self.begin(sends)? {
                    Some(frame) => self.frame.insert(frame),
                    None => return Ok(moved),
                },
            };
            let Outgoing { head, body, .. } = sends[frame.number];
            let pieces = [&frame.header[..], head, body];
            let length = HEADER + head.len() + body.len();
            let mut written = 0;
            if frame.written < length {
                written = self.connection.write(&frame.turn, pieces, frame.written);
            }
            frame.written += written;
            moved |= written > 0;
            if frame.written == length && self.connection.flush(&frame.turn) {
                self.frame = None;
            } else if written == 0 {
                self.full = true;
                self.connection.check()?;
                return Ok(moved);
            }
        }
        Ok(moved)
    }

    /// Begins the next frame, if this thread can have the turn and nothing must go before it.
    fn begin(&mut self, sends: &[Outgoing<'_>]) -> Result<Option<Frame<'c>>, Lost> {
        self.connection.check()?;
        let (Some(&number), Some(turn)) = (self.unsent.last(), self.connection.try_turn()) else {
            return Ok(None);
        };
        if !self.connection.send_posted(&turn) {
            self.full = true;
            return Ok(None);
        }
        let Outgoing {
            tag, head, body, ..
        } = sends[number];
        let header = Header::message(tag, head.len(), body.len())
            .map_err(|error| self.connection.lost(Cause::TooLarge(error.into())))?;
        self.unsent.pop();
        Ok(Some(Frame {
            turn,
            header: header.encode(),
            number,
            written: 0,
        }))
    }

    /// Takes in what has come; says whether anything had.
    fn read(&mut self, receives: &mut [Incoming<'_>]) -> Result<bool, Lost> {
        // A socket that takes no more may wait for its other end, which may be doing the same.
        if self.awaited == 0 && !self.full {
            self.reading = None;
            return Ok(false);
        }
        if self.reading.is_none() {
            self.reading = self.connection.try_reading(false);
            // What came before this thread read is older than what it will read.
            if self.collect(receives) {
                return Ok(true);
            }
        }
        let Some(reading) = &mut self.reading else {
            self.connection.check()?;
            return Ok(false);
        };
        let mut wanted = Wanted {
            from: self.connection.peer(),
            receives,
        };
        match self.connection.take_in(reading, &mut wanted) {
            Taken::Placed(tag) => {
                if let Some(receive) = wanted.find(tag) {
                    receive.come = Some(Come::Placed);
                    self.awaited -= 1;
                }
                Ok(true)
            }
            Taken::Frame => {
                self.collect(receives);
                Ok(true)
            }
            Taken::Held => {
                self.connection.doze(HELD);
                Ok(false)
            }
            Taken::Dry => Ok(false),
            Taken::End => self.connection.check().map(|()| false),
        }
    }

    /// Takes what has come and was kept; says whether anything had.
    fn collect(&mut self, receives: &mut [Incoming<'_>]) -> bool {
        let from = self.connection.peer();
        let before = self.awaited;
        for receive in receives {
            if receive.from == from
                && receive.come.is_none()
                && let Some(message) = self.connection.take(receive.tag)
            {
                receive.accept(message.head, message.body);
                self.awaited -= 1;
                self.odd |= receive.is_odd();
            }
        }
        self.awaited < before
    }
}
