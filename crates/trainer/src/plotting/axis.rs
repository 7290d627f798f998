//! Axes: their ends, and where they are marked.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// What an axis shows.
pub enum Scale {
    /// Numbers.
    Linear,
    /// Numbers above 0, by their logarithm.
    Log,
    /// Whole numbers.
    Whole,
    /// Words, at 0, 1, 2, ...
    Words(Vec<String>),
}

/// An axis.
pub struct Axis {
    /// What is counted, and in what unit.
    pub label: String,
    /// Its lower end.
    pub from: f64,
    /// Its upper end.
    pub to: f64,
    /// What it shows.
    pub scale: Scale,
}

impl Axis {
    /// An axis over `values` with some room at both ends, if any of them is a number.
    pub fn around(label: &str, scale: Scale, values: impl Iterator<Item = f64>) -> Option<Self> {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (from, to) = (from.min(value), to.max(value));
        }
        if from > to {
            return None;
        }
        let (from, to) = match scale {
            Scale::Log if from == to => (from / 2.0, to * 2.0),
            Scale::Log => {
                let room = (to / from).powf(0.06);
                (from / room, to * room)
            }
            Scale::Words(_) => (from - 0.5, to + 0.5),
            Scale::Whole if from == to => (from - 1.0, to + 1.0),
            Scale::Linear if from == to => (from - 0.05, to + 0.05),
            Scale::Whole | Scale::Linear => {
                let room = 0.06 * (to - from);
                (from - room, to + room)
            }
        };
        Some(Self { label: label.to_owned(), from, to, scale })
    }

    /// Where lines go, and what is written there.
    fn ticks(&self) -> Vec<(f64, String)> {
        match &self.scale {
            Scale::Linear => self.even_ticks(0.0),
            Scale::Whole => self.even_ticks(1.0),
            Scale::Log => self.log_ticks(),
            Scale::Words(words) => {
                words.iter().enumerate().map(|(at, word)| (at as f64, word.clone())).collect()
            }
        }
    }

    fn even_ticks(&self, least: f64) -> Vec<(f64, String)> {
        let rough = (self.to - self.from) / 8.0;
        let decade = 10f64.powf(rough.log10().floor());
        let nice = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade);
        let step = nice.into_iter().find(|&step| step >= rough).unwrap_or(rough).max(least);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let (first, last) = ((self.from / step).ceil() as i64, (self.to / step).floor() as i64);
        (first..=last)
            .map(|count| count as f64 * step)
            .map(|value| (value, format!("{value:.decimals$}")))
            .collect()
    }

    fn log_ticks(&self) -> Vec<(f64, String)> {
        let factors: &[u32] = if self.to / self.from < 1_000.0 { &[1, 2, 5] } else { &[1] };
        let decades = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
        let mut ticks = Vec::new();
        for decade in decades {
            for &factor in factors {
                let value = f64::from(factor) * 10f64.powi(decade);
                let text = match decade {
                    -3..=4 => format!("{value:.*}", decade.min(0).unsigned_abs() as usize),
                    _ => format!("{factor}e{decade}"),
                };
                ticks.push((value, text));
            }
        }
        ticks.retain(|(value, _)| (self.from..=self.to).contains(value));
        ticks
    }
}

/// An axis as plotters wants it.
pub(super) struct Ruler {
    ends: Range<f64>,
    is_log: bool,
    ticks: Vec<(f64, String)>,
}

impl Ruler {
    pub(super) fn of(axis: &Axis) -> Self {
        let is_log = matches!(axis.scale, Scale::Log);
        Self { ends: axis.from..axis.to, is_log, ticks: axis.ticks() }
    }
}

impl Ranged for Ruler {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let place = |value: f64| if self.is_log { value.log10() } else { value };
        let (start, end) = (place(self.ends.start), place(self.ends.end));
        let share = (place(*value) - start) / (end - start);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.iter().map(|tick| tick.0).collect()
    }

    fn range(&self) -> Range<f64> {
        self.ends.clone()
    }
}

impl ValueFormatter<f64> for Ruler {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|tick| tick.0 == *value);
        tick.map(|tick| tick.1.clone()).unwrap_or_default()
    }
}
