//! What a process has sent to the job's other processes.

use super::ProcessGroup;

/// Messages and bytes that one process has sent to the job's other processes since it joined: see
/// [`Worker::traffic`](crate::launch::Worker::traffic).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Messages of operations and of calls between two ranks.
    pub messages: u64,
    /// Bytes with the framing of messages, without what encryption adds.
    pub bytes: u64,
    /// Open connections with other processes.
    pub connections: usize,
}

impl<M> ProcessGroup<M> {
    /// Returns what this rank's process has sent to the job's other processes since it joined.
    pub(crate) fn traffic(&self) -> Traffic {
        let world = &self.core().world;
        Traffic {
            messages: world.messages(),
            bytes: world.sent(),
            connections: world.connections(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::{on_job, on_ranks};

    #[test]
    fn what_is_sent_to_other_processes_is_counted() {
        let traffic = on_job(&[1, 2, 1], |group| {
            group.barrier().unwrap();
            let traffic = group.traffic();
            // Whoever leaves has no connections.
            group.barrier().unwrap();
            traffic
        });
        for counted in &traffic {
            assert!(counted.messages >= 2, "{traffic:?}");
            assert_eq!(counted.connections, 2, "{traffic:?}");
        }
        // A rank of process 1 that does not send for the others has its process's figures.
        assert!(traffic[2].bytes > 0, "{traffic:?}");
    }

    #[test]
    fn threads_send_nothing() {
        let traffic = on_ranks(2, |group| {
            group.barrier().unwrap();
            group.traffic()
        });
        assert_eq!(traffic, [Traffic::default(); 2]);
    }
}
