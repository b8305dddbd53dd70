//! The weight of each rank's loss: the number of what the loss is a mean over.
//!
//! A rank's gradients are those of the mean over its own part of the batch. Their average over ranks equals one
//! device's gradients only if each rank counts as often as its loss counted: samples, unless the user says
//! otherwise.

use super::output::{GatherOutput, LossOver};
use super::shares::Drawn;
use crate::error::{Error, Result};
use burn::train::{InferenceStep, TrainStep};
use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::sync::Arc;

type CountFn = dyn Fn(&dyn Any) -> Option<f64> + Send + Sync;

/// The counts that a user gave, one for each type of batch.
#[derive(Clone, Default)]
pub(super) struct Counters(Vec<Counter>);

#[derive(Clone)]
struct Counter {
    of: TypeId,
    name: &'static str,
    count: Arc<CountFn>,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|counter| counter.name))
            .finish()
    }
}

impl Counters {
    /// Adds the count for batches of type `B`, in place of an earlier one.
    pub(super) fn add<B: 'static>(&mut self, count: impl Fn(&B) -> f64 + Send + Sync + 'static) {
        let of = TypeId::of::<B>();
        self.0.retain(|counter| counter.of != of);
        self.0.push(Counter {
            of,
            name: type_name::<B>(),
            count: Arc::new(move |batch| batch.downcast_ref().map(&count)),
        });
    }

    fn of<B: 'static>(&self) -> Option<&Counter> {
        self.0
            .iter()
            .find(|counter| counter.of == TypeId::of::<B>())
    }

    /// Checks before a training that its losses can be weighed; the error says what to call.
    pub(super) fn check<M: TrainStep + InferenceStep>(&self) -> Result<(), String>
    where
        <M as TrainStep>::Output: GatherOutput,
        <M as InferenceStep>::Output: GatherOutput,
    {
        type TrainInput<M> = <M as TrainStep>::Input;
        type ValidInput<M> = <M as InferenceStep>::Input;
        let inputs = [TypeId::of::<TrainInput<M>>(), TypeId::of::<ValidInput<M>>()];
        if let Some(counter) = self.0.iter().find(|counter| !inputs.contains(&counter.of)) {
            return Err(format!(
                "`Distributed::with_loss_count` counts batches of type {}, but the model trains on {} and validates on \
                 {}; give it a closure on those",
                counter.name,
                type_name::<TrainInput<M>>(),
                type_name::<ValidInput<M>>(),
            ));
        }
        self.check_one::<TrainInput<M>, <M as TrainStep>::Output>("training")?;
        self.check_one::<ValidInput<M>, <M as InferenceStep>::Output>("validation")
    }

    fn check_one<I: 'static, O: GatherOutput>(&self, split: &str) -> Result<(), String> {
        if self.of::<I>().is_some() {
            return Ok(());
        }
        let (batch, output) = (type_name::<I>(), type_name::<O>());
        if !self.0.is_empty() && O::LOSS_OVER == LossOver::Samples {
            return Err(format!(
                "`Distributed::with_loss_count` counts no batches of {split}, which are of type {batch}; call it for \
                 this type too"
            ));
        }
        if O::LOSS_OVER == LossOver::Batch {
            return Err(format!(
                "the loss in an output of {split} of type {output} may be a mean over tokens, of which ranks can \
                 have unequal numbers; say how many a batch's loss counts: `Distributed::with_loss_count(|batch: &{batch}| \
                 ..)`"
            ));
        }
        Ok(())
    }

    /// Returns what the loss of a batch will count on this rank, where that is known before the pass.
    pub(super) fn count<I: 'static>(&self, drawn: &Drawn<I>, rank: usize) -> Result<f64> {
        if drawn.samples == 0 {
            return Ok(0.0);
        }
        let count = self
            .of::<I>()
            .and_then(|counter| (counter.count)(&drawn.batch));
        checked(
            count.unwrap_or(drawn.samples as f64),
            "with_loss_count",
            rank,
        )
    }

    /// Returns whether only the output of a pass on such batches says what its loss counted.
    pub(super) fn left_to_output<I: 'static, O: GatherOutput>(&self) -> bool {
        O::LOSS_OVER == LossOver::Output && self.of::<I>().is_none()
    }
}

/// Refuses a count that no mean can have.
pub(super) fn checked(count: f64, call: &'static str, rank: usize) -> Result<f64> {
    if count.is_finite() && count >= 0.0 {
        return Ok(count);
    }
    Err(Error::InvalidArgument {
        rank,
        call,
        message: format!("the loss counted {count}; expected a finite number from 0"),
    })
}
