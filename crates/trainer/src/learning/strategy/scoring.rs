//! The validation and the test part, scored between two epochs.

use std::time::Instant;

use burn_train::{EventProcessorTraining, LearnerEvent, TrainingItem};

use super::Session;
use crate::error::Error;
use crate::learning::metrics::Together;
use crate::learning::model::{LanguageModel, StepOutput};
use crate::scores::Score;

impl Session {
    pub(super) fn validate(
        &mut self,
        epoch: usize,
        model: &LanguageModel,
    ) -> Result<Option<(Score, f64)>, Error> {
        let Some(valid) = &self.job.valid else {
            return Ok(None);
        };
        self.job.console.phase(Some("validating"));
        let began = Instant::now();
        let (processor, interrupter) = (&mut self.processor, &self.interrupter);
        let mut send = |event| interrupter.fail_on_error(processor.process_valid(event));
        send(LearnerEvent::StartSplit { epoch_number: epoch, total_items: valid.len() });
        let signals = &self.job.signals;
        let stopping = || signals.received().is_some() || interrupter.should_stop();
        let mut untold = Together::default();
        let score = valid.run(model, |reading, progress| {
            if let Some(reading) = untold.add(*reading, progress.is_completed()) {
                let output = StepOutput { tensors: None, reading };
                let item = TrainingItem::new(output, progress, None, None);
                send(LearnerEvent::ProcessedItem(item));
            }
            !stopping()
        })?;
        send(LearnerEvent::EndSplit(epoch));
        self.job.console.phase(None);
        self.stop_if_asked()?;
        Ok(Some((score, began.elapsed().as_secs_f64())))
    }

    /// The score on the test part, and how many seconds it took.
    pub(super) fn test(&self, model: &LanguageModel) -> Result<Option<(Score, f64)>, Error> {
        let Some(test) = &self.job.test else {
            return Ok(None);
        };
        self.job.console.phase(Some("testing"));
        let began = Instant::now();
        let score = test.run(model, |_, _| !self.asked_to_stop())?;
        self.job.console.phase(None);
        self.stop_if_asked()?;
        Ok(Some((score, began.elapsed().as_secs_f64())))
    }
}
