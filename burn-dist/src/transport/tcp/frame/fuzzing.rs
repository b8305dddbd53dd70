//! What must hold of frames, whatever bytes come.

use super::*;

/// Reads frames until there are no more.
pub(crate) fn check(bytes: &[u8]) {
    let mut from = Asked {
        rest: bytes,
        most: 0,
    };
    loop {
        let before = from.rest;
        let Ok(frame) = read(&mut from) else { break };
        let used = &before[..before.len() - from.rest.len()];
        // Every meaning has one form.
        assert_eq!(encoded(&frame), used);
    }
    // However long a frame says that it is.
    assert!(from.most <= STEP, "asked for {} bytes at once", from.most);
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let bytes = |header: Result<Header, String>, parts: [&[u8]; 2]| {
        let header = header.map(|header| header.encode().to_vec());
        [&header.unwrap_or_default()[..], parts[0], parts[1]].concat()
    };
    match frame {
        Frame::Heartbeat => bytes(Ok(Header::HEARTBEAT), [&[], &[]]),
        Frame::Goodbye => bytes(Ok(Header::GOODBYE), [&[], &[]]),
        Frame::Notice(notice) => bytes(Header::notice(notice.len()), [&[], notice]),
        Frame::Message { tag, head, body } => {
            bytes(Header::message(*tag, head.len(), body.len()), [head, body])
        }
    }
}

/// Gives bytes, and notes how many it is asked for at once.
struct Asked<'b> {
    rest: &'b [u8],
    most: usize,
}

impl Read for Asked<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.most = self.most.max(into.len());
        self.rest.read(into)
    }
}

/// Streams of frames, good and bad.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let tag = Tag {
        group: 1,
        sequence: 2,
        part: 3,
    };
    let message = Frame::Message {
        tag,
        head: b"head".to_vec(),
        body: vec![7; 32],
    };
    let empty = Frame::Message {
        tag,
        head: Vec::new(),
        body: Vec::new(),
    };
    let notice = Frame::Notice(b"why".to_vec());
    let frames = [Frame::Heartbeat, message, notice, empty, Frame::Goodbye];
    let all: Vec<u8> = frames.iter().flat_map(encoded).collect();
    let header = |header: Result<Header, String>| header.unwrap().encode().to_vec();
    let mut too_long = header(Header::message(tag, 0, 0));
    too_long[32..].fill(0xff);
    let mut kind = Header::HEARTBEAT.encode().to_vec();
    kind[4] = 9;
    vec![
        ("all", all.clone()),
        ("cut", all[..all.len() - HEADER - 20].to_vec()),
        ("too-long", too_long),
        (
            "lies",
            header(Header::message(tag, HEAD_LIMIT, BODY_LIMIT as usize)),
        ),
        ("kind", kind),
        ("goodbye", Header::GOODBYE.encode().to_vec()),
    ]
}
