//! The pulse: one thread that sends what nobody waits for (heartbeats on idle connections, notices,
//! goodbyes) and finds out who has fallen silent.
//!
//! It waits for no connection: one that takes nothing is left alone until the next round.
//!
//! Callers: the network starts it; connections wake it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::transport::locks::{lock, wait_for};
use crate::transport::network::Cause;

/// Wakes the pulse before its time, or stops it.
#[derive(Default)]
pub(super) struct Waker {
    state: Mutex<Call>,
    called: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Call {
    #[default]
    None,
    Round,
    Stop,
}

impl Waker {
    /// Has a round done soon.
    pub(super) fn wake(&self) {
        self.call(Call::Round);
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.call(Call::Stop);
    }

    fn call(&self, call: Call) {
        let mut state = lock(&self.state);
        if *state != Call::Stop {
            *state = call;
            self.called.notify_one();
        }
    }

    /// Sleeps until called or until the time is over; says whether to go on.
    fn sleep(&self, until: Instant) -> bool {
        let mut state = lock(&self.state);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match *state {
                Call::Stop => return false,
                Call::Round => break,
                Call::None if left.is_zero() => break,
                Call::None => state = wait_for(&self.called, state, left),
            }
        }
        *state = Call::None;
        true
    }
}

/// Runs until stopped.
pub(super) fn run(connections: &[Arc<Connection>], waker: &Waker, heartbeat: Duration) {
    // Ten rounds in a heartbeat: three beats are sent in it, each at most a round late, and silence
    // is found at most a round late (and no more than a quarter of a second).
    let round = (heartbeat / 10).clamp(Duration::from_millis(1), Duration::from_millis(250));
    let mut next = Instant::now() + round;
    while waker.sleep(next) {
        let overslept = next.elapsed() > heartbeat / 2;
        for connection in connections {
            if overslept {
                // It was this process that stood still (stopped, suspended): what the others sent
                // meanwhile has not been read yet.
                connection.heard.set();
            }
            let silence = connection.silence();
            if silence > heartbeat {
                connection.end(Cause::Silent(silence));
            }
            connection.beat(heartbeat / 3);
        }
        next = Instant::now() + round;
    }
}
