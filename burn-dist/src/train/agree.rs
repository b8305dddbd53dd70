//! What the ranks tell one another so that all do the same: before each pass, whether anybody has a batch and
//! wants to stop; when somebody does, why.
//!
//! Callers: `replica`.

use crate::control;
use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::train::train::WorkerFailure;
use burn::train::{Interrupter, TrainingError};
use serde::{Deserialize, Serialize};

/// What all ranks together have for the next pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// Whether any rank has a batch.
    pub(super) batches: bool,
    /// The samples that count.
    pub(super) samples: usize,
    /// Whether any rank wants to stop.
    pub(super) stop: bool,
}

/// Tells all ranks how many samples this one has next, if it has a batch, and whether it wants to stop.
pub(super) fn look_ahead(
    group: &ProcessGroup,
    samples: Option<usize>,
    interrupter: &Interrupter,
) -> Result<Ahead> {
    let mut counts = [
        i64::from(samples.is_some()),
        samples.unwrap_or(0) as i64,
        i64::from(interrupter.should_stop()),
    ];
    group.all_reduce(&mut counts, ReduceOp::Sum)?;
    let [batches, samples, stop] = counts;
    Ok(Ahead {
        batches: batches > 0,
        samples: samples as usize,
        stop: stop > 0,
    })
}

/// Whether any rank says so.
pub(super) fn any(group: &ProcessGroup, here: bool) -> Result<bool> {
    let mut count = [i64::from(here)];
    group.all_reduce(&mut count, ReduceOp::Sum)?;
    Ok(count[0] > 0)
}

/// Why a rank stops.
#[derive(Debug, Serialize, Deserialize)]
enum Why {
    GoesOn,
    Asked(Option<String>),
    Failed(String),
}

/// Once some rank wants to stop: pulls the interrupter of every process that has not stopped by itself, with
/// the reason of the first that has.
pub(super) fn stop_all(group: &ProcessGroup, interrupter: &Interrupter) -> Result<()> {
    let rank = group.global_rank();
    let why = match (interrupter.error(), interrupter.interruption()) {
        (Some(error), _) => Why::Failed(error.to_string()),
        (None, Some(asked)) => Why::Asked(asked.reason),
        (None, None) => Why::GoesOn,
    };
    let control = |peer, message| Error::Control {
        rank,
        peer,
        message,
    };
    let bytes = control::encode(&why).map_err(|message| control(rank, message))?;
    for (peer, bytes) in group.all_gather_bytes(&bytes)?.iter().enumerate() {
        let why: Why = control::decode(bytes).map_err(|message| control(peer, message))?;
        if interrupter.should_stop() {
            break;
        }
        match why {
            Why::GoesOn => {}
            Why::Asked(reason) => interrupter.stop(reason.as_deref()),
            Why::Failed(message) => interrupter.fail(failure(peer, message)),
        }
    }
    Ok(())
}

/// burn-train's error for a rank that failed.
pub(super) fn failure(rank: usize, message: String) -> TrainingError {
    TrainingError::Workers(vec![WorkerFailure {
        device_id: rank,
        message,
    }])
}
