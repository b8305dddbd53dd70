//! One forward and backward pass of a rank, weighed by what its loss counted.

use super::agree::{self, Ahead};
use super::output::GatherOutput;
use super::replica::{Replica, TrainInputOf, TrainOutputOf};
use super::shares::Drawn;
use super::weights;
use crate::error::Result;
use crate::{norm, observe};
use burn::optim::GradientsParams;
use burn::train::{InferenceStep, LearnerModel, TrainStep};

/// Gradients and output of a pass.
type Passed<O> = (GradientsParams, O);

impl<M: LearnerModel> Replica<'_, M>
where
    TrainOutputOf<M>: GatherOutput,
    <M as InferenceStep>::Output: GatherOutput,
{
    /// Runs one forward and backward pass, and the optimizer's step if it is due. Also returns what the pass's loss
    /// counted on this rank.
    pub(super) fn pass(
        &mut self,
        drawn: Drawn<TrainInputOf<M>>,
        ahead: Ahead,
        step: bool,
    ) -> Result<(TrainOutputOf<M>, f64)> {
        let Drawn {
            batch,
            samples,
            count,
        } = drawn;
        let model = self.model.take().ok_or_else(|| self.broken())?;
        let pass = || {
            let _span = tracing::debug_span!("pass").entered();
            let output = norm::counting(samples, || TrainStep::step(&model, batch));
            (output.grads, output.item)
        };
        let counters = &self.run.counters;
        let late = counters.left_to_output::<TrainInputOf<M>, TrainOutputOf<M>>();
        if !late {
            self.weigh(count, ahead.count)?;
            if step {
                let (grads, output) = pass();
                self.step(model, grads)?;
                return Ok((output, count));
            }
            let output = self.ddp.keep_gathered(&model, pass)?;
            self.model = Some(model);
            return Ok((output, count));
        }
        let (output, count) = self.pass_counted_late(&model, samples, pass)?;
        if step {
            let nothing_more = GradientsParams::new();
            self.step(model, nothing_more)?;
        } else {
            self.model = Some(model);
        }
        Ok((output, count))
    }

    /// Runs a pass whose output says what its loss counted, and keeps its gradients for the next step.
    fn pass_counted_late(
        &self,
        model: &M,
        samples: usize,
        pass: impl FnOnce() -> Passed<TrainOutputOf<M>>,
    ) -> Result<(TrainOutputOf<M>, f64)> {
        let pass = || {
            let (grads, output) = pass();
            // Before the gradients are kept, which weighs them.
            let counted = self.weigh_by_output(&output, samples);
            (grads, counted.map(|count| (output, count)))
        };
        self.ddp.keep_gathered(model, pass)?
    }

    /// Weighs a pass that is over by what its output says that its loss counted.
    fn weigh_by_output<O: GatherOutput>(&self, output: &O, samples: usize) -> Result<f64> {
        let count = self.counted(output, samples)?;
        let total = agree::sum(self.worker.group(), count)?;
        self.weigh(count, total)?;
        Ok(count)
    }

    /// Lets gradients that come from now on count for `count` of `total` over all ranks: the mean over ranks of the weighed
    /// means is the mean over all that was counted. A weight of 0 has gradients replaced by zeros, which are right even
    /// if those are not numbers.
    fn weigh(&self, count: f64, total: f64) -> Result<()> {
        let ranks = self.worker.world_size() as f64;
        // Where nobody counted anything, there is nothing to divide by.
        let weight = if total > 0.0 {
            count * ranks / total
        } else {
            0.0
        };
        self.ddp.weigh(weight)
    }

    /// Returns what an output says that its loss counted.
    pub(super) fn counted<O: GatherOutput>(&self, output: &O, samples: usize) -> Result<f64> {
        if samples == 0 {
            return Ok(0.0);
        }
        weights::checked(output.loss_count()?, "loss_count", self.worker.rank())
    }

    /// Averages the gradients of the last pass with those that were kept, and steps the optimizer.
    fn step(&mut self, model: M, grads: GradientsParams) -> Result<()> {
        let copy = self.learner.model();
        let grads = self.ddp.synchronize_gathered(grads, &model, &copy)?;
        self.learner.lr_step();
        observe::optimizer(|| self.learner.optimizer_step(grads));
        self.model = Some(self.ddp.take_parameters(model, &self.learner.model())?);
        Ok(())
    }
}
