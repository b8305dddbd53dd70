use std::io;

use proptest::prelude::*;

use super::super::frame::BODY_LIMIT;
use super::*;

fn any_tag() -> impl Strategy<Value = Tag> {
    (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(group, sequence, part)| Tag {
        group,
        sequence,
        part,
    })
}

fn message(tag: Tag, head: &[u8], body: &[u8]) -> Vec<u8> {
    let header = Header::message(tag, head.len(), body.len()).unwrap();
    [&header.encode()[..], head, body].concat()
}

/// Yields bytes in pieces of the drawn lengths, as a network does.
struct Pieces<'a> {
    bytes: &'a [u8],
    lengths: Vec<usize>,
    next: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.lengths[self.next % self.lengths.len()];
        self.next += 1;
        if length == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = length.min(into.len()).min(self.bytes.len());
        into[..length].copy_from_slice(&self.bytes[..length]);
        self.bytes = &self.bytes[length..];
        Ok(length)
    }
}

/// Returns the next event, however often the stream would block.
fn next(
    decoder: &mut Decoder,
    from: &mut impl Read,
    buffers: &mut dyn RecvBuffers,
) -> Result<Event, Unreadable> {
    loop {
        match decoder.read(from, buffers, &Moment::now()) {
            Ok(Event::WouldBlock) => {}
            other => return other,
        }
    }
}

fn frame(decoder: &mut Decoder, from: &mut impl Read) -> Result<Frame, Unreadable> {
    match next(decoder, from, &mut NoBuffers)? {
        Event::Frame(frame) => Ok(frame),
        other => panic!("{other:?}"),
    }
}

/// Lends memory for one message.
struct OneBuffer {
    tag: Tag,
    memory: Vec<u8>,
}

impl RecvBuffers for OneBuffer {
    fn place(&mut self, tag: Tag, head: &[u8], length: usize) -> Option<&mut [u8]> {
        let due = tag == self.tag && head == b"due" && length == self.memory.len();
        due.then_some(&mut self.memory)
    }
}

proptest! {
    #[test]
    fn frames_come_back_however_they_are_cut(
        tag in any_tag(),
        head: Vec<u8>,
        body: Vec<u8>,
        notice: Vec<u8>,
        mut lengths in prop::collection::vec(0_usize..50, 1..10),
    ) {
        lengths.push(7);
        let mut bytes = message(tag, &head, &body);
        bytes.extend(Header::HEARTBEAT.encode());
        let notice = NewsFrame::Notice { origin: 3, number: 4, to: vec![5], content: notice };
        bytes.extend(notice.encode().unwrap());
        let loss = NewsFrame::Loss { process: 3, cause: Vec::new() };
        bytes.extend(loss.encode().unwrap());
        let farewell = NewsFrame::Farewell { origin: 3, number: 5 };
        bytes.extend(farewell.encode().unwrap());
        bytes.extend(Header::GOODBYE.encode());
        let mut from = Pieces { bytes: &bytes, lengths, next: 0 };
        let mut decoder = Decoder::new();
        let mut read = || frame(&mut decoder, &mut from);
        prop_assert_eq!(read().unwrap(), Frame::Message { tag, head, body });
        prop_assert_eq!(read().unwrap(), Frame::Heartbeat);
        prop_assert_eq!(read().unwrap(), Frame::News(notice));
        prop_assert_eq!(read().unwrap(), Frame::News(loss));
        prop_assert_eq!(read().unwrap(), Frame::News(farewell));
        prop_assert_eq!(read().unwrap(), Frame::Goodbye);
        prop_assert!(matches!(read(), Err(Unreadable::End)));
    }

    /// A body is read into lent memory, or into the decoder's own if the memory is taken back on the way.
    #[test]
    fn bodies_are_read_into_lent_memory(
        tag in any_tag(),
        body: Vec<u8>,
        lengths in prop::collection::vec(0_usize..50, 1..10),
        clear_after in 0_usize..8,
        due: bool,
    ) {
        let mut lengths = lengths;
        lengths.push(7);
        let head = if due { b"due" } else { b"not" };
        let mut bytes = message(tag, head, &body);
        bytes.extend(message(tag, b"next", b"other"));
        let mut from = Pieces { bytes: &bytes, lengths, next: 0 };
        let mut buffers = OneBuffer { tag, memory: vec![0; body.len()] };
        let mut decoder = Decoder::new();
        let mut event = Event::WouldBlock;
        for _ in 0..clear_after {
            event = decoder.read(&mut from, &mut buffers, &Moment::now()).unwrap();
            if !matches!(event, Event::WouldBlock) {
                break;
            }
        }
        decoder.release(&mut buffers);
        if matches!(event, Event::WouldBlock) {
            event = next(&mut decoder, &mut from, &mut NoBuffers).unwrap();
        }
        match event {
            Event::Placed(placed) => {
                prop_assert!(due);
                prop_assert_eq!(placed, tag);
                prop_assert_eq!(buffers.memory, body);
            }
            Event::Frame(read) => {
                prop_assert_eq!(read, Frame::Message { tag, head: head.to_vec(), body });
            }
            Event::WouldBlock => unreachable!(),
        }
        let other = Frame::Message { tag, head: b"next".to_vec(), body: b"other".to_vec() };
        prop_assert_eq!(frame(&mut decoder, &mut from).unwrap(), other);
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(mut bytes: Vec<u8>, magic: bool) {
        if magic && bytes.len() >= 8 {
            bytes[..4].copy_from_slice(b"BDN\x01");
            bytes[4] = 1 + bytes[4] % 4;
            bytes[5..8].fill(0);
        }
        let (mut from, mut decoder) = (&bytes[..], Decoder::new());
        while frame(&mut decoder, &mut from).is_ok() {}
    }

    #[test]
    fn a_truncated_frame_is_no_frame(tag in any_tag(), body: Vec<u8>, cut: prop::sample::Index) {
        let bytes = message(tag, b"head", &body);
        let cut = cut.index(bytes.len());
        let expected_end = cut == 0;
        match frame(&mut Decoder::new(), &mut &bytes[..cut]) {
            Err(Unreadable::End) => prop_assert!(expected_end),
            Err(Unreadable::Truncated) => prop_assert!(!expected_end),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

/// Yields a header and nothing behind it; records the largest read.
struct Asked {
    header: Vec<u8>,
    most: usize,
}

impl Read for Asked {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.most = self.most.max(into.len());
        let count = self.header.len().min(into.len());
        into[..count].copy_from_slice(&self.header[..count]);
        self.header.drain(..count);
        Ok(count)
    }
}

const ANY: Tag = Tag {
    group: 1,
    sequence: 2,
    part: 3,
};

#[test]
fn a_length_that_lies_costs_little() {
    let header = Header::message(ANY, 0, BODY_LIMIT as usize).unwrap();
    let mut from = Asked {
        header: header.encode().to_vec(),
        most: 0,
    };
    let read = frame(&mut Decoder::new(), &mut from);
    assert!(matches!(read, Err(Unreadable::Truncated)));
    assert!(
        from.most <= MAX_READ,
        "asked for {} bytes at once",
        from.most
    );
}

#[test]
fn memory_grows_with_what_arrives() {
    let sent = vec![7_u8; MAX_PREALLOCATED + MAX_READ + 1];
    let bytes = message(ANY, b"", &sent);
    let Frame::Message { body, .. } = frame(&mut Decoder::new(), &mut &bytes[..]).unwrap() else {
        panic!("no message");
    };
    assert!(body == sent);
    // Only the part that was missing was added.
    assert_eq!(body.capacity(), sent.len());
}
