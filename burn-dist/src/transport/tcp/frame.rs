//! The wire format of a connection: frames as bytes.
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
//! The head and the body follow. Numbers are little-endian. Fields that a kind does not use are zero, so that
//! header and meaning correspond one to one.
//!
//! | kind | group | sequence | head | body |
//! |---|---|---|---|---|
//! | message | tag | tag | its head | its body |
//! | notice | origin | number | destinations | content |
//! | farewell | origin | number | | |
//! | loss | lost process | | | cause |
//! | heartbeat, goodbye | | | | |
//!
//! Notices, farewells and losses are news, which [`super::news`] passes on.
//!
//! Invariant: a header exists only with lengths within their limits.

use std::io;

use crate::transport::network::Tag;

/// Length of a header.
pub(super) const HEADER: usize = 40;
/// Longest head. An encoded call takes some hundred bytes.
pub(super) const HEAD_LIMIT: usize = 64 << 10;
/// Longest body: more than a tensor of any device of today, and far from the overflow of sums of lengths.
/// (Less in tests, one of which exceeds it.)
pub(super) const BODY_LIMIT: u64 = if cfg!(test) { 1 << 30 } else { 16 << 30 };
/// Longest content of a notice.
pub(super) const NOTICE_LIMIT: usize = 1 << 20;
/// Most bytes of the set of a notice's destinations: a bit for each process.
const DESTINATIONS_LIMIT: usize = 8 << 10;
/// Longest cause of a loss.
pub(super) const LOSS_LIMIT: usize = 4 << 10;

const MAGIC: [u8; 4] = *b"BDN\x01";

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Message = 1,
    Heartbeat = 2,
    Notice = 3,
    Goodbye = 4,
    Farewell = 5,
    Loss = 6,
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) tag: Tag,
    pub(super) head: usize,
    pub(super) body: u64,
}

/// A received frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Message {
        tag: Tag,
        head: Vec<u8>,
        body: Vec<u8>,
    },
    Heartbeat,
    Goodbye,
    News(NewsFrame),
}

/// A received frame that is passed on from process to process. Its numbers and sets are those of the sender, and not
/// checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NewsFrame {
    /// A process tells others something.
    Notice {
        origin: u64,
        /// Its number among the news of its origin.
        number: u64,
        /// A bit for each process, lowest first; empty for all.
        to: Vec<u8>,
        content: Vec<u8>,
    },
    /// A process leaves in good order. This is the last of its news.
    Farewell { origin: u64, number: u64 },
    /// A process is lost, with the encoded cause.
    Loss { process: u64, cause: Vec<u8> },
}

impl NewsFrame {
    /// Encodes the frame.
    ///
    /// # Errors
    /// The limit that a length breaks.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let (kind, group, sequence, head, body) = match self {
            Self::Notice {
                origin,
                number,
                to,
                content,
            } => (Kind::Notice, *origin, *number, &to[..], &content[..]),
            Self::Farewell { origin, number } => {
                (Kind::Farewell, *origin, *number, &[][..], &[][..])
            }
            Self::Loss { process, cause } => (Kind::Loss, *process, 0, &[][..], &cause[..]),
        };
        let header = Header {
            kind,
            tag: Tag {
                group,
                sequence,
                part: 0,
            },
            head: head.len(),
            body: body.len() as u64,
        };
        Ok([&header.checked()?.encode()[..], head, body].concat())
    }
}

/// Reason why no more frames can be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// The stream ended between two frames.
    End,
    /// The stream ended in the middle of a frame.
    Truncated,
    /// The stream failed.
    Broken(io::Error),
    /// The bytes are not a frame, or its lengths exceed their limits.
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

    /// The header of a message.
    ///
    /// # Errors
    /// The limit that its lengths break.
    pub(super) fn message(tag: Tag, head: usize, body: usize) -> Result<Self, String> {
        Self {
            kind: Kind::Message,
            tag,
            head,
            body: body as u64,
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
        // Fits: a header exists only with a head within its limit.
        bytes[28..32].copy_from_slice(&(self.head as u32).to_le_bytes());
        bytes[32..].copy_from_slice(&self.body.to_le_bytes());
        bytes
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// The first field that is wrong, with its value.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        if bytes[..4] != MAGIC {
            let found = &bytes[..4];
            return Err(format!("magic: expected {MAGIC:02x?}, got {found:02x?}"));
        }
        let kind = match bytes[4] {
            1 => Kind::Message,
            2 => Kind::Heartbeat,
            3 => Kind::Notice,
            4 => Kind::Goodbye,
            5 => Kind::Farewell,
            6 => Kind::Loss,
            other => return Err(format!("kind: expected 1 to 6, got {other}")),
        };
        if bytes[5..8] != [0; 3] {
            let found = &bytes[5..8];
            return Err(format!("padding: expected zeros, got {found:02x?}"));
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
            Kind::Notice => (DESTINATIONS_LIMIT, NOTICE_LIMIT as u64),
            Kind::Loss => (0, LOSS_LIMIT as u64),
            Kind::Heartbeat | Kind::Goodbye | Kind::Farewell => (0, 0),
        };
        if self.head > head_limit || self.body > body_limit {
            return Err(format!(
                "{:?} frame: expected at most {head_limit} bytes of head and {body_limit} of body, got {} \
                 and {}",
                self.kind, self.head, self.body
            ));
        }
        let Tag {
            group, sequence, ..
        } = self.tag;
        let due = match self.kind {
            Kind::Message => self.tag,
            Kind::Notice | Kind::Farewell => Tag {
                group,
                sequence,
                part: 0,
            },
            Kind::Loss => Tag { group, ..NO_TAG },
            Kind::Heartbeat | Kind::Goodbye => NO_TAG,
        };
        if self.tag != due {
            return Err(format!(
                "{:?} frame: expected no such tag, got {}",
                self.kind, self.tag
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
