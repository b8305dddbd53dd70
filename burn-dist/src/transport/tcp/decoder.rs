//! Decodes frames from a non-blocking stream.
//!
//! The body of a message is read straight into the memory that [`RecvBuffers`] lends for it, or else into
//! memory of its own. Bytes behind the body land in the decoder's buffer in the same read.
//!
//! Invariants: no input makes [`Decoder::read`] panic. Memory beyond [`MAX_PREALLOCATED`] is allocated only as
//! bytes arrive, and is never more than twice what was received.

use std::io::{ErrorKind, IoSliceMut, Read};
use std::ops::Range;

use super::frame::{Frame, HEAD_LIMIT, HEADER, Header, Kind, NewsFrame, Unreadable};
use super::moment::Moment;
use crate::transport::network::Tag;

/// Size of the decoder's buffer: a header with its head fits twice.
const BUFFER_BYTES: usize = 128 << 10;
/// Bytes read beyond what is needed. A frame of up to this size takes one system call, which costs more than
/// copying its body; little of a larger frame has to be copied.
const READ_AHEAD: usize = 40 << 10;
const _: () = assert!(BUFFER_BYTES >= HEADER + HEAD_LIMIT);

/// Largest body whose memory is allocated at once. The sender has proved the job's secret, every machine that
/// trains has this much memory, and growing would copy what was received.
const MAX_PREALLOCATED: usize = 64 << 20;
/// Most bytes of a body's own memory prepared for one read: large enough that system calls do not matter, small
/// enough to stay in a core's cache between being cleared and being filled.
const MAX_READ: usize = 256 << 10;

/// Lends memory for the bodies of messages.
pub(super) trait RecvBuffers {
    /// Returns the memory for a body of exactly this length, of the message with this tag and head; none if the
    /// decoder must allocate. It is called repeatedly, and returns the same memory until the body is complete.
    fn place(&mut self, tag: Tag, head: &[u8], length: usize) -> Option<&mut [u8]>;
}

/// Lends no memory.
pub(super) struct NoBuffers;

impl RecvBuffers for NoBuffers {
    fn place(&mut self, _: Tag, _: &[u8], _: usize) -> Option<&mut [u8]> {
        None
    }
}

/// Result of a read.
#[derive(Debug)]
pub(super) enum Event {
    /// A complete frame.
    Frame(Frame),
    /// A message with this tag, whose body is in the memory lent for it.
    Placed(Tag),
    /// The stream has no more bytes now.
    WouldBlock,
}

/// Bytes received from a connection that are not a complete frame yet.
pub(super) struct Decoder {
    buffer: Box<[u8]>,
    /// The received bytes of the buffer that were not decoded yet.
    unread: Range<usize>,
    body: Option<Body>,
}

/// A body that is being received.
struct Body {
    header: Header,
    head: Vec<u8>,
    length: usize,
    memory: Memory,
}

