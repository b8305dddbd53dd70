//! Frames: what travels on a connection, as bytes and back.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic |
//! | 4 | kind |
//! | 5..8 | zero |
//! | 8..16 | tag: group |
//! | 16..24 | tag: sequence |
//! | 24..28 | tag: part |
//! | 28..32 | length of the head |
//! | 32..40 | length of the body |
//!
//! then the head and the body. Numbers are little-endian; what a kind does not use is zero, so that
//! every header has one meaning and every meaning one header.
//!
//! Invariant: a length is checked against its limit before anybody sees it.
//!
//! Callers: `writing` and `exchange` encode, `inbound` decodes.

use std::io;

use crate::transport::network::Tag;

/// The length of a header.
pub(super) const HEADER: usize = 40;
/// The longest head: an encoded call takes some hundred bytes.
pub(super) const HEAD_LIMIT: usize = 64 << 10;
/// The longest body: more than one tensor of any device of today; it keeps sums of lengths far from
/// overflow. (Less in tests, one of which goes over it.)
pub(super) const BODY_LIMIT: u64 = if cfg!(test) { 1 << 30 } else { 16 << 30 };
/// The longest notice.
pub(super) const NOTICE_LIMIT: usize = 1 << 20;

const MAGIC: [u8; 4] = *b"BDN\x01";

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Message = 1,
    Heartbeat = 2,
    Notice = 3,
    Goodbye = 4,
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) tag: Tag,
    pub(super) head: usize,
    pub(super) body: u64,
}

/// A frame as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Message {
        tag: Tag,
        head: Vec<u8>,
        body: Vec<u8>,
    },
    Heartbeat,
    Notice(Vec<u8>),
    Goodbye,
}

/// Why no frame could be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The stream ended between two frames.
    End,
    /// The stream ended in the middle of a frame.
    Truncated,
    /// The stream failed.
    Broken(io::Error),
    /// The bytes are no frame, or one that is too large.
    Malformed(String),
}

const NO_TAG: Tag = Tag {
    group: 0,
    sequence: 0,
    part: 0,
};

impl Header {
    pub(super) const HEARTBEAT: Self = Self::bare(Kind::Heartbeat);
    pub(super) const GOODBYE: Self = Self::bare(Kind::Goodbye);

    const fn bare(kind: Kind) -> Self {
        Self {
            kind,
            tag: NO_TAG,
            head: 0,
            body: 0,
        }
    }

    /// The header of a message; the error says which limit its lengths break.
    pub(super) fn message(tag: Tag, head: usize, body: usize) -> Result<Self, String> {
        Self {
            kind: Kind::Message,
            tag,
            head,
            body: body as u64,
        }
        .checked()
    }

    /// The header of a notice; the error says which limit its length breaks.
    pub(super) fn notice(length: usize) -> Result<Self, String> {
        Self {
            body: length as u64,
            ..Self::bare(Kind::Notice)
        }
        .checked()
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind as u8;
        bytes[8..16].copy_from_slice(&self.tag.group.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tag.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.tag.part.to_le_bytes());
        // It fits: a header is only made with a head within its limit.
        bytes[28..32].copy_from_slice(&(self.head as u32).to_le_bytes());
        bytes[32..].copy_from_slice(&self.body.to_le_bytes());
        bytes
    }

    /// Reads a header; the error says what is wrong with the bytes.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        if bytes[..4] != MAGIC {
            return Err(format!("{:02x?} is not how a frame begins", &bytes[..4]));
        }
        let kind = match bytes[4] {
            1 => Kind::Message,
            2 => Kind::Heartbeat,
            3 => Kind::Notice,
            4 => Kind::Goodbye,
            other => return Err(format!("there is no kind {other} of frame")),
        };
        if bytes[5..8] != [0; 3] {
            return Err("a frame's padding is not zero".to_owned());
        }
        Self {
            kind,
            tag: Tag {
                group: word(8),
                sequence: word(16),
                part: word(24) as u32,
            },
            head: (word(24) >> 32) as usize,
            body: word(32),
        }
        .checked()
    }

    fn checked(self) -> Result<Self, String> {
        let (head_limit, body_limit) = match self.kind {
            Kind::Message => (HEAD_LIMIT, BODY_LIMIT),
            Kind::Notice => (0, NOTICE_LIMIT as u64),
            Kind::Heartbeat | Kind::Goodbye => (0, 0),
        };
        if self.head > head_limit || self.body > body_limit {
            return Err(format!(
                "a {:?} frame with a head of {} bytes and a body of {}, where {head_limit} and \
                 {body_limit} are allowed",
                self.kind, self.head, self.body
            ));
        }
        if self.kind != Kind::Message && self.tag != NO_TAG {
            return Err(format!("a {:?} frame has a tag", self.kind));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
