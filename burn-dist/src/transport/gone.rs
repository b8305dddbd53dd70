//! The numbers of groups that are gone, so that what still comes for them is dropped and not kept.

use std::collections::{HashSet, VecDeque};

/// Number of entries kept: far more than are removed while something of theirs may still be on its way.
const MOST: usize = 4096;

/// The groups that went last.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    numbers: HashSet<u64>,
    /// The oldest first.
    order: VecDeque<u64>,
}

impl Gone {
    pub(crate) fn add(&mut self, number: u64) {
        if !self.numbers.insert(number) {
            return;
        }
        self.order.push_back(number);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.numbers.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.numbers.contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_are_remembered() {
        let mut gone = Gone::default();
        for number in 0..=MOST as u64 {
            gone.add(number);
            gone.add(number);
        }
        assert!(!gone.contains(0) && gone.contains(1) && gone.contains(MOST as u64));
    }
}