enum Memory {
    Own(Vec<u8>),
    /// Lent memory; so many bytes of it are filled.
    Lent(usize),
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into(),
            unread: 0..0,
            body: None,
        }
    }

    /// Reads until a frame is complete or the stream would block. Sets `heard` whenever bytes arrive.
    ///
    /// # Errors
    /// The stream ended or failed, or its bytes are not a frame. The stream is of no use then.
    pub(super) fn read(
        &mut self,
        from: &mut impl Read,
        buffers: &mut dyn RecvBuffers,
        heard: &Moment,
    ) -> Result<Event, Unreadable> {
        loop {
            if self.body.is_none()
                && let Some(frame) = self.decode_header(buffers)?
            {
                return Ok(Event::Frame(frame));
            }
            let Some(body) = &mut self.body else {
                let room = self.room_for_header();
                match received(from.read(&mut self.buffer[room]))? {
                    None => return Ok(Event::WouldBlock),
                    Some(0) if self.unread.is_empty() => return Err(Unreadable::End),
                    Some(0) => return Err(Unreadable::Truncated),
                    Some(count) => self.unread.end += count,
                }
                heard.set();
                continue;
            };
            let missing = body.missing(buffers)?;
            let prepared = missing.len();
            if prepared == 0 {
                return Ok(self.body.take().map_or(Event::WouldBlock, Body::finish));
            }
            if !self.unread.is_empty() {
                let count = prepared.min(self.unread.len());
                missing[..count].copy_from_slice(&self.buffer[self.unread.start..][..count]);
                self.unread.start += count;
                body.fill(count, prepared);
                continue;
            }
            let ahead = &mut self.buffer[..READ_AHEAD];
            let mut parts = [IoSliceMut::new(missing), IoSliceMut::new(ahead)];
            let count = received(from.read_vectored(&mut parts))?;
            let total = count.unwrap_or(0);
            self.unread = 0..total.saturating_sub(prepared);
            body.fill(total.min(prepared), prepared);
            match count {
                None => return Ok(Event::WouldBlock),
                Some(0) => return Err(Unreadable::Truncated),
                Some(_) => heard.set(),
            }
        }
    }

    /// Decodes the next header with its head, if both were received. Returns the frame if it has no body; else
    /// the body is received next.
    fn decode_header(
        &mut self,
        buffers: &mut dyn RecvBuffers,
    ) -> Result<Option<Frame>, Unreadable> {
        let Some((bytes, rest)) = self.buffer[self.unread.clone()].split_first_chunk() else {
            return Ok(None);
        };
        let header = Header::decode(bytes).map_err(Unreadable::Malformed)?;
        let Some(head) = rest.get(..header.head).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        self.unread.start += HEADER + header.head;
        match header.kind {
            Kind::Heartbeat => return Ok(Some(Frame::Heartbeat)),
            Kind::Goodbye => return Ok(Some(Frame::Goodbye)),
            Kind::Farewell => {
                return Ok(Some(Frame::News(NewsFrame::Farewell {
                    origin: header.tag.group,
                    number: header.tag.sequence,
                })));
            }
            Kind::Notice | Kind::Loss | Kind::Message => {}
        }
        let length = usize::try_from(header.body).map_err(|_| too_large(&header))?;
        let lent =
            header.kind == Kind::Message && buffers.place(header.tag, &head, length).is_some();
        self.body = Some(Body {
            header,
            head,
            length,
            memory: if lent {
                Memory::Lent(0)
            } else {
                Memory::Own(Vec::new())
            },
        });
        Ok(None)
    }

    /// Returns the free part of the buffer to read into while a header or head is incomplete; it is not empty.
    fn room_for_header(&mut self) -> Range<usize> {
        if self.unread.is_empty() || self.unread.start + HEADER + HEAD_LIMIT > BUFFER_BYTES {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        self.unread.end..BUFFER_BYTES.min(self.unread.end + READ_AHEAD)
    }

    /// Stops using lent memory: copies what was received into memory of the decoder's own.
    pub(super) fn release(&mut self, buffers: &mut dyn RecvBuffers) {
        if let Some(body) = &mut self.body
            && let Memory::Lent(filled) = body.memory
        {
            let place = buffers.place(body.header.tag, &body.head, body.length);
            body.memory = Memory::Own(place.map_or(&[][..], |place| &place[..filled]).to_vec());
        }
    }
}

impl Body {
    /// Returns the memory for the next bytes; empty if the body is complete.
    fn missing<'r>(
        &'r mut self,
        buffers: &'r mut dyn RecvBuffers,
    ) -> Result<&'r mut [u8], Unreadable> {
        match &mut self.memory {
            Memory::Lent(filled) => {
                let place = buffers.place(self.header.tag, &self.head, self.length);
                let lost = || Unreadable::Malformed("the memory lent for it is gone".to_owned());
                Ok(&mut place.ok_or_else(lost)?[*filled..])
            }
            Memory::Own(bytes) => {
                let (start, left) = (bytes.len(), self.length - bytes.len());
                if start == bytes.capacity() && left > 0 {
                    let more = left.min(start.max(MAX_PREALLOCATED));
                    let reserved = bytes.try_reserve_exact(more);
                    reserved.map_err(|_| too_large(&self.header))?;
                }
                let step = left.min(bytes.capacity() - start).min(MAX_READ);
                bytes.resize(start + step, 0);
                Ok(&mut bytes[start..])
            }
        }
    }

    /// Counts the received bytes among those that [`Self::missing`] prepared.
    fn fill(&mut self, count: usize, prepared: usize) {
        match &mut self.memory {
            Memory::Lent(filled) => *filled += count,
            Memory::Own(bytes) => bytes.truncate(bytes.len() - (prepared - count)),
        }
    }

    fn finish(self) -> Event {
        let (tag, head) = (self.header.tag, self.head);
        Event::Frame(match (self.memory, self.header.kind) {
            (Memory::Lent(_), _) => return Event::Placed(tag),
            (Memory::Own(content), Kind::Notice) => Frame::News(NewsFrame::Notice {
                origin: tag.group,
                number: tag.sequence,
                to: head,
                content,
            }),
            (Memory::Own(cause), Kind::Loss) => Frame::News(NewsFrame::Loss {
                process: tag.group,
                cause,
            }),
            (Memory::Own(body), _) => Frame::Message { tag, head, body },
        })
    }
}

fn too_large(header: &Header) -> Unreadable {
    Unreadable::Malformed(format!("no memory for a frame of {} bytes", header.body))
}

/// Returns the number of bytes read; none if the stream has none now.
fn received(read: std::io::Result<usize>) -> Result<Option<usize>, Unreadable> {
    match read {
        Ok(count) => Ok(Some(count)),
        // Systems return either for "nothing there yet".
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
