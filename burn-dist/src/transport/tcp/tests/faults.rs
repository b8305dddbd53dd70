//! The TCP network under plans of faults.

use std::net::Shutdown;

use std::time::Duration;

use super::*;
use crate::transport::faults::{Breakable, tests::try_seeds};

impl Breakable for TcpNetwork {
    fn cut(&self, peer: usize) {
        if let Some(connection) = self.mesh.connection(peer) {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }

    /// Nothing is sent any more, not even a heartbeat, and nothing is closed.
    fn freeze(&self) {
        self.mesh.links.lock().close();
        self.mesh.shared.heartbeat.stop();
        for connection in self.mesh.all() {
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
        self.mesh.links.lock().close();
        // At once: what it finds broken is told to nobody.
        let _quiet = self.mesh.news.hold();
        self.close_port();
        for connection in self.mesh.all() {
            connection.end(Cause::Disconnected("died".into()));
        }
    }
}

#[test]
fn every_plan_ends_in_the_right_result_or_an_error() {
    try_seeds(80, |processes| job(processes, Duration::from_secs(1)));
}

#[test]
fn every_plan_ends_where_not_all_are_connected() {
    try_seeds(24, |processes| job(processes + 5, Duration::from_secs(1)));
}
