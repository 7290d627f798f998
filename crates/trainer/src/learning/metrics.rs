//! What burn-train's metrics are told of each step.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn_train::logger::MetricLogger;
use burn_train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn_train::metric::{
    Adaptor, Metric, MetricAttributes, MetricDefinition, MetricMetadata, MetricName, Numeric,
    NumericAttributes, NumericEntry, SerializedEntry,
};

use super::model::StepOutput;
use crate::scores::bits;

/// The plain numbers of a step.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Mean negative log-likelihood, nats/char.
    pub nats_per_char: f64,
    /// How many characters were predicted.
    pub chars: u64,
    /// How long the step took, in seconds.
    pub seconds: f64,
    /// The global norm of the gradient before clipping; not a number outside training.
    pub gradient_norm: f64,
    /// The learning rate; not a number outside training.
    pub learning_rate: f64,
}

impl Adaptor<Reading> for StepOutput {
    fn adapt(&self) -> Reading {
        self.reading
    }
}

/// One number of a [`Reading`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Nats per character.
    Loss,
    /// Bits per character.
    Bits,
    /// The exponential of the loss.
    Perplexity,
    /// Characters per second.
    Speed,
    /// The global norm of the gradient.
    GradientNorm,
    /// The learning rate.
    LearningRate,
}

impl Quantity {
    /// All that training has.
    pub const TRAINING: [Self; 6] = [
        Self::Loss,
        Self::Bits,
        Self::Perplexity,
        Self::Speed,
        Self::GradientNorm,
        Self::LearningRate,
    ];
    /// All that validation has.
    pub const VALIDATION: [Self; 4] = [Self::Loss, Self::Bits, Self::Perplexity, Self::Speed];

    /// The metric's name in burn-train.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "Loss",
            Self::Bits => "Bits per character",
            Self::Perplexity => "Perplexity",
            Self::Speed => "Speed",
            Self::GradientNorm => "Gradient norm",
            Self::LearningRate => "Learning rate",
        }
    }

    const fn unit(self) -> Option<&'static str> {
        match self {
            Self::Loss => Some("nats/char"),
            Self::Bits => Some("bits/char"),
            Self::Speed => Some("chars/s"),
            Self::Perplexity | Self::GradientNorm | Self::LearningRate => None,
        }
    }
}

/// One quantity as a burn-train metric: its latest value and its mean over the epoch so far.
#[derive(Clone, Debug)]
pub struct QuantityMetric {
    quantity: Quantity,
    name: MetricName,
    latest: Reading,
    nats: f64,
    chars: u64,
    seconds: f64,
    plain_sum: f64,
    steps: u64,
}

impl QuantityMetric {
    /// The metric of a quantity.
    pub fn new(quantity: Quantity) -> Self {
        Self {
            quantity,
            name: Arc::new(quantity.name().to_owned()),
            latest: Reading::default(),
            nats: 0.0,
            chars: 0,
            seconds: 0.0,
            plain_sum: 0.0,
            steps: 0,
        }
    }

    fn of(&self, nats_per_char: f64, chars: u64, seconds: f64, plain: f64) -> f64 {
        match self.quantity {
            Quantity::Loss => nats_per_char,
            Quantity::Bits => bits(nats_per_char),
            Quantity::Perplexity => nats_per_char.exp(),
            Quantity::Speed => chars as f64 / seconds,
            Quantity::GradientNorm | Quantity::LearningRate => plain,
        }
    }

    fn plain(&self) -> f64 {
        match self.quantity {
            Quantity::LearningRate => self.latest.learning_rate,
            _ => self.latest.gradient_norm,
        }
    }

    fn current(&self) -> f64 {
        let Reading { nats_per_char, chars, seconds, .. } = self.latest;
        self.of(nats_per_char, chars, seconds, self.plain())
    }

    fn mean(&self) -> f64 {
        let mean = self.nats / self.chars as f64;
        self.of(mean, self.chars, self.seconds, self.plain_sum / self.steps as f64)
    }

    fn entry(&self) -> SerializedEntry {
        let (mean, current) = (self.mean(), self.current());
        let unit = self.quantity.unit().map(|unit| format!(" {unit}")).unwrap_or_default();
        let text = |value: f64| match self.quantity {
            Quantity::Speed => format!("{value:.0}"),
            Quantity::LearningRate => format!("{value:.2e}"),
            _ => format!("{value:.4}"),
        };
        let formatted = format!("epoch {}{unit} - batch {}{unit}", text(mean), text(current));
        SerializedEntry::new(formatted, NumericEntry::Value(current).serialize())
    }
}

impl Metric for QuantityMetric {
    type Input = Reading;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: self.quantity.unit().map(str::to_owned),
            higher_is_better: self.quantity == Quantity::Speed,
        }
        .into()
    }

    fn update(
        &mut self,
        reading: &Reading,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        self.latest = *reading;
        self.nats += reading.nats_per_char * reading.chars as f64;
        self.chars += reading.chars;
        self.seconds += reading.seconds;
        self.plain_sum += self.plain();
        self.steps += 1;
        Ok(self.entry())
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry())
    }

    fn clear(&mut self) {
        *self = Self::new(self.quantity);
    }
}

impl Numeric for QuantityMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Value(self.current()))
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(NumericEntry::Value(self.mean()))
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.mean())
    }
}

/// In the place of burn-train's metric logger, which writes a folder per split and epoch: the run
/// folder keeps `metrics.jsonl` instead.
pub struct NoMetricLogger;

impl MetricLogger for NoMetricLogger {
    fn log(&mut self, _update: MetricsUpdate, _epoch: usize, _split: &Split) {}

    fn read_numeric(
        &mut self,
        _name: &str,
        _epoch: usize,
        _split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }

    fn log_metric_definition(&mut self, _definition: MetricDefinition) {}

    fn log_epoch_summary(&mut self, _summary: EpochSummary) {}
}
