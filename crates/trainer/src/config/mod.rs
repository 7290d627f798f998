//! The configuration of a run: TOML in, checked values out.
//!
//! `configs/quickstart.toml` is compiled in. It is the list of all keys, of their types and of
//! the values of those that a file leaves out.

mod changes;
mod keys;
mod layers;
mod network;

use std::path::{Path, PathBuf};

use poquelin_data::Units;
use poquelin_model::Initialization;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::changes::Changes;
use self::network::LARGEST;

const QUICKSTART: &str = include_str!("../../../../configs/quickstart.toml");

/// The whole configuration. `configs/quickstart.toml` describes every key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct Config {
    pub data: DataConfig,
    pub model: ModelConfig,
    pub optimizer: OptimizerConfig,
    pub schedule: ScheduleConfig,
    pub average: AverageConfig,
    pub train: TrainConfig,
    pub checkpoint: CheckpointConfig,
    pub sample: SampleConfig,
    pub dynamic: DynamicConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct DataConfig {
    pub text: String,
    pub take: usize,
    pub units: Units,
    pub unify_newlines: bool,
    pub test: f64,
    pub valid: f64,
    pub batch: usize,
    pub sequence: usize,
    pub vary_sequence: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct ModelConfig {
    pub embedding: usize,
    pub hidden: usize,
    pub layers: usize,
    pub dropout: f64,
    pub dropout_input: f64,
    pub dropout_output: f64,
    pub dropout_embedding: f64,
    pub locked: bool,
    pub dropconnect: f64,
    pub layer_norm: bool,
    /// Whether every layer but the lowest adds what it reads to its outputs. Models were written before
    /// there was a choice.
    #[serde(default)]
    pub residual: bool,
    pub tied: bool,
    pub activation: f64,
    pub temporal_activation: f64,
    pub label_smoothing: f64,
    pub initialization: Initialization,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct OptimizerConfig {
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub decay_vectors: bool,
    pub beta_1: f64,
    pub beta_2: f64,
    pub epsilon: f64,
    pub clip: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct ScheduleConfig {
    pub kind: ScheduleKind,
    pub warmup: u64,
    pub floor: f64,
}

/// How the learning rate moves after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// It stays.
    Constant,
    /// It falls along half a cosine until the last step, and stays there.
    Cosine,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct AverageConfig {
    pub kind: AverageKind,
    pub decay: f64,
    pub patience: usize,
}

/// Which average of the weights is validated and kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AverageKind {
    /// None: the weights themselves are.
    None,
    /// One that forgets.
    Exponential,
    /// An even one that begins where validation stops getting better.
    Triggered,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct TrainConfig {
    pub epochs: usize,
    pub seed: u64,
    pub threads: usize,
    // Files from before it was there have no such key.
    #[serde(default)]
    pub half: bool,
    pub patience: usize,
    pub test_every_epoch: bool,
    pub on_divergence: OnDivergence,
    pub rollbacks: usize,
    pub rollback_factor: f64,
}

/// What a run does whose loss or gradient is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDivergence {
    /// It stops.
    Stop,
    /// It goes back to the newest checkpoint, and on from there at a lower rate.
    Rollback,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct CheckpointConfig {
    pub every_seconds: f64,
    pub keep: usize,
    pub on_failure: OnFailure,
}

/// What a run does that cannot write a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It says so, trains on, and tries again at the next one.
    Continue,
    /// It stops.
    Stop,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct SampleConfig {
    pub prompt: String,
    pub length: usize,
    pub temperature: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/quickstart.toml documents every key")]
pub struct DynamicConfig {
    pub characters: usize,
    pub rate: f64,
    pub decay: f64,
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML.
    #[error("{origin} is not valid TOML: {message}")]
    Syntax {
        /// The file or flag.
        origin: String,
        /// What and where.
        message: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key {key}{}", match nearest {
        Some(nearest) => format!("; did you mean {nearest}?"),
        None => String::new(),
    })]
    UnknownKey {
        /// The file or flag.
        origin: String,
        /// The key.
        key: String,
        /// The known key most like it.
        nearest: Option<String>,
    },
    /// A value of another type.
    #[error("{origin}: {key}: expected {expected}, got {got}")]
    WrongType {
        /// The file or flag.
        origin: String,
        /// The key.
        key: String,
        /// The type it has.
        expected: &'static str,
        /// The type and value given.
        got: String,
    },
    /// A value of the right type that makes no sense.
    #[error("{key}: expected {expected}, got {got}")]
    BadValue {
        /// The key.
        key: String,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A word that is none of those a key can have.
    #[error("{key}: {message}")]
    UnknownWord {
        /// The key.
        key: String,
        /// The word, and the words there are.
        message: String,
    },
    /// `--set` without `=`.
    #[error("--set {argument}: expected section.key=value")]
    BadAssignment {
        /// What was given.
        argument: String,
    },
}

impl Config {
    /// The configuration compiled in, then `file`, then each `section.key=value` of `assignments`.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or holds anything but known keys with usable values.
    pub fn load(file: Option<&Path>, assignments: &[String]) -> Result<Self, ConfigError> {
        let mut layers = layers::Layers::new(QUICKSTART);
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            layers.add_file(&path.display().to_string(), &text)?;
        }
        for assignment in assignments {
            layers.assign(assignment)?;
        }
        let config: Self = layers.into_config()?;
        config.check()?;
        Ok(config)
    }

    /// A stored configuration.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn parse(origin: &str, text: &str) -> Result<Self, ConfigError> {
        let mut layers = layers::Layers::new(QUICKSTART);
        layers.add_file(origin, text)?;
        let config: Self = layers.into_config()?;
        config.check()?;
        Ok(config)
    }

    /// This configuration, then each `section.key=value` of `assignments`.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn with(&self, assignments: &[String]) -> Result<Self, ConfigError> {
        let mut layers = layers::Layers::new(&self.to_toml());
        for assignment in assignments {
            layers.assign(assignment)?;
        }
        let config: Self = layers.into_config()?;
        config.check()?;
        Ok(config)
    }

    /// As TOML, every key with its value.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration has nothing TOML cannot hold")
    }

    /// Finds out whether all values make sense.
    ///
    /// # Errors
    ///
    /// The first that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { data, model, optimizer, schedule, average, train, checkpoint, sample, dynamic } =
            self;
        let at_least_1 = "a whole number of at least 1";
        let non_negative = "a number of at least 0";
        let share = "a share of at least 0, with data.test and data.valid below 1 together";
        let unit = "a probability of at least 0 and below 1";
        expect("data.batch", data.batch, at_least_1, data.batch > 0)?;
        expect("data.sequence", data.sequence, at_least_1, data.sequence > 0)?;
        let held_out = data.test + data.valid < 1.0;
        let some = "a share above 0, with data.test and data.valid below 1 together";
        expect("data.test", data.test, some, data.test > 0.0 && held_out)?;
        expect("data.valid", data.valid, share, data.valid >= 0.0 && held_out)?;
        let characters = dynamic.characters;
        expect("dynamic.characters", characters, at_least_1, characters > 0)?;
        expect("model.hidden", model.hidden, at_least_1, model.hidden > 0)?;
        expect("model.layers", model.layers, at_least_1, model.layers > 0)?;
        for (key, rate) in [
            ("model.dropout", model.dropout),
            ("model.dropout_input", model.dropout_input),
            ("model.dropout_output", model.dropout_output),
            ("model.dropout_embedding", model.dropout_embedding),
            ("model.dropconnect", model.dropconnect),
            ("model.label_smoothing", model.label_smoothing),
            ("average.decay", average.decay),
        ] {
            expect(key, rate, unit, (0.0..1.0).contains(&rate))?;
        }
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let above_0 = "a number above 0";
        let rate = optimizer.learning_rate;
        expect("optimizer.learning_rate", rate, above_0, positive(rate))?;
        for (key, value) in [
            ("model.activation", model.activation),
            ("model.temporal_activation", model.temporal_activation),
            ("optimizer.weight_decay", optimizer.weight_decay),
            ("optimizer.clip", optimizer.clip),
            ("checkpoint.every_seconds", checkpoint.every_seconds),
            ("sample.temperature", sample.temperature),
            ("dynamic.rate", dynamic.rate),
            ("dynamic.decay", dynamic.decay),
        ] {
            expect(key, value, non_negative, value >= 0.0 && value.is_finite())?;
        }
        let year = "a number from 0 to 31,536,000, which is a year";
        let every = checkpoint.every_seconds;
        expect("checkpoint.every_seconds", every, year, every <= 31_536_000.0)?;
        expect("optimizer.beta_1", optimizer.beta_1, unit, (0.0..1.0).contains(&optimizer.beta_1))?;
        expect("optimizer.beta_2", optimizer.beta_2, unit, (0.0..1.0).contains(&optimizer.beta_2))?;
        let epsilon = optimizer.epsilon;
        expect("optimizer.epsilon", epsilon, above_0, positive(epsilon))?;
        let floor = schedule.floor;
        expect("schedule.floor", floor, "a share from 0 to 1", (0.0..=1.0).contains(&floor))?;
        let epochs = "a whole number from 1 to 1,000,000";
        expect("train.epochs", train.epochs, epochs, (1..=1_000_000).contains(&train.epochs))?;
        let threads = "a whole number from 0 to 1,024";
        expect("train.threads", train.threads, threads, train.threads <= 1_024)?;
        let factor = train.rollback_factor;
        let lower = "a number above 0 and at most 1";
        expect("train.rollback_factor", factor, lower, factor > 0.0 && factor <= 1.0)?;
        let patience = "0, or a validation part: data.valid is 0";
        expect(
            "train.patience",
            train.patience,
            patience,
            train.patience == 0 || data.valid > 0.0,
        )?;
        let kind = "none or exponential, or a validation part: data.valid is 0";
        let waits = average.kind == AverageKind::Triggered;
        expect("average.kind", "triggered", kind, !waits || data.valid > 0.0)?;
        let alone = "false beside model.layer_norm";
        let both = model.residual && model.layer_norm;
        expect("model.residual", model.residual, alone, !both)?;
        let size = format!("a model of at most {LARGEST} parameters");
        let count = model.recurrent_parameters();
        let ModelConfig { embedding, hidden, layers, .. } = *model;
        let got = format!(
            "{count}: model.hidden = {hidden}, model.layers = {layers}, model.embedding = {embedding}"
        );
        expect("model", got, &size, count <= LARGEST)?;
        let length = "a whole number from 0 to 1,000,000";
        expect("sample.length", sample.length, length, sample.length <= 1_000_000)?;
        expect("checkpoint.keep", checkpoint.keep, at_least_1, checkpoint.keep > 0)
    }
}

fn expect(key: &str, got: impl ToString, expected: &str, holds: bool) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::BadValue {
        key: key.to_owned(),
        expected: expected.to_owned(),
        got: got.to_string(),
    })
}
