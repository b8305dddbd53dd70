//! The TCP network under plans of faults.

use std::net::Shutdown;

use super::*;
use crate::transport::faults::{Breakable, tests::try_seeds};

impl Breakable for TcpNetwork {
    fn cut(&self, peer: usize) {
        if let Ok(connection) = self.connection(peer) {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }

    /// Nothing is sent any more, not even a heartbeat, and nothing is closed.
    fn freeze(&self) {
        self.waker.stop();
        for connection in self.all() {
            // Whoever wants to write now waits until the connection ends.
            loop {
                if let Some(guard) = connection.try_write() {
                    std::mem::forget(guard);
                    break;
                }
                if connection.has_ended() {
                    break;
                }
                thread::yield_now();
            }
        }
    }

    fn die(&self) {
        for connection in self.all() {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn every_plan_ends_in_the_right_result_or_an_error() {
    try_seeds(80, |processes| job(processes, Duration::from_secs(1)));
}
