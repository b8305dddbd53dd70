//! The thread that sends frames nobody waits for (heartbeats on idle connections, news, goodbyes) and finds silent
//! peers.
//!
//! Heartbeats go over the overlay; once any process has ended, over all connections. A peer that has sent one on a
//! connection owes more of them there.
//!
//! The thread blocks on no connection: one whose socket takes nothing is skipped until the next round.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::mesh::Mesh;
use crate::transport::network::Cause;

/// Longest time between two rounds over all connections.
const MAX_ROUND: Duration = Duration::from_millis(250);

/// Wakes the heartbeat thread before its time, or stops it.
#[derive(Default)]
pub(super) struct Waker {
    call: Mutex<Call>,
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
        let mut current = self.call.lock();
        if *current != Call::Stop {
            *current = call;
            self.called.notify_one();
        }
    }

    /// Sleeps until it is woken or the time has come. Returns false if the thread must end.
    fn sleep(&self, until: Instant) -> bool {
        let mut call = self.call.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match *call {
                Call::Stop => return false,
                Call::Round => break,
                Call::None if left.is_zero() => break,
                Call::None => {
                    self.called.wait_for(&mut call, left);
                }
            }
        }
        *call = Call::None;
        true
    }
}

/// Sends and checks heartbeats until the waker stops it.
pub(super) fn run(mesh: &Mesh) {
    let (waker, heartbeat) = (&mesh.shared.heartbeat, mesh.heartbeat);
    // Ten rounds in a heartbeat: each of the three beats in it is at most a round late, and silence is found at
    // most a round late.
    let round = (heartbeat / 10).clamp(Duration::from_millis(1), MAX_ROUND);
    let mut next = Instant::now() + round;
    while waker.sleep(next) {
        let overslept = next.elapsed() > heartbeat / 2;
        let is_thin = mesh.is_thin();
        for connection in mesh.all() {
            if overslept {
                // This process itself was stopped or suspended: what the others sent meanwhile was not read yet.
                connection.heard.set();
            }
            let silence = connection.silence();
            // What was received and not read yet tells that this process is late, and not its peer.
            if silence > heartbeat && !connection.has_unread() {
                connection.cast_out(Cause::Silent(silence));
            }
            let beats = is_thin || connection.is_overlay();
            connection.beat(beats.then_some(heartbeat / 3));
        }
        next = Instant::now() + round;
    }
}
