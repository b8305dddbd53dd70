//! The group that the passes of a thread belong to, and how much its batch counts there.
//!
//! A module's forward pass has no place for either: they belong to the thread for as long as a worker runs.

use crate::group::ProcessGroup;
use std::cell::{Cell, RefCell};

thread_local! {
    static HERE: RefCell<Here> = const { RefCell::new(Here { group: None, samples: None, counts: true }) };
    static LOSS_COUNTS: Cell<bool> = const { Cell::new(true) };
}

/// Group and rank of a pass that runs on this thread.
#[derive(Clone, Debug)]
pub(super) struct Here {
    pub(super) group: Option<ProcessGroup>,
    /// The samples of this rank's batch, where losses are means over them that are weighed afterwards.
    pub(super) samples: Option<usize>,
    counts: bool,
}

impl Here {
    /// Of this thread, or with the group that a layer was given.
    pub(super) fn now(own: Option<&ProcessGroup>) -> Self {
        let mut here = HERE.with_borrow(Clone::clone);
        if let Some(group) = own {
            here.group = Some(group.within("SyncBatchNorm"));
        }
        here
    }

    /// True if this rank's batch is part of the statistics.
    pub(super) fn counts(&self) -> bool {
        self.counts && self.samples != Some(0)
    }
}

/// True unless the losses of this thread count for nothing, so that their gradients may be no numbers.
pub(super) fn loss_counts() -> bool {
    LOSS_COUNTS.get()
}

/// Says what [`loss_counts`] returns on this thread from now on.
pub(crate) fn set_loss_counts(counts: bool) {
    LOSS_COUNTS.set(counts);
}

/// Runs a pass whose batch is no part of the statistics of [`SyncBatchNorm`](super::SyncBatchNorm), while
/// those of the other ranks are: for a rank whose batch is all padding, in a loop of your own. Its loss must
/// count for nothing too. (A batch of no rows needs no such call.)
///
/// ```no_run
/// # use burn::tensor::Tensor;
/// # use burn_dist::{data::ShardedBatch, norm::{self, SyncBatchNorm}};
/// # fn example(model: &SyncBatchNorm, batch: ShardedBatch<Tensor<2>>) -> Tensor<2> {
/// let output = match batch.real {
///     0 => norm::uncounted(|| model.forward(batch.batch)),
///     _ => model.forward(batch.batch),
/// };
/// # output
/// # }
/// ```
pub fn uncounted<R>(pass: impl FnOnce() -> R) -> R {
    let _reset = Counts(HERE.with_borrow_mut(|here| std::mem::replace(&mut here.counts, false)));
    pass()
}

/// Puts back what counted before, also when the pass panics.
struct Counts(bool);

impl Drop for Counts {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|here| here.counts = self.0);
    }
}

/// The thread belongs to a group for as long as it lives.
pub(crate) struct GroupGuard(());

/// Makes this thread's passes those of a rank of the group.
pub(crate) fn enter(group: &ProcessGroup) -> GroupGuard {
    HERE.with_borrow_mut(|here| {
        *here = Here {
            group: Some(group.within("SyncBatchNorm")),
            samples: None,
            counts: true,
        };
    });
    GroupGuard(())
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|here| here.group = None);
    }
}

/// Runs a pass whose batch has so many samples that count, and whose loss is the mean over them.
#[cfg(feature = "train")]
pub(crate) fn counting<R>(samples: usize, pass: impl FnOnce() -> R) -> R {
    HERE.with_borrow_mut(|here| here.samples = Some(samples));
    let result = pass();
    HERE.with_borrow_mut(|here| here.samples = None);
    result
}
