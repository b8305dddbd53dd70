use proptest::prelude::*;

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

/// Gives bytes in pieces of the lengths drawn, as a network does.
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
            return Err(ErrorKind::Interrupted.into());
        }
        let length = length.min(into.len()).min(self.bytes.len());
        into[..length].copy_from_slice(&self.bytes[..length]);
        self.bytes = &self.bytes[length..];
        Ok(length)
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
        bytes.extend(Header::notice(notice.len()).unwrap().encode());
        bytes.extend(&notice);
        bytes.extend(Header::GOODBYE.encode());
        let mut from = Pieces { bytes: &bytes, lengths, next: 0 };
        prop_assert_eq!(read(&mut from).unwrap(), Frame::Message { tag, head, body });
        prop_assert_eq!(read(&mut from).unwrap(), Frame::Heartbeat);
        prop_assert_eq!(read(&mut from).unwrap(), Frame::Notice(notice));
        prop_assert_eq!(read(&mut from).unwrap(), Frame::Goodbye);
        prop_assert!(matches!(read(&mut from), Err(Unreadable::End)));
    }

    #[test]
    fn a_header_has_one_meaning(mut bytes: [u8; HEADER], magic: bool, small: bool) {
        if magic {
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4] = 1 + bytes[4] % 4;
            bytes[5..8].fill(0);
        }
        if small {
            bytes[30..32].fill(0);
            bytes[36..].fill(0);
        }
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(mut bytes: Vec<u8>, magic: bool) {
        if magic && bytes.len() >= 8 {
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4] = 1 + bytes[4] % 4;
            bytes[5..8].fill(0);
        }
        let mut from = &bytes[..];
        while read(&mut from).is_ok() {}
    }

    #[test]
    fn a_truncated_frame_is_no_frame(tag in any_tag(), body: Vec<u8>, cut: prop::sample::Index) {
        let bytes = message(tag, b"head", &body);
        let cut = cut.index(bytes.len());
        let expected_end = cut == 0;
        match read(&mut &bytes[..cut]) {
            Err(Unreadable::End) => prop_assert!(expected_end),
            Err(Unreadable::Truncated) => prop_assert!(!expected_end),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

#[test]
fn lengths_beyond_the_limits_are_refused() {
    assert!(Header::message(NO_TAG, HEAD_LIMIT, BODY_LIMIT as usize).is_ok());
    assert!(Header::message(NO_TAG, HEAD_LIMIT + 1, 0).is_err());
    assert!(Header::message(NO_TAG, 0, BODY_LIMIT as usize + 1).is_err());
    assert!(Header::notice(NOTICE_LIMIT + 1).is_err());
    let mut bytes = Header::message(NO_TAG, 0, 0).unwrap().encode();
    bytes[32..].fill(0xff);
    assert!(Header::decode(&bytes).unwrap_err().contains("body"));
}

/// Counts how much it was asked for at once, and never has anything.
struct Asked(usize);

impl Read for Asked {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0 = self.0.max(into.len());
        Ok(0)
    }
}

#[test]
fn a_length_that_lies_costs_little() {
    let mut from = Asked(0);
    assert!(matches!(
        read_bytes(&mut from, BODY_LIMIT),
        Err(Unreadable::Truncated)
    ));
    assert!(from.0 <= STEP, "asked for {} bytes at once", from.0);
}

#[test]
fn memory_grows_with_what_arrives() {
    let sent = vec![7_u8; AT_ONCE + STEP + 1];
    let all = sent.len() as u64;
    let bytes = read_bytes(&mut &sent[..], all).unwrap();
    assert_eq!(bytes, sent);
    // Only the part that was missing was added.
    assert_eq!(bytes.capacity(), sent.len());
}
