//! Properties of the decoder for any bytes, split in any way.

use std::io;

use super::*;

/// Largest body for which memory is lent.
const MAX_LENT: usize = 4096;

/// Decodes frames until the stream ends. The first byte selects the pieces in which the rest arrives, if memory
/// is lent for bodies, and if it is taken back now and then.
pub(crate) fn check(bytes: &[u8]) {
    let Some((&manner, sent)) = bytes.split_first() else {
        return;
    };
    let mut from = Pieces {
        rest: sent,
        piece: [usize::MAX, 1, 41, 1000][usize::from(manner % 4)],
        blocks: manner & 4 != 0,
        paused: false,
        most: 0,
    };
    let mut buffers = OneBuffer {
        lends: manner & 8 != 0,
        lent: None,
    };
    let mut decoder = Decoder::new();
    let mut encoded = Vec::new();
    let mut reads = 0_u32;
    let end = loop {
        reads += 1;
        if manner & 16 != 0 && reads.is_multiple_of(5) {
            decoder.release(&mut buffers);
            buffers.lent = None;
        }
        match decoder.read(&mut from, &mut buffers, &Moment::now()) {
            Ok(Event::WouldBlock) => {}
            Ok(Event::Frame(frame)) => encode(&frame, &mut encoded),
            Ok(Event::Placed(tag)) => {
                let lent = buffers.lent.take();
                let (head, body) =
                    lent.map_or_else(Default::default, |(_, head, body)| (head, body));
                encode(&Frame::Message { tag, head, body }, &mut encoded);
            }
            Err(end) => break end,
        }
    };
    // Every meaning has one form, and nothing is lost or made up on the way.
    assert!(sent.starts_with(&encoded));
    if matches!(end, Unreadable::End) {
        assert_eq!(encoded.len(), sent.len());
    }
    // However long a frame says that it is.
    assert!(
        from.most <= MAX_READ,
        "asked for {} bytes at once",
        from.most
    );
}

fn encode(frame: &Frame, into: &mut Vec<u8>) {
    let mut put = |header: Result<Header, String>, parts: [&[u8]; 2]| {
        let header = header.map(|header| header.encode().to_vec());
        into.extend([&header.unwrap_or_default()[..], parts[0], parts[1]].concat());
    };
    match frame {
        Frame::Heartbeat => put(Ok(Header::HEARTBEAT), [&[], &[]]),
        Frame::Goodbye => put(Ok(Header::GOODBYE), [&[], &[]]),
        Frame::News(news) => into.extend(news.encode().unwrap_or_default()),
        Frame::Message { tag, head, body } => {
            put(Header::message(*tag, head.len(), body.len()), [head, body]);
        }
    }
}

/// Yields bytes in pieces, and records the largest read.
struct Pieces<'b> {
    rest: &'b [u8],
    piece: usize,
    /// True if every second read would block.
    blocks: bool,
    paused: bool,
    most: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.most = self.most.max(into.len());
        self.paused = self.blocks && !self.paused;
        if self.paused {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = into.len().min(self.piece);
        self.rest.read(&mut into[..count])
    }

    fn read_vectored(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.blocks || self.piece != usize::MAX {
            let first = into.iter_mut().find(|piece| !piece.is_empty());
            return first.map_or(Ok(0), |piece| self.read(piece));
        }
        self.rest.read_vectored(into)
    }
}

/// Lends memory for one message at a time.
struct OneBuffer {
    lends: bool,
    lent: Option<(Tag, Vec<u8>, Vec<u8>)>,
}

impl RecvBuffers for OneBuffer {
    fn place(&mut self, tag: Tag, head: &[u8], length: usize) -> Option<&mut [u8]> {
        if !self.lends || length > MAX_LENT {
            return None;
        }
        let lent = || (tag, head.to_vec(), vec![0; length]);
        let (for_tag, for_head, memory) = self.lent.get_or_insert_with(lent);
        let fits = *for_tag == tag && for_head == head && memory.len() == length;
        fits.then_some(memory)
    }
}

/// Returns streams of good and bad frames, split in several ways.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    use super::super::frame::BODY_LIMIT;
    use super::super::loss::loss_seed;
    let tag = Tag {
        group: 1,
        sequence: 2,
        part: 3,
    };
    let message = |head: &[u8], body: usize| Frame::Message {
        tag,
        head: head.to_vec(),
        body: vec![7; body],
    };
    let frames = [
        Frame::Heartbeat,
        message(b"head", 32),
        Frame::News(NewsFrame::Notice {
            origin: 4,
            number: 2,
            to: vec![0b101],
            content: b"why".to_vec(),
        }),
        message(b"", 0),
        Frame::News(NewsFrame::Loss {
            process: 1,
            cause: loss_seed(),
        }),
        Frame::News(NewsFrame::Farewell {
            origin: 4,
            number: 3,
        }),
        Frame::Goodbye,
    ];
    let mut all = Vec::new();
    for frame in &frames {
        encode(frame, &mut all);
    }
    let header = |header: Result<Header, String>| header.unwrap().encode().to_vec();
    let mut too_long = header(Header::message(tag, 0, 0));
    too_long[32..].fill(0xff);
    let mut kind = Header::HEARTBEAT.encode().to_vec();
    kind[4] = 9;
    let cut = all[..all.len() - HEADER - 20].to_vec();
    let lies = header(Header::message(tag, HEAD_LIMIT, BODY_LIMIT as usize));
    [
        ("all", 0, all.clone()),
        ("all-in-bytes", 1 | 4, all.clone()),
        ("all-lent", 2 | 8, all.clone()),
        ("all-released", 2 | 4 | 8 | 16, all),
        ("cut", 0, cut),
        ("too-long", 0, too_long),
        ("lies", 0, lies),
        ("kind", 0, kind),
        ("goodbye", 3, Header::GOODBYE.encode().to_vec()),
    ]
    .map(|(name, manner, stream)| (name, [vec![manner], stream].concat()))
    .to_vec()
}
