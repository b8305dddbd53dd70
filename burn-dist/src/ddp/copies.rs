//! Calls for a loop that owns no model: `burn-train`'s learner holds the model that the optimizer steps, and
//! gives gradients already gathered for it.
//!
//! The model that was attached runs forward and backward; the learner's copy is what optimizer and
//! checkpoints see. After a step the attached one takes over the parameters of the other. Buffers (running
//! statistics) go the other way: forward passes of the attached model change them.

use super::handle::Ddp;
use super::hook::PassId;
use super::module_buffers::is_buffer;
use super::use_tracker::PassScope;
use super::values::{Replacer, TensorCollector};
use crate::error::Result;
use burn::module::Module;
use burn::optim::GradientsParams;

impl Ddp {
    /// Sets the weight of the gradients of the next pass in the average over ranks.
    pub(crate) fn weigh(&self, weight: f64) -> Result<()> {
        self.attached()?.tracker.weigh(weight);
        Ok(())
    }

    /// [`Ddp::synchronize`] for gradients that are gathered already, by the ids of the attached model. The averages
    /// bear the ids of its copy, which the optimizer knows.
    pub(crate) fn synchronize_gathered<M: Module>(
        &self,
        mut grads: GradientsParams,
        model: &M,
        copy: &M,
    ) -> Result<GradientsParams> {
        let passes = self.only_pass()?;
        self.settle(&mut grads, &passes, model, copy)
    }

    /// [`Ddp::no_sync`] for gradients that are gathered already, with what else the pass gives.
    pub(crate) fn keep_gathered<M: Module, R>(
        &self,
        model: &M,
        pass: impl FnOnce() -> (GradientsParams, R),
    ) -> Result<R> {
        let tracker = &self.attached()?.tracker;
        let (grads, result) = {
            let _scope = tracker.enter(PassScope::Keep);
            pass()
        };
        self.keep(grads, &self.only_pass()?, model)?;
        Ok(result)
    }

    /// The passes that gathered gradients may be of. Where there are several, the caller may have used some of them
    /// for something else, so what it gives is all there is: no hook may have taken any away.
    fn only_pass(&self) -> Result<Vec<PassId>> {
        let tracker = &self.attached()?.tracker;
        let passes = tracker.open_passes();
        if passes.len() > 1 {
            if tracker.in_step() {
                let message = "backward ran several times in one `TrainStep::step`, and once in those before; run \
                               it as often from the first step on";
                let error = self.order(message.into());
                self.group.abort(&error.to_string());
                return Err(error);
            }
            tracker.never_hand_over();
        }
        Ok(passes)
    }

    /// Drops the gradients that [`keep_gathered`](Self::keep_gathered) kept and no step has taken.
    pub(crate) fn forget_kept(&self) -> Result<()> {
        self.attached()?.tracker.forget_kept();
        Ok(())
    }

    /// Gives the attached model the parameters of a copy of it, and leaves its buffers.
    pub(crate) fn take_parameters<M: Module>(&self, attached: M, from: &M) -> Result<M> {
        let known = self.attached()?;
        let values = TensorCollector::of(from, |path| !is_buffer(known, path));
        Ok(attached.map(&mut Replacer::new(&values)))
    }

    /// [`Ddp::average_buffers`] of the attached model and its copy.
    ///
    /// Burn's running states are shared by clones of a module: the copy's are written in place.
    pub(crate) fn average_buffers_of_both<M: Module>(&self, attached: M, copy: M) -> Result<M> {
        let attached = self.average_buffers(attached)?;
        let known = self.attached()?;
        let values = TensorCollector::of(&attached, |path| is_buffer(known, path));
        let _ = copy.map(&mut Replacer::new(&values));
        Ok(attached)
    }
}
