//! Reading frames from a stream that gives what it has and never waits.
//!
//! The body of a message goes straight from the stream into the memory that somebody lends for it (a
//! [`Shelf`]), or else into memory of its own. What comes behind it lands in the buffer in the same
//! read.
//!
//! Invariants: no bytes make [`Inbound::read`] panic. Memory for more than [`AT_ONCE`] is taken only as
//! bytes arrive, never more than twice as much as has come.
//!
//! Callers: `reading`.

use std::io::{ErrorKind, IoSliceMut, Read};
use std::ops::Range;

use super::frame::{Frame, HEAD_LIMIT, HEADER, Header, Kind, Unreadable};
use crate::transport::network::Tag;

/// A header and a head fit.
const BUFFER: usize = 128 << 10;
/// How much is read beyond what is needed: a frame of up to this size comes in one call, which costs more
/// than to copy its body to its place; and of a larger one little has to be copied.
const BEYOND: usize = 40 << 10;
const _: () = assert!(BUFFER >= HEADER + HEAD_LIMIT);

/// Up to this length memory for a body is taken at once: the sender has proved that it belongs to
/// the job, this much is there on any machine that trains, and growing would copy what has come.
const AT_ONCE: usize = 64 << 20;
/// How much of a body's own memory is made ready for one read: large enough that system calls don't
/// count, small enough to stay in a core's cache between being cleared and being filled.
const STEP: usize = 256 << 10;

/// Who lends memory for bodies.
pub(super) trait Shelf {
    /// The memory for the body of just this length of the message with this tag and head, if it is to
    /// be read into any. It is asked for again and again, and gives the same until the body is there.
    fn place(&mut self, tag: Tag, head: &[u8], length: usize) -> Option<&mut [u8]>;
}

/// Lends nothing.
pub(super) struct NoShelf;

impl Shelf for NoShelf {
    fn place(&mut self, _: Tag, _: &[u8], _: usize) -> Option<&mut [u8]> {
        None
    }
}

/// What a read came to.
#[derive(Debug)]
pub(super) enum Event {
    /// A frame, whole.
    Frame(Frame),
    /// The body of this message is on its shelf.
    Placed(Tag),
    /// The stream has no more for now.
    Dry,
}

/// What was read of a connection and is not a whole frame yet.
pub(super) struct Inbound {
    buffer: Box<[u8]>,
    /// The part of the buffer that was read and not yet used.
    held: Range<usize>,
    body: Option<Body>,
}

/// The body under way.
struct Body {
    header: Header,
    head: Vec<u8>,
    into: Memory,
}

