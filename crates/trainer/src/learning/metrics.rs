//! What burn-train's metrics are told of the steps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::TensorReadError;
use burn_train::logger::MetricLogger;
use burn_train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn_train::metric::{
    Adaptor, Metric, MetricAttributes, MetricDefinition, MetricMetadata, MetricName, Numeric,
    NumericAttributes, NumericEntry, SerializedEntry,
};

use super::model::StepOutput;
use crate::scores::bits;

/// The plain numbers of a step, or of some in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// How many steps.
    pub steps: u64,
    /// Mean negative log-likelihood, nats/char.
    pub nats_per_char: f64,
    /// How many characters were predicted.
    pub chars: u64,
    /// How long they took, in seconds.
    pub seconds: f64,
    /// The global norm of the gradient before clipping, the mean of the steps; not a number outside
    /// training.
    pub gradient_norm: f64,
    /// The latest learning rate; not a number outside training.
    pub learning_rate: f64,
}

impl Reading {
    /// The numbers of these steps and of those behind them.
    fn and(self, next: Self) -> Self {
        let mean = |of: fn(&Self) -> f64, weight: fn(&Self) -> u64| {
            let [before, behind] = [weight(&self) as f64, weight(&next) as f64];
            (of(&self) * before + of(&next) * behind) / (before + behind)
        };
        Self {
            steps: self.steps + next.steps,
            nats_per_char: mean(|reading| reading.nats_per_char, |reading| reading.chars),
            chars: self.chars + next.chars,
            seconds: self.seconds + next.seconds,
            gradient_norm: mean(|reading| reading.gradient_norm, |reading| reading.steps),
            learning_rate: next.learning_rate,
        }
    }
}

/// Steps that are told together. burn-train takes what it is told to a thread of its own, which
/// updates the metrics and the renderer: for each step, that took a small step's helper away from
/// it and a tenth of its time.
#[derive(Debug, Default)]
pub struct Together {
    reading: Option<Reading>,
    told: Option<Instant>,
}

impl Together {
    /// Adds a step; gives what is to be told, if it is time: at the first and the last in any case.
    pub fn add(&mut self, step: Reading, is_last: bool) -> Option<Reading> {
        /// Often enough for whoever watches.
        const EVERY: Duration = Duration::from_millis(50);
        self.reading = Some(match self.reading {
            Some(before) => before.and(step),
            None => step,
        });
        if !is_last && self.told.is_some_and(|told| told.elapsed() < EVERY) {
            return None;
        }
        self.told = Some(Instant::now());
        self.reading.take()
    }
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
        self.plain_sum += self.plain() * reading.steps as f64;
        self.steps += reading.steps;
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

#[cfg(test)]
mod tests {
    use burn::data::dataloader::Progress;

    use super::*;

    fn step(nats_per_char: f64, chars: u64, learning_rate: f64) -> Reading {
        let (seconds, gradient_norm) = (0.5, 2.0 * nats_per_char);
        Reading { steps: 1, nats_per_char, chars, seconds, gradient_norm, learning_rate }
    }

    #[test]
    fn what_is_told_together_has_the_means_of_its_steps() {
        let mut together = Together::default();
        let first = together.add(step(3.0, 100, 0.1), false).expect("the first is told at once");
        assert_eq!((first.steps, first.chars), (1, 100));
        // Behind it, as if told in the future: not before the last.
        together.told = Some(Instant::now() + Duration::from_secs(100));
        assert!(together.add(step(2.0, 100, 0.2), false).is_none());
        assert!(together.add(step(1.0, 300, 0.3), false).is_none());
        let rest = together.add(step(4.0, 100, 0.4), true).expect("the last is told");
        assert_eq!((rest.steps, rest.chars), (3, 500));
        assert!((rest.nats_per_char - (2.0 + 3.0 + 4.0) / 5.0).abs() < 1e-12);
        assert!((rest.gradient_norm - 2.0 * (2.0 + 1.0 + 4.0) / 3.0).abs() < 1e-12);
        assert_eq!((rest.seconds, rest.learning_rate), (1.5, 0.4));
    }

    #[test]
    fn a_metric_has_the_mean_of_all_steps_however_they_are_told() {
        let progress = Progress::new(1, 1, None);
        let metadata = MetricMetadata { progress, iteration: None, lr: None };
        let steps = [step(3.0, 100, 0.1), step(2.0, 100, 0.1), step(1.0, 300, 0.1)];
        for quantity in [Quantity::Loss, Quantity::Speed, Quantity::GradientNorm] {
            let mean = |told: &[Reading]| {
                let mut metric = QuantityMetric::new(quantity);
                for reading in told {
                    metric.update(reading, &metadata).expect("plain numbers");
                }
                metric.mean()
            };
            let together = [steps[0], steps[1].and(steps[2])];
            assert!((mean(&steps) - mean(&together)).abs() < 1e-9, "{quantity:?}");
        }
    }
}
