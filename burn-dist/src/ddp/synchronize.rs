//! The calls that settle backward passes: their gradients are averaged, kept or dropped.
//!
//! # What can't be served
//!
//! Every gradient of an attached parameter is averaged, kept, dropped by a call that says so, or an error on all
//! ranks. These are the errors, and why each can't be served:
//!
//! 1. A pass whose container was given to no call: its gradients are gone. It is found when a later pass meets
//!    another state of the model, or when the `Ddp` is dropped.
//! 2. A pass that is synchronised before an earlier one that was handed over: the earlier one's gradients are
//!    in the buckets already.
//!    So is a container of another pass than the open ones.
//! 3. A pass that some ranks dropped after it was handed over, while others synchronise: the sum has a part in it
//!    that nobody can take out, and the others' own gradients are in it already.
//! 4. A model that lacks a trained parameter of the attached one, or that `attach` did not return: its
//!    gradients can't be found.
//! 5. A container whose gradients are of other tensors than the model's: of a copy, or of the model before it
//!    was stepped, loaded or moved. The copy's gradient may be in the buckets already.
//!    So are two copies of an attached model that both got gradients: nobody says which one trains.
//! 6. Parameters that were added, or unfrozen, since the model was attached: other ranks may not have them.
//!
//! Two things can't be seen. From the second step on, most gradients leave the container during backward: a program
//! that reads or changes them there finds none, and works on the result of `synchronize` instead. And a pass in
//! which no hook fires, since it meets parameters around their modules only, is not known until its container is
//! given to a call.

use super::collect::{GradientSource, NoGradients};
use super::contribution::Contribution;
use super::handle::{Attached, Ddp};
use super::hook::PassId;
use super::late;
use super::layout::Status;
use super::reducer::messages::{Averages, Outcome, Reading};
use super::unpack;
use super::use_tracker::others;
use crate::error::Result;
use crate::norm;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Gradients;
use std::time::{Duration, Instant};

impl Ddp {
    /// Averages the gradients of one backward pass over all ranks, and adds what
    /// [`no_sync`](Self::no_sync) kept before.
    ///
    /// Every rank calls it once a step, or [`synchronize_none`](Self::synchronize_none). The container is taken
    /// by value: gradients in it that belong to other models' `Ddp`s are dropped, such as those of a critic in
    /// its generator's step. [`synchronize_from`](Self::synchronize_from) leaves them for the others.
    ///
    /// Most gradients leave the container while backward runs. To clip, scale or look at gradients, use the result
    /// of this call, as all ranks do, or [`clip_grad_norm`](super::clip_grad_norm).
    ///
    /// The model is the one that [`attach`](Self::attach) returned, stepped as it may be, or one that contains
    /// it. A parameter that only some ranks used counts as zero on the others; one that no rank used has no
    /// gradient in the result, as in a single process (its name is in the debug log). A gradient that comes to a
    /// parameter around its module, such as that of a penalty on weights which a visitor reads, is averaged too,
    /// if late: after backward.
    ///
    /// # Errors
    ///
    /// [`Error::Order`](crate::Error::Order) names the parameter and the call that is right, for passes that were given to no call,
    /// were synchronised out of order, or were dropped by some ranks only; for a model that is not the attached
    /// one; for parameters that were added or unfrozen since `attach`. Otherwise the group's errors. After an
    /// error the ranks' steps no longer match: all ranks fail, and every later call returns the error again.
    pub fn synchronize<M: Module>(
        &self,
        mut grads: Gradients,
        model: &M,
    ) -> Result<GradientsParams> {
        self.drop_for_others(&grads)?;
        self.settle_container(&mut grads, model)
    }

