//! What a run tells as it goes: the numbers of its steps, `metrics.jsonl`, a line per epoch, samples.

use std::time::Instant;

use burn::data::dataloader::Progress as LoaderProgress;
use burn::tensor::Tensor;
use burn_train::{EventProcessorTraining, LearnerEvent, TrainingItem};
use serde::Serialize;

use super::diverging::Divergence;
use super::{LanguageModel, Session};
use crate::config::OnFailure;
use crate::error::Error;
use crate::learning::metrics::Reading;
use crate::learning::model::StepOutput;
use crate::ledger::{EpochSums, Ledger};
use crate::progress::{duration, thousands};
use crate::sampling::{Sampling, write_sample};
use crate::scores::Score;

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
pub(super) struct Line {
    epoch: usize,
    split: &'static str,
    step: u64,
    #[serde(flatten)]
    score: Score,
    seconds: f64,
    chars_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    learning_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gradient_norm: Option<f64>,
}

impl Line {
    /// The line of a part; that of training tells of the steps too.
    pub(super) fn new(
        epoch: usize,
        split: &'static str,
        step: u64,
        score: Score,
        seconds: f64,
        training: Option<&EpochSums>,
    ) -> Self {
        Self {
            epoch,
            split,
            step,
            score,
            seconds,
            chars_per_second: score.chars as f64 / seconds,
            learning_rate: training.map(|sums| sums.learning_rate),
            gradient_norm: training.map(|sums| sums.norms / sums.steps as f64),
        }
    }
}

/// A step on the device.
pub(super) struct Unread {
    pub(super) loss: Tensor<1>,
    pub(super) norm: Tensor<1>,
    pub(super) step: u64,
    pub(super) epoch: usize,
    pub(super) chunk: usize,
    pub(super) chars: u64,
    pub(super) learning_rate: f64,
    pub(super) progress: LoaderProgress,
}

impl Session {
    /// Reads the numbers of the step that waits for it, and has this one wait.
    pub(super) fn tell(&mut self, next: Option<Unread>) -> Result<(), Error> {
        self.read().map_err(|divergence| self.report_divergence(divergence, None))?;
        self.unread = next;
        Ok(())
    }

    /// Reads the numbers of the step that waits for it.
    pub(super) fn read(&mut self) -> Result<(), Divergence> {
        let Some(unread) = self.unread.take() else {
            return Ok(());
        };
        let Unread { loss, norm, step, epoch, chunk, chars, learning_rate, progress } = unread;
        let [loss, norm] = read_back(loss, norm);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Divergence { step, epoch, chunk, loss, norm, learning_rate });
        }
        let seconds = self.told.elapsed().as_secs_f64();
        self.told = Instant::now();
        let sums = &mut self.ledger.epoch;
        sums.tally.add(loss, chars);
        sums.norms += norm;
        sums.steps += 1;
        sums.seconds += seconds;
        sums.learning_rate = learning_rate;
        let nats_per_char = loss;
        let reading =
            Reading { steps: 1, nats_per_char, chars, seconds, gradient_norm: norm, learning_rate };
        if let Some(reading) = self.untold.add(reading, progress.is_completed()) {
            let output = StepOutput { tensors: None, reading };
            let rate = Some(self.learner.lr_current());
            let item = TrainingItem::new(output, progress, Some(step as usize), rate);
            let event = LearnerEvent::ProcessedItem(item);
            self.interrupter.fail_on_error(self.processor.process_train(event));
        }
        Ok(())
    }

    /// Adds a line to `metrics.jsonl`. The next checkpoint has it too; a run goes on without it as
    /// it does without a checkpoint.
    pub(super) fn add_metrics(&mut self, line: &Line) -> Result<(), Error> {
        let mut text =
            serde_json::to_string(line).expect("our records have nothing JSON cannot hold");
        text.push('\n');
        self.ledger.metrics.push_str(&text);
        let added = match self.metrics_cut {
            // Behind half a line nothing can be added.
            true => self.job.run.set_metrics(&self.ledger.metrics),
            false => self.job.run.add_metrics(&text),
        };
        self.metrics_cut = added.is_err();
        match (added, self.job.config.checkpoint.on_failure) {
            (Err(error), OnFailure::Stop) => Err(error),
            (Err(error), OnFailure::Continue) => {
                self.job.console.line(&format!("warning: {error}"));
                Ok(())
            }
            (Ok(()), _) => Ok(()),
        }
    }

    /// Shows an epoch's line.
    pub(super) fn report_epoch(
        &self,
        epoch: usize,
        train: Score,
        valid: Option<Score>,
        test: Option<Score>,
    ) {
        let part = |name: &str, score: Option<Score>| match score {
            Some(score) => format!(
                "  {name} {:.4} nats/char ({:.3} bits)",
                score.nats_per_char, score.bits_per_char
            ),
            None => String::new(),
        };
        let Ledger { chars, train_seconds, .. } = self.ledger;
        let speed = chars as f64 / train_seconds;
        self.job.console.line(&format!(
            "epoch {epoch}/{}{}{}{}  {} chars/s  {}",
            self.job.config.train.epochs,
            part("train", Some(train)),
            part("valid", valid),
            part("test", test),
            thousands(speed as u64),
            duration(train_seconds),
        ));
    }

    /// Shows what the model writes. A standard output that is gone ends no training: the end of
    /// the run will tell.
    pub(super) fn write_sample(&self, model: &LanguageModel) {
        let sample = &self.job.config.sample;
        if sample.length == 0 {
            return;
        }
        let seed = self.seed.derive("sample", self.progress.step);
        let text = write_sample(
            &model.network,
            &self.job.vocabulary,
            &sample.prompt,
            sample.length,
            Sampling { temperature: sample.temperature, seed },
            || self.asked_to_stop(),
        );
        if let Err(error) = self.job.console.print(&format!("{text}\n")) {
            tracing::warn!("cannot write to standard output: {error}");
        }
    }
}

/// Two numbers from the device in one transfer.
fn read_back(first: Tensor<1>, second: Tensor<1>) -> [f64; 2] {
    let values = Tensor::cat(vec![first, second], 0).into_data();
    let values: Vec<f32> = values.try_into_vec().expect("the network computes in float32");
    [f64::from(values[0]), f64::from(values[1])]
}
