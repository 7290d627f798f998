//! What a run tells as it goes: the numbers of its steps, `metrics.jsonl`, a line per epoch, samples.

use std::time::Instant;

use burn::data::dataloader::Progress as LoaderProgress;
use burn::tensor::Tensor;
use burn_train::{EventProcessorTraining, LearnerEvent, TrainingItem};
use serde::Serialize;

use super::{LanguageModel, Session};
use crate::error::Error;
use crate::learning::metrics::Reading;
use crate::learning::model::StepOutput;
use crate::progress::{duration, thousands};
use crate::sampling::{Sampling, write_sample};
use crate::scores::{Score, Tally};

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
struct MetricsLine {
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

/// A step on the device.
pub(super) struct Unread {
    pub(super) loss: Tensor<1>,
    pub(super) norm: Tensor<1>,
    pub(super) step: u64,
    pub(super) epoch: usize,
    pub(super) chars: u64,
    pub(super) learning_rate: f64,
    pub(super) progress: LoaderProgress,
}

/// What the steps of an epoch told.
#[derive(Default)]
pub(super) struct Told {
    pub(super) tally: Tally,
    pub(super) norms: f64,
    pub(super) learning_rate: f64,
}

impl Session {
    /// Reads the numbers of the step that waits for it, and has this one wait.
    pub(super) fn tell(&mut self, next: Option<Unread>, told: &mut Told) -> Result<(), Error> {
        let Some(unread) = std::mem::replace(&mut self.unread, next) else {
            return Ok(());
        };
        let Unread { loss, norm, step, epoch, chars, learning_rate, progress } = unread;
        let [nats_per_char, gradient_norm] = read_back(loss, norm);
        if !nats_per_char.is_finite() || !gradient_norm.is_finite() {
            return Err(Error::Diverged { step, epoch, loss: nats_per_char, norm: gradient_norm });
        }
        let seconds = self.told.elapsed().as_secs_f64();
        self.told = Instant::now();
        told.tally.add(nats_per_char, chars);
        told.norms += gradient_norm;
        told.learning_rate = learning_rate;
        let reading = Reading { nats_per_char, chars, seconds, gradient_norm, learning_rate };
        let output = StepOutput { tensors: None, reading };
        let rate = Some(self.learner.lr_current());
        let item = TrainingItem::new(output, progress, Some(step as usize), rate);
        let event = LearnerEvent::ProcessedItem(item);
        self.interrupter.fail_on_error(self.processor.process_train(event));
        Ok(())
    }

    /// Adds a line to `metrics.jsonl`; gives the score back.
    pub(super) fn add_metrics(
        &self,
        epoch: usize,
        split: &'static str,
        score: Score,
        began: Instant,
        training: Option<(f64, f64)>,
    ) -> Result<Score, Error> {
        let seconds = began.elapsed().as_secs_f64();
        self.job.run.add_metrics(&MetricsLine {
            epoch,
            split,
            step: self.step,
            score,
            seconds,
            chars_per_second: score.chars as f64 / seconds,
            learning_rate: training.map(|(rate, _)| rate),
            gradient_norm: training.map(|(_, norm)| norm),
        })?;
        Ok(score)
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
        let speed = self.chars as f64 / self.train_seconds;
        self.job.console.line(&format!(
            "epoch {epoch}/{}{}{}{}  {} chars/s  {}",
            self.job.config.train.epochs,
            part("train", Some(train)),
            part("valid", valid),
            part("test", test),
            thousands(speed as u64),
            duration(self.train_seconds),
        ));
    }

    /// Shows what the model writes. A standard output that is gone ends no training: the end of
    /// the run will tell.
    pub(super) fn write_sample(&self, model: &LanguageModel) {
        let sample = &self.job.config.sample;
        if sample.length == 0 {
            return;
        }
        let seed = self.seed.derive("sample", self.step);
        let text = write_sample(
            &model.network,
            &self.job.vocabulary,
            &sample.prompt,
            sample.length,
            Sampling { temperature: sample.temperature, seed },
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
