//! Which track of a trace a thread is.
//!
//! A rank's threads with the same name that live one after the other, such as a loader's of each epoch,
//! share a track; those that live at the same time have one each.
//!
//! Invariant: a track has one thread at a time, so the spans in it are nested.

use parking_lot::Mutex;
use std::sync::Arc;

/// All tracks of a trace.
#[derive(Debug, Default)]
pub(super) struct Tracks(Mutex<Vec<TrackEntry>>);

#[derive(Debug)]
struct TrackEntry {
    rank: usize,
    name: String,
    taken: bool,
}

/// A thread's right to its track, until it is dropped.
#[derive(Debug)]
pub(super) struct Track {
    tracks: Arc<Tracks>,
    place: usize,
    /// Its number among all threads of all ranks: not 0, which viewers take for the idle one.
    pub(super) thread: u64,
    /// True if the track is used for the first time.
    pub(super) new: bool,
}

impl Tracks {
    /// A track for a thread of this name and rank.
    pub(super) fn take(self: &Arc<Self>, rank: usize, name: &str) -> Track {
        let mut entries = self.0.lock();
        let free = entries
            .iter()
            .position(|entry| !entry.taken && entry.rank == rank && entry.name == name);
        let place = free.unwrap_or_else(|| {
            entries.push(TrackEntry {
                rank,
                name: name.to_owned(),
                taken: false,
            });
            entries.len() - 1
        });
        entries[place].taken = true;
        Track {
            tracks: Arc::clone(self),
            place,
            // Numbers of different ranks differ, in the traces of different processes too.
            thread: process(rank) * 10_000 + place as u64,
            new: free.is_none(),
        }
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        self.tracks.0.lock()[self.place].taken = false;
    }
}

/// Returns the number of a rank's process in the format: not 0, which viewers take for the idle one.
pub(super) fn process(rank: usize) -> u64 {
    rank as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_live_together_have_tracks_of_their_own() {
        let tracks = Arc::<Tracks>::default();
        let one = tracks.take(0, "loader");
        let two = tracks.take(0, "loader");
        let other = tracks.take(1, "loader");
        assert!(one.new && two.new && other.new);
        assert!(one.thread != two.thread && one.thread != other.thread);
        let freed = two.thread;
        drop(two);
        assert!(tracks.take(0, "reducer").thread != freed);
        let again = tracks.take(0, "loader");
        assert!(again.thread == freed && !again.new);
    }
}
