//! What each rank did last, kept for the moment when ranks wait for one that does not come.
//!
//! - `ring`: the last operations of the ranks of a process, recorded as they go on;
//! - `snapshot`: a copy of them, which travels and is compared;
//! - `compare`: who is behind, in which operation;
//! - `file`: a rank's record as a file for people.
//!
//! It knows nothing of transports: `transport` records, and has the records written and compared.
//! The idea is that of the flight recorder of PyTorch's NCCL process group.

mod compare;
mod file;
mod ring;
mod snapshot;

pub(crate) use compare::compare;
pub(crate) use file::{write_comparison, write_rank};
pub(crate) use ring::{Group, Recorder};
pub(crate) use snapshot::Snapshot;
#[cfg(test)]
pub(crate) use snapshot::{Operation, RankRecord, State};
