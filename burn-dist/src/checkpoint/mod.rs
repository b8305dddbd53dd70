//! Checkpoints: all that a run needs to go on where it was, in one folder on disk, and the way back.
//!
//! | file | idea |
//! |---|---|
//! | `config` | how a program opens its folder, and resumes |
//! | `snapshot` | what is saved: collected by every rank at a step |
//! | `save` | [`Checkpoints`]: what is each rank's own goes to rank 0, which writes |
//! | `restored` | what was saved, given back |
//! | `broadcast` | what rank 0 found on its disk, on all ranks |
//! | `state` | what is neither a model's nor an optimizer's record |
//! | `folder` | rank 0's disk: written whole or not at all, checked when read |
//! | `disk` | the file system under the folder: what it must be able to do, and the lock |
//! | `manifest` | what makes a directory a checkpoint |
//!
//! Only rank 0 touches the disk; the other ranks get what it reads by broadcast. So the folder needs to be
//! in process 0's reach alone.
//!
//! Threads: rank 0 writes on a thread `burn-dist-checkpoint` of its own, which owns the folder while it
//! writes, so that a disk that stands still costs a checkpoint, and not the training.
//!
//! # On disk
//!
//! ```text
//! DIR/lock                            held by the job that uses the folder
//! DIR/step-000000000300/              one checkpoint
//!     manifest.json                   format, versions, step, epoch, ranks; length and SHA-256 of each file
//!     manifest.json.sha256            that of the manifest, as `sha256sum -c` reads it
//!     model.bpk, optimizer.bpk, ...   Burn's records
//!     state.cbor, ranks.cbor          the rest: what all ranks share, and what is each rank's own
//! ```
//!
//! A checkpoint is written under a name that begins with a dot, with every file and the directory synced,
//! and renamed then; older ones are removed after that. A name that can't be synced is taken back. What a
//! damaged one is called is changed to `damaged-step-N` once a new one has been written.
//!
//! # What is not restored
//!
//! - Gradients that add up for a step that is not over: those that [`Ddp::no_sync`](crate::ddp::Ddp::no_sync) has
//!   kept, or the program itself. The sampler counts their samples as seen, so save after a step of the
//!   optimizer, and not in between.
//! - Burn's own generators, which can't be read. A model that draws from those (with `burn::nn::Dropout`) goes on
//!   with other draws; [`random::Dropout`](crate::random::Dropout) draws from the stream that is saved.
//! - Running statistics that differ between ranks: those of rank 0 are saved. Save, and go on with, what
//!   [`Ddp::average_buffers`](crate::ddp::Ddp::average_buffers) gives.

mod broadcast;
mod config;
mod disk;
mod folder;
mod manifest;
mod restored;
mod save;
mod snapshot;
mod state;

pub use config::CheckpointConfig;
pub use restored::{Rejected, Restored};
pub use save::{Checkpoints, Saved};
pub use snapshot::Snapshot;

use crate::error::Error;
use std::path::Path;

/// The file of what all ranks share, beside Burn's records.
const STATE: &str = "state.cbor";

/// The file of what is each rank's own.
const RANKS: &str = "ranks.cbor";

fn failed(path: &Path, message: impl Into<String>) -> Error {
    Error::Checkpoint {
        path: path.into(),
        message: message.into(),
    }
}
