//! What the processes of a job know of one another.
//!
//! - `layout`: which process hosts which rank of a group, and at which sizes its algorithms change;
//! - `notice`: what they tell one another of failures and departures; `failure`: those in wire form;
//! - `registry`: one per process: which groups it has, and so whom a notice is for;
//! - `spans`: sets of operations, as notices name them;
//! - `reporter`: what all tell one another of their ranks' last operations when the job hangs.

mod failure;
mod layout;
mod notice;
mod registry;
mod reporter;
mod spans;

pub(crate) use failure::Failure;
pub(crate) use layout::{Layout, Place};
pub(crate) use notice::Notice;
#[cfg(any(test, fuzzing))]
pub(crate) use notice::check_notice;
#[cfg(test)]
pub(crate) use notice::notice_seeds;
pub(crate) use registry::{Registry, Told, World};
pub(crate) use reporter::Reporter;
pub(crate) use spans::Spans;