enum Memory {
    Own(Vec<u8>),
    /// On the shelf; so many bytes are there.
    Shelf(usize),
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER].into(),
            held: 0..0,
            body: None,
        }
    }

    /// Reads until a frame is whole or the stream is dry.
    pub(super) fn read(
        &mut self,
        from: &mut impl Read,
        shelf: &mut dyn Shelf,
    ) -> Result<Event, Unreadable> {
        if self.body.is_none()
            && let Some(event) = self.begin(from, shelf)?
        {
            return Ok(event);
        }
        let Some(body) = &mut self.body else {
            return Ok(Event::Dry);
        };
        let length = usize::try_from(body.header.body).map_err(|_| too_large(&body.header))?;
        loop {
            let missing = body.room(length, shelf)?;
            if missing.is_empty() {
                break;
            }
            let read = if self.held.is_empty() {
                let beyond = &mut self.buffer[..BEYOND];
                let mut pieces = [IoSliceMut::new(missing), IoSliceMut::new(beyond)];
                let room = pieces[0].len();
                let read = some(from.read_vectored(&mut pieces))?;
                self.held = 0..read.unwrap_or(0).saturating_sub(room);
                read.map(|read| read.min(room))
            } else {
                let count = missing.len().min(self.held.len());
                let start = self.held.start;
                missing[..count].copy_from_slice(&self.buffer[start..start + count]);
                self.held.start += count;
                Some(count)
            };
            let prepared = missing.len();
            body.filled(read.unwrap_or(0), prepared);
            match read {
                None => return Ok(Event::Dry),
                Some(0) => return Err(Unreadable::Truncated),
                Some(_) => {}
            }
        }
        Ok(self.body.take().map_or(Event::Dry, Body::finish))
    }

    /// Begins the next frame; gives an event if it has no body to be read.
    fn begin(
        &mut self,
        from: &mut impl Read,
        shelf: &mut dyn Shelf,
    ) -> Result<Option<Event>, Unreadable> {
        if !self.hold(HEADER, from)? {
            return Ok(Some(Event::Dry));
        }
        let mut bytes = [0; HEADER];
        bytes.copy_from_slice(&self.buffer[self.held.start..][..HEADER]);
        let header = Header::decode(&bytes).map_err(Unreadable::Malformed)?;
        // A head is within its limit, so both fit into the buffer.
        let whole = HEADER + header.head;
        if !self.hold(whole, from)? {
            return Ok(Some(Event::Dry));
        }
        let head = self.buffer[self.held.start..][HEADER..whole].to_vec();
        self.held.start += whole;
        match header.kind {
            Kind::Heartbeat => return Ok(Some(Event::Frame(Frame::Heartbeat))),
            Kind::Goodbye => return Ok(Some(Event::Frame(Frame::Goodbye))),
            Kind::Notice | Kind::Message => {}
        }
        let length = usize::try_from(header.body).map_err(|_| too_large(&header))?;
        let shelved =
            header.kind == Kind::Message && shelf.place(header.tag, &head, length).is_some();
        let into = if shelved {
            Memory::Shelf(0)
        } else {
            Memory::Own(Vec::new())
        };
        self.body = Some(Body { header, head, into });
        Ok(None)
    }

    /// Reads until the buffer holds so many bytes; false if the stream is dry before.
    fn hold(&mut self, count: usize, from: &mut impl Read) -> Result<bool, Unreadable> {
        while self.held.len() < count {
            if self.held.start + count > self.buffer.len() || self.held.is_empty() {
                self.buffer.copy_within(self.held.clone(), 0);
                self.held = 0..self.held.len();
            }
            let missing = count - self.held.len();
            let end = (self.held.end + missing.max(BEYOND)).min(self.buffer.len());
            match some(from.read(&mut self.buffer[self.held.end..end]))? {
                None => return Ok(false),
                Some(0) if self.held.is_empty() => return Err(Unreadable::End),
                Some(0) => return Err(Unreadable::Truncated),
                Some(read) => self.held.end += read,
            }
        }
        Ok(true)
    }

    /// Takes what has come of a body off the shelf, whose memory is wanted back.
    pub(super) fn clear(&mut self, shelf: &mut dyn Shelf) {
        if let Some(Body { header, head, into }) = &mut self.body
            && let Memory::Shelf(filled) = *into
        {
            let place = shelf.place(header.tag, head, header.body as usize);
            let come = place.map_or(&[][..], |place| &place[..filled]);
            *into = Memory::Own(come.to_vec());
        }
    }

    /// Whether a body is being read into memory that was lent.
    pub(super) fn is_shelved(&self) -> bool {
        let into = self.body.as_ref().map(|body| &body.into);
        matches!(into, Some(Memory::Shelf(_)))
    }
}

impl Body {
    /// Where the next bytes go; empty when all have come.
    fn room<'r>(
        &'r mut self,
        length: usize,
        shelf: &'r mut dyn Shelf,
    ) -> Result<&'r mut [u8], Unreadable> {
        match &mut self.into {
            Memory::Shelf(filled) => {
                let place = shelf.place(self.header.tag, &self.head, length);
                let lost = || Unreadable::Malformed("the memory for a body is gone".to_owned());
                Ok(&mut place.ok_or_else(lost)?[*filled..])
            }
            Memory::Own(bytes) => {
                let start = bytes.len();
                if start == bytes.capacity() && start < length {
                    let more = (length - start).min(start.max(AT_ONCE));
                    let reserved = bytes.try_reserve_exact(more);
                    reserved.map_err(|_| too_large(&self.header))?;
                }
                let step = (length - start).min(bytes.capacity() - start).min(STEP);
                bytes.resize(start + step, 0);
                Ok(&mut bytes[start..])
            }
        }
    }

    /// So many bytes of those prepared have come.
    fn filled(&mut self, count: usize, prepared: usize) {
        match &mut self.into {
            Memory::Shelf(filled) => *filled += count,
            Memory::Own(bytes) => bytes.truncate(bytes.len() - (prepared - count)),
        }
    }

    fn finish(self) -> Event {
        let (tag, head) = (self.header.tag, self.head);
        Event::Frame(match (self.into, self.header.kind) {
            (Memory::Shelf(_), _) => return Event::Placed(tag),
            (Memory::Own(body), Kind::Notice) => Frame::Notice(body),
            (Memory::Own(body), _) => Frame::Message { tag, head, body },
        })
    }
}

fn too_large(header: &Header) -> Unreadable {
    Unreadable::Malformed(format!("no memory for a frame of {} bytes", header.body))
}

/// How many bytes were read; none if the stream has none now.
fn some(read: std::io::Result<usize>) -> Result<Option<usize>, Unreadable> {
    match read {
        Ok(count) => Ok(Some(count)),
        // A system may say either where nothing is there.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(Unreadable::Broken(error)),
    }
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
#[cfg(test)]
mod tests;
