//! What rank 0 has besides its replica: the metrics and everything that hangs on them.

use burn::train::metric::store::EventStoreClient;
use burn::train::{
    CloneEarlyStoppingStrategy, EventProcessorTraining, InferenceStep, Interrupter, Learner,
    LearnerEvent, LearnerModel, LearningCheckpointer, SupervisedTrainingEventProcessor, TrainStep,
};
use std::sync::Arc;

/// The events of a training, and who reads the metrics made of them.
pub(super) struct Root<M: LearnerModel> {
    pub(super) processor: SupervisedTrainingEventProcessor<M>,
    pub(super) checkpointer: Option<LearningCheckpointer<M>>,
    pub(super) early_stopping: Option<Box<dyn CloneEarlyStoppingStrategy>>,
    pub(super) store: Arc<EventStoreClient>,
    /// Pulled by metrics that fail.
    pub(super) interrupter: Interrupter,
}

impl<M: LearnerModel> Root<M> {
    pub(super) fn train(&mut self, event: LearnerEvent<<M as TrainStep>::Output>) {
        let processed = self.processor.process_train(event);
        self.interrupter.fail_on_error(processed);
    }

    pub(super) fn valid(&mut self, event: LearnerEvent<<M as InferenceStep>::Output>) {
        let processed = self.processor.process_valid(event);
        self.interrupter.fail_on_error(processed);
    }

    /// Waits for the epoch's metrics if anybody reads them.
    pub(super) fn settle(&mut self) {
        if self.checkpointer.is_some() || self.early_stopping.is_some() {
            let flushed = self.processor.flush();
            self.interrupter.fail_on_error(flushed);
        }
    }

    /// Writes a checkpoint if one is due; whether training has come to its end early.
    pub(super) fn end_epoch(&mut self, learner: &Learner<M>, epoch: usize) -> bool {
        if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.checkpoint(learner, epoch, &self.store);
        }
        self.early_stopping
            .as_mut()
            .is_some_and(|strategy| strategy.should_stop(epoch, &self.store))
    }
}
