//! What a run tells as it goes: `metrics.jsonl`, a line per epoch, samples.

use std::time::Instant;

use serde::Serialize;

use super::{LanguageModel, Session};
use crate::error::Error;
use crate::progress::{duration, thousands};
use crate::sampling::{Sampling, write_sample};
use crate::scores::Score;

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

impl Session {
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
