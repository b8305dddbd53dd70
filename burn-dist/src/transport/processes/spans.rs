//! Sets of an order's numbers, nearly all of which follow one another.

use serde::{Deserialize, Serialize};

/// The most spans that travel. The rest counts as not in the set, which ends operations rather than letting
/// them wait.
const MOST: usize = 256;

/// A set of numbers as half-open spans, in ascending order and apart from one another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spans(Vec<(u64, u64)>);

impl Spans {
    pub(crate) fn insert(&mut self, number: u64) {
        let next = self.0.partition_point(|span| span.0 <= number);
        let joins = |span: Option<&(u64, u64)>| span.is_some_and(|span| span.0 == number + 1);
        let joins_next = joins(self.0.get(next));
        let previous = next.checked_sub(1).map(|at| &mut self.0[at]);
        match previous {
            Some(previous) if number < previous.1 => {}
            Some(previous) if number == previous.1 => {
                previous.1 += 1;
                if joins_next {
                    let (_, end) = self.0.remove(next);
                    self.0[next - 1].1 = end;
                }
            }
            _ if joins_next => self.0[next].0 = number,
            _ => self.0.insert(next, (number, number + 1)),
        }
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        self.0.iter().any(|span| (span.0..span.1).contains(&number))
    }

    /// The first spans, if there are many.
    pub(super) fn shortened(&self) -> Self {
        Self(self.0.iter().take(MOST).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_any_order_join_to_spans() {
        let mut spans = Spans::default();
        for number in [0, 1, 4, 6, 5, 4, 9, 2] {
            spans.insert(number);
        }
        assert_eq!(spans.0, [(0, 3), (4, 7), (9, 10)]);
        spans.insert(3);
        assert_eq!(spans.0, [(0, 7), (9, 10)]);
        let has: Vec<u64> = (0..12).filter(|&number| spans.contains(number)).collect();
        assert_eq!(has, [0, 1, 2, 3, 4, 5, 6, 9]);
    }

    #[test]
    fn only_the_first_of_many_spans_travel() {
        let mut spans = Spans::default();
        for number in 0..1000 {
            spans.insert(2 * number);
        }
        let told = spans.shortened();
        assert!(told.contains(0) && told.contains(510) && !told.contains(512));
    }
}
