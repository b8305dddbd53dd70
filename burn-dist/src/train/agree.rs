//! What the ranks tell one another so that all do the same: before each pass, whether anybody has a batch and
//! wants to stop; when somebody does, why.

use crate::codec;
use crate::element::ReduceOp;
use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use burn::train::train::WorkerFailure;
use burn::train::{Interrupter, TrainingError};
use serde::{Deserialize, Serialize};

/// State of the next pass, over all ranks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// True if any rank has a batch.
    pub(super) batches: bool,
    /// The samples that count.
    pub(super) samples: usize,
    /// Number that the ranks' losses together are a mean over.
    pub(super) count: f64,
    /// True if any rank wants to stop.
    pub(super) stop: bool,
}

/// Tells all ranks how many samples this one has next and what their loss counts, if it has a batch, and whether
/// it wants to stop.
pub(super) fn look_ahead(
    group: &ProcessGroup,
    next: Option<(usize, f64)>,
    interrupter: &Interrupter,
) -> Result<Ahead> {
    let (samples, count) = next.unwrap_or_default();
    // Numbers of samples are far below 2^53, up to which all integers are floats.
    let mut sums = [
        f64::from(u8::from(next.is_some())),
        samples as f64,
        count,
        f64::from(u8::from(interrupter.should_stop())),
    ];
    group
        .within("a pass of burn-train")
        .all_reduce(&mut sums, ReduceOp::Sum)?;
    let [batches, samples, count, stop] = sums;
    Ok(Ahead {
        batches: batches > 0.0,
        samples: samples as usize,
        count,
        stop: stop > 0.0,
    })
}

/// Returns the sum of what all ranks say.
pub(super) fn sum(group: &ProcessGroup, here: f64) -> Result<f64> {
    let mut sum = [here];
    group.all_reduce(&mut sum, ReduceOp::Sum)?;
    Ok(sum[0])
}

/// A setting that all ranks must have alike: its name, and its value in words.
pub(super) type Setting = (String, String);

/// Refuses a training whose ranks have other settings than rank 0; the error names the first of them.
pub(super) fn same_settings(group: &ProcessGroup, settings: &[Setting]) -> Result<()> {
    let all = group.objects().all_gather(&settings.to_vec())?;
    let differing = all.iter().enumerate().find_map(|(peer, other)| {
        let pair = all[0].iter().zip(other).find(|(one, other)| one != other)?;
        Some((peer, pair))
    });
    let Some((peer, ((name, value), (_, other)))) = differing else {
        return Ok(());
    };
    Err(Error::InvalidArgument {
        rank: group.global_rank(),
        call: "training",
        message: format!(
            "{name}: {value} on rank 0, {other} on rank {peer}; give every process the same"
        ),
    })
}

/// True if `here` is true on any rank.
pub(super) fn any(group: &ProcessGroup, here: bool) -> Result<bool> {
    let mut count = [i64::from(here)];
    group
        .within("a pass of burn-train")
        .all_reduce(&mut count, ReduceOp::Sum)?;
    Ok(count[0] > 0)
}

/// Reason why a rank stops.
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
    let bytes = codec::encode(&why).map_err(|message| control(rank, message))?;
    for (peer, bytes) in group.all_gather_bytes(&bytes)?.iter().enumerate() {
        let why: Why = codec::decode(bytes).map_err(|message| control(peer, message))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::on_ranks;

    #[test]
    fn a_setting_of_one_rank_is_named_on_all_with_both_values() {
        on_ranks(3, |group| {
            let epochs = 5 + group.rank() / 2;
            let setting = |name: &str, value: String| (name.to_owned(), value);
            let settings = [
                setting("training data", "3 samples".to_owned()),
                setting("num_epochs", epochs.to_string()),
            ];
            let error = same_settings(&group, &settings).unwrap_err().to_string();
            assert!(
                error.contains("num_epochs: 5 on rank 0, 6 on rank 2"),
                "{error}"
            );
            same_settings(&group, &settings[..1]).unwrap();
        });
    }
}
