//! Waits that are short: a thread watches for a change before it sleeps, where that burns no core which somebody
//! else needs.
//!
//! Between its looks, a thread offers its core to others. How many looks it takes before adapts to what happens
//! then: where another thread ran, looks only keep it waiting; where none did, the core was free.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::yield_now;
use std::time::{Duration, Instant};

/// Time that a waiting rank watches for the others before it sleeps: longer than the others need when all come
/// together, shorter than it takes to wake a sleeping thread.
const WATCH: Duration = Duration::from_micros(10);

/// Time that an offer of the core takes if another thread ran meanwhile.
const SWITCH: Duration = Duration::from_micros(1);

/// The most looks between two offers: some microseconds.
const MOST_LOOKS: u32 = 256;

/// The number of looks between two offers, now. Whether cores are free concerns all threads of a process.
static LOOKS: AtomicU32 = AtomicU32::new(MOST_LOOKS);

/// Watches for `done` for a few microseconds, and tells whether it came.
pub(crate) fn watch_for(done: impl Fn() -> bool) -> bool {
    let mut looks = LOOKS.load(Ordering::Relaxed);
    let mut start = None;
    loop {
        for _ in 0..looks {
            if done() {
                return true;
            }
            spin_loop();
        }
        let before = Instant::now();
        if before - *start.get_or_insert(before) > WATCH {
            return false;
        }
        yield_now();
        let next = adapted(looks, before.elapsed());
        if next != looks {
            LOOKS.store(next, Ordering::Relaxed);
            looks = next;
        }
    }
}

/// The number of looks after an offer of the core that took so long.
fn adapted(looks: u32, offer: Duration) -> u32 {
    if offer > SWITCH {
        (looks / 2).max(1)
    } else {
        (looks * 2).min(MOST_LOOKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_get_fewer_where_others_run_and_more_where_none_does() {
        let (short, long) = (SWITCH / 4, 4 * SWITCH);
        let mut looks = MOST_LOOKS;
        for _ in 0..10 {
            looks = adapted(looks, long);
        }
        assert_eq!(looks, 1);
        assert_eq!(adapted(looks, short), 2);
        assert_eq!(adapted(MOST_LOOKS, short), MOST_LOOKS);
    }

    #[test]
    fn a_change_that_does_not_come_is_not_watched_for_long() {
        assert!(watch_for(|| true));
        assert!(!watch_for(|| false));
    }
}
