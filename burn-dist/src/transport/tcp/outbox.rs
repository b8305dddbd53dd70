//! Frames that a connection sends without anybody waiting for them.

use std::collections::VecDeque;

use super::write::QueuedFrame;

/// Most bytes of news that wait for a peer to read. The reports of a hanging job are far less.
const MAX_NEWS: usize = 64 << 20;
/// Longest frames that are joined to one, and the longest frame made of them. Many small news take one write then.
const JOINED: (usize, usize) = (4 << 10, 64 << 10);

/// Frames to send before the next message, in order.
#[derive(Default)]
pub(super) struct Outbox {
    frames: VecDeque<QueuedFrame>,
    /// Bytes of news among them.
    news: usize,
    /// True if the socket took less than it was given.
    is_blocked: bool,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// True if what is left waits for the socket.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked && !self.is_empty()
    }

    /// Adds a frame. Returns false if the peer reads too little.
    pub(super) fn push(&mut self, frame: QueuedFrame) -> bool {
        self.news += frame.news_bytes();
        let fits = self.news <= MAX_NEWS || frame.news_bytes() == 0;
        self.frames.push_back(frame);
        fits
    }

    /// Adds the rest of a frame that was begun, before all others.
    pub(super) fn push_rest(&mut self, frame: QueuedFrame) {
        self.news += frame.news_bytes();
        self.frames.push_front(frame);
        self.is_blocked = true;
    }

    /// Takes the first frame. Small ones are joined.
    pub(super) fn pop(&mut self) -> Option<QueuedFrame> {
        let mut first = self.frames.pop_front()?;
        let mut length = first.left();
        if length <= JOINED.0 {
            let small = self.frames.iter().take_while(|next| {
                length += next.left();
                next.left() <= JOINED.0 && length <= JOINED.1
            });
            let count = small.count();
            if count > 0 {
                first = QueuedFrame::joined(&first, self.frames.drain(..count));
            }
        }
        self.news -= first.news_bytes();
        self.is_blocked = false;
        Some(first)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_are_joined_in_order_and_large_ones_are_not() {
        let mut outbox = Outbox::default();
        for length in [3, JOINED.0, 5, JOINED.0 + 1, 1] {
            assert!(outbox.push(QueuedFrame::news(vec![length as u8; length])));
        }
        outbox.push(QueuedFrame::goodbye());
        let first = outbox.pop().unwrap();
        assert_eq!(first.left(), 8 + JOINED.0);
        assert_eq!(outbox.pop().unwrap().left(), JOINED.0 + 1);
        let last = outbox.pop().unwrap();
        assert!(last.is_goodbye() && last.left() > 1);
        assert!(outbox.pop().is_none());
        assert_eq!(outbox.news, 0);
    }

    #[test]
    fn news_are_bounded() {
        let mut outbox = Outbox::default();
        let large = QueuedFrame::news(vec![0; 1 << 20]);
        assert!((0..MAX_NEWS >> 20).all(|_| outbox.push(large.clone())));
        assert!(outbox.push(QueuedFrame::heartbeat()));
        assert!(!outbox.push(large));
    }
}