    /// [`synchronize`](Self::synchronize) that leaves the gradients of other models in the container, for one
    /// loss that trains several models:
    ///
    /// ```no_run
    /// # use burn::{nn::Linear, optim::GradientsParams, tensor::Gradients};
    /// # use burn_dist::{ddp::Ddp, Result};
    /// # fn example(encoders: &Ddp, encoder: &Linear, decoders: &Ddp, decoder: &Linear, mut grads: Gradients) -> Result<()> {
    /// let of_encoder = encoders.synchronize_from(&mut grads, encoder)?;
    /// let of_decoder = decoders.synchronize(grads, decoder)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`synchronize`](Self::synchronize).
    pub fn synchronize_from<M: Module>(
        &self,
        grads: &mut Gradients,
        model: &M,
    ) -> Result<GradientsParams> {
        self.settle_container(grads, model)
    }

    /// Takes part in a step to which this rank has no gradients to give, because its data have run out or its
    /// samples train nothing. The result is that of all ranks: the other ranks' gradients, divided by the number
    /// of all ranks. What [`no_sync`](Self::no_sync) kept counts.
    ///
    /// # Errors
    ///
    /// As [`synchronize`](Self::synchronize).
    pub fn synchronize_none<M: Module>(&self, model: &M) -> Result<GradientsParams> {
        self.settle(&mut NoGradients, &[], model, model)
    }

    /// Drops the gradients of a backward pass, to give a step up: a loss that is no number, for example. What
    /// [`no_sync`](Self::no_sync) kept stays.
    ///
    /// All ranks give a step up, or none: a rank that goes on to [`synchronize`](Self::synchronize) gets an
    /// error if gradients that others dropped were averaged with its own already. A rank whose loss alone is
    /// bad looks at it before backward and calls [`synchronize_none`](Self::synchronize_none), or runs backward
    /// in [`ignore`](Self::ignore) first.
    ///
    /// # Errors
    ///
    /// [`Error::Order`](crate::Error::Order) if no model is attached.
    #[expect(clippy::needless_pass_by_value, reason = "nobody else is to use them")]
    pub fn discard(&self, grads: Gradients) -> Result<()> {
        let tracker = &self.attached()?.tracker;
        tracker.drop_passes(&tracker.passes_in(&grads));
        self.drop_for_others(&grads)
    }

    /// Drops the gradients of other models in a container that is taken by value.
    pub(super) fn drop_for_others(&self, grads: &Gradients) -> Result<()> {
        for tracker in others(&self.attached()?.tracker) {
            if tracker.drop_passes(&tracker.passes_in(grads)) {
                tracing::info!(
                    rank = self.group.global_rank(),
                    "gradients of an attached model were dropped with those that another model's Ddp took; \
                     run such backward passes in `Ddp::ignore`, and its own gradients are averaged during \
                     backward again"
                );
            }
        }
        Ok(())
    }

    /// Ends a step with the passes of a container.
    fn settle_container<M: Module>(
        &self,
        grads: &mut Gradients,
        model: &M,
    ) -> Result<GradientsParams> {
        let attached = self.attached()?;
        let passes = attached.tracker.passes_in(grads);
        if let Err(refusal) = attached.tracker.check_container(&passes) {
            self.check_failed()?;
            let error = self.order(refusal.message(&attached.parameters));
            self.fail(attached, &error);
            return Err(error);
        }
        self.settle(grads, &passes, model, model)
    }

    /// Ends a step with some passes and what they left for a model. The averages bear the ids of `stepped`, which
    /// is the model or a copy of it.
    pub(super) fn settle<M: Module>(
        &self,
        grads: &mut impl GradientSource,
        passes: &[PassId],
        model: &M,
        stepped: &M,
    ) -> Result<GradientsParams> {
        let _span = tracing::debug_span!("synchronize", rank = self.group.global_rank()).entered();
        let attached = self.attached()?;
        self.check_failed()?;
        let averaged = self.average(attached, grads, passes, model, stepped);
        // The other ranks can't go on without this one. The first error is the one that is kept.
        averaged.inspect_err(|error| self.fail(attached, error))
    }

