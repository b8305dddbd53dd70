//! Passes that stay on this rank: kept for a later step, or ignored.

use super::collect::{self, GradientSource};
use super::contribution::wide;
use super::gradient::weighed;
use super::handle::{Attached, Ddp};
use super::hook::{GradientSink, PassId};
use super::use_tracker::PassScope;
use crate::error::Result;
use burn::module::Module;
use burn::tensor::{Gradients, Tensor};

impl Ddp {
    /// Runs a backward pass whose gradients stay on this rank, to be added to those of the next
    /// [`synchronize`](Self::synchronize): gradient accumulation without the traffic.
    ///
    /// The closure runs backward (and forward, if it likes). The next synchronised step then yields
    /// the mean over ranks of the *sum* over these passes, as in PyTorch: divide the loss by their
    /// number for a mean. Gradients of half precision are added up in f32.
    ///
    /// ```no_run
    /// # use burn::{nn::Linear, optim::GradientsParams, tensor::Tensor};
    /// # use burn_dist::{ddp::Ddp, Result};
    /// # fn example(ddp: &Ddp, model: &Linear, first: Tensor<2>, last: Tensor<2>) -> Result<GradientsParams> {
    /// ddp.no_sync(model, || (model.forward(first).mean() / 2.0).backward())?;
    /// let gradients = (model.forward(last).mean() / 2.0).backward();
    /// ddp.synchronize(gradients, model)
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Order`](crate::Error::Order) if no model is attached, the model is not the attached one, or backward ran outside of
    /// the closure and has handed its gradients over.
    pub fn no_sync<M: Module>(
        &self,
        model: &M,
        backward: impl FnOnce() -> Gradients,
    ) -> Result<()> {
        let tracker = &self.attached()?.tracker;
        let grads = {
            let _scope = tracker.enter(PassScope::Keep);
            backward()
        };
        let passes = tracker.passes_in(&grads);
        self.drop_for_others(&grads)?;
        self.keep(grads, &passes, model)
    }

    /// Runs backward passes whose gradients for this model are not wanted, such as a generator's pass through a
    /// discriminator that is attached to a `Ddp` of its own. They stay in the `Gradients` that backward
    /// returns, and are not averaged or added up.
    ///
    /// Without it, such a pass is dropped when the other model's `Ddp` takes its gradients by value; then this
    /// model's gradients are averaged after backward from then on, since any pass may be one that is dropped.
    ///
    /// ```no_run
    /// # use burn::{nn::Linear, tensor::{Gradients, Tensor}};
    /// # use burn_dist::{ddp::Ddp, Result};
    /// # fn example(ddp: &Ddp, generator: &Linear, critic: &Linear, noise: Tensor<2>) -> Result<Gradients> {
    /// let gradients = ddp.ignore(|| critic.forward(generator.forward(noise)).mean().backward())?;
    /// # Ok(gradients)
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Order`](crate::Error::Order) if no model is attached.
    pub fn ignore<R>(&self, pass: impl FnOnce() -> R) -> Result<R> {
        let _scope = self.attached()?.tracker.enter(PassScope::Ignore);
        Ok(pass())
    }

    /// Adds the gradients of local passes to those that wait for the next step.
    pub(super) fn keep<M: Module>(
        &self,
        mut grads: impl GradientSource,
        passes: &[PassId],
        model: &M,
    ) -> Result<()> {
        let attached = self.attached()?;
        self.check_failed()?;
        let kept = self.keep_checked(attached, &mut grads, passes, model);
        kept.inspect_err(|error| self.fail(attached, error))
    }

    fn keep_checked<M: Module>(
        &self,
        attached: &Attached,
        grads: &mut impl GradientSource,
        passes: &[PassId],
        model: &M,
    ) -> Result<()> {
        let Attached {
            parameters,
            tracker,
            ..
        } = attached;
        let weight = tracker.weight();
        let leaves = tracker
            .take_local(passes)
            .map_err(|refusal| self.order(refusal.message(parameters)))?;
        let collected = collect::collect(parameters, tracker.key(), model, grads);
        let collected = collected.map_err(|message| self.order(message))?;
        self.check_leaves(attached, &leaves, &collected)?;
        for (parameter, gradients) in collected.gradients.into_iter().enumerate() {
            for gradient in gradients {
                let gradient = Tensor::from_dispatch(weighed(gradient.into_dispatch(), weight));
                tracker.keep(parameter, wide(gradient));
            }
        }
        Ok(())
    }
}
