//! What a run has come to, in plain numbers. With the tensors of a checkpoint it is all that the next
//! step depends on.

use serde::{Deserialize, Serialize};

use crate::scores::{Score, Tally, number_or_null};

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Training steps done.
    pub step: u64,
    /// Whole epochs done.
    pub epoch: usize,
    /// Chunks done of the epoch after those.
    pub chunk: usize,
}

/// The sums of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Characters trained on, in whole epochs.
    pub chars: u64,
    /// Seconds spent in the training steps of whole epochs.
    pub train_seconds: f64,
    /// Seconds that the run took, with all its processes and whatever else they did.
    pub seconds: f64,
    /// The epoch that is under way.
    pub epoch: EpochSums,
    /// The mean loss over the last whole epoch.
    pub train: Option<Mean>,
    /// The best epoch so far on the validation part.
    pub best: Option<Best>,
    /// The steps in the average of the weights.
    pub averaged: u64,
    /// Whether validation has begun an average that waits for it, and the scores that decide it, in
    /// nats per character.
    pub triggered: bool,
    /// See [`triggered`](Self::triggered).
    pub validations: Vec<f64>,
    /// How often the run went back to a checkpoint because it had diverged.
    pub rollbacks: usize,
    /// What the schedule's rate is multiplied by, since then.
    pub rate_factor: f64,
    /// The lines of `metrics.jsonl`.
    pub metrics: String,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            chars: 0,
            train_seconds: 0.0,
            seconds: 0.0,
            epoch: EpochSums::default(),
            train: None,
            best: None,
            averaged: 0,
            triggered: false,
            validations: Vec::new(),
            rollbacks: 0,
            rate_factor: 1.0,
            metrics: String::new(),
        }
    }
}

impl Ledger {
    /// Whether the best epoch lies `patience` epochs or more before `epoch`; never where that is 0.
    pub fn has_stalled(&self, epoch: usize, patience: usize) -> bool {
        let since = |best: &Best| epoch.saturating_sub(best.epoch);
        patience > 0 && self.best.as_ref().is_some_and(|best| since(best) >= patience)
    }
}

/// The steps of an epoch, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochSums {
    /// Loss and characters.
    pub tally: Tally,
    /// The sum of the gradients' norms before clipping.
    pub norms: f64,
    /// How many steps.
    pub steps: u64,
    /// The learning rate of the last of them.
    pub learning_rate: f64,
    /// How long they took.
    pub seconds: f64,
}

/// A mean over characters, in the one unit from which the others follow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mean {
    /// Nats per character; not a number where the model gave none.
    #[serde(deserialize_with = "number_or_null")]
    pub nats_per_char: f64,
    /// How many characters.
    pub chars: u64,
}

impl From<Score> for Mean {
    fn from(score: Score) -> Self {
        Self { nats_per_char: score.nats_per_char, chars: score.chars }
    }
}

impl From<Mean> for Score {
    fn from(mean: Mean) -> Self {
        Self::new(mean.nats_per_char, mean.chars)
    }
}

/// The epoch with the best validation score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Which, from 1.
    pub epoch: usize,
    /// Its score.
    pub valid: Mean,
}