    fn average<M: Module>(
        &self,
        attached: &Attached,
        grads: &mut impl GradientSource,
        passes: &[PassId],
        model: &M,
        stepped: &M,
    ) -> Result<GradientsParams> {
        let Attached {
            parameters,
            tracker,
            ..
        } = attached;
        answer_voids(attached)?;
        let (mut given, collected) = self.contribution(attached, grads, passes, model)?;
        let at_end = given.rest.len();

        let waiting = Instant::now();
        let (averages, any_late) = exchange(attached, &mut given)?;
        let late = if any_late {
            late::average(&self.control, parameters, &given.late)?
        } else {
            late::LateAverages::new()
        };
        let wait = waiting.elapsed();
        let to_wait: Vec<usize> = given.late.keys().copied().collect();
        self.tell_late(attached, &to_wait);
        tracker.averaged(&to_wait);
        self.count_step(&averages, (waiting, wait), (given.handed, at_end));
        // A loss that counted for nothing was that of this step.
        norm::set_loss_counts(true);
        let _span = tracing::debug_span!("unpack").entered();
        Ok(unpack::unpack(
            parameters,
            averages,
            late,
            stepped,
            &collected.places,
            collected.trained_beside,
        ))
    }

    /// Adds a step to the statistics: the beginning and length of the wait, and the numbers of parameters that
    /// were handed over before and at the end.
    fn count_step(
        &self,
        averages: &Averages,
        (since, wait): (Instant, Duration),
        (handed, at_end): (usize, usize),
    ) {
        let mut stats = self.stats.lock();
        stats.steps += 1;
        stats.wait += wait;
        stats.averaging += averages.averaging_since(since).min(wait);
        stats.bytes += averages.bytes();
        stats.during_backward += handed as u64;
        stats.at_end += at_end as u64;
    }

    /// Says once for each parameter that its gradients come late.
    fn tell_late(&self, attached: &Attached, late: &[usize]) {
        for &parameter in late {
            if attached.tracker.tell_late(parameter) {
                tracing::info!(
                    rank = self.group.global_rank(),
                    parameter = attached.parameters.entries[parameter].description.path,
                    "averaged after backward: gradients come to this parameter around its module too, or after \
                     it was taken for complete"
                );
            }
        }
    }
}

/// Ends steps in which this rank's part is of a pass that was dropped after it was handed over.
fn answer_voids(attached: &Attached) -> Result<()> {
    while let Some(handed) = attached.tracker.take_void() {
        let status = Status {
            void: true,
            ..Status::default()
        };
        let rest = without(attached, &handed);
        finish(attached, rest, Vec::new(), status)?;
    }
    Ok(())
}

/// Averages this rank's part of the step, again if a part of another rank was void.
fn exchange(attached: &Attached, given: &mut Contribution) -> Result<(Averages, bool)> {
    // What nothing was given for can be given again.
    let empty = given.handed == 0 && given.rest.iter().all(Reading::is_empty);
    let again = empty || (given.again && given.handed == 0);
    let status = Status {
        void: false,
        spent: !again,
        late: !given.late.is_empty(),
    };
    loop {
        // A second handle to a gradient costs a copy of a large one.
        let rest = if again {
            given.rest.clone()
        } else {
            std::mem::take(&mut given.rest)
        };
        let outcome = finish(attached, rest, given.ready_order.clone(), status)?;
        if let Some(averages) = outcome.averages {
            return Ok((averages, outcome.late));
        }
    }
}

/// Gives a part of a step to the reducer, and waits for the end of the step.
fn finish(
    attached: &Attached,
    rest: Vec<Reading>,
    ready_order: Vec<usize>,
    status: Status,
) -> Result<Outcome> {
    let _span = tracing::debug_span!("wait").entered();
    let outcome = attached.reducer.finish(rest, ready_order, status)?;
    if outcome.averages.is_none() {
        attached.tracker.was_void();
    }
    Ok(outcome)
}

/// Readings of nothing for all trained parameters that were not handed over.
fn without(attached: &Attached, handed: &[bool]) -> Vec<Reading> {
    let entries = attached.parameters.entries.iter().zip(handed).enumerate();
    entries
        .filter(|(_, (entry, handed))| entry.description.trained && !**handed)
        .map(|(parameter, _)| Reading::new(parameter, Vec::new()))
        .collect()
}
