//! What a key is searched over.

use poquelin_model::Seed;
use serde::Deserialize;
use toml::Value;

/// Lists whose numbers lie this far apart are shown by their logarithms.
const WIDE: f64 = 20.0;

/// A key, and the values it may take.
pub struct Dimension {
    /// The key, as `section.key`.
    pub key: String,
    pub(super) values: Values,
}

pub(super) enum Values {
    List(Vec<Value>),
    Range {
        range: Range,
        /// Whether the key has whole numbers.
        whole: bool,
    },
}

/// Everything from one number to another.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    from: f64,
    to: f64,
    #[serde(default)]
    scale: Scale,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scale {
    #[default]
    Linear,
    Log,
}

/// Why values cannot be searched over: what was expected, and what there is.
pub(super) type Unusable = (String, String);

impl Dimension {
    /// A key with what the file says about it. `known` is a value that the key can have.
    pub(super) fn new(key: String, value: Value, known: &Value) -> Result<Self, Unusable> {
        let numbers = "a key with numbers, for a range";
        let values = match value {
            Value::Array(list) if list.is_empty() => {
                return Err(("a list with at least one value".into(), "an empty one".into()));
            }
            Value::Array(list) => Values::List(list),
            Value::Table(table) => {
                let range: Range = table.try_into().map_err(|error: toml::de::Error| {
                    let expected = "a range, as { from = 1e-4, to = 1e-2, scale = \"log\" }";
                    (expected.to_owned(), format!("one with a mistake: {}", error.message()))
                })?;
                range.check()?;
                let whole = match known {
                    Value::Integer(_) => true,
                    Value::Float(_) => false,
                    other => return Err((numbers.into(), other.to_string())),
                };
                Values::Range { range, whole }
            }
            other => return Err(("a list of values, or a range".into(), other.to_string())),
        };
        Ok(Self { key, values })
    }

    /// Whether the values are better told apart by their logarithms.
    pub fn is_log(&self) -> bool {
        let list = match &self.values {
            Values::Range { range, .. } => return range.scale == Scale::Log,
            Values::List(list) => list,
        };
        let numbers: Option<Vec<f64>> = list.iter().map(number).collect();
        numbers.is_some_and(|numbers| {
            let lowest = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = numbers.iter().copied().fold(0.0, f64::max);
            lowest > 0.0 && highest >= WIDE * lowest
        })
    }

    /// The value of a draw. It follows from seed, key and number, whatever else is searched.
    pub(super) fn draw(&self, seed: Seed, draw: u64) -> Value {
        let bits = seed.derive(&self.key, draw).value() >> 11;
        let share = bits as f64 / (1_u64 << 53) as f64;
        match &self.values {
            Values::List(list) => list[(share * list.len() as f64) as usize].clone(),
            Values::Range { range, whole: true } => Value::Integer(range.at(share).round() as i64),
            Values::Range { range, whole: false } => {
                // Four digits are all that anybody wants to copy.
                let short: f64 = format!("{:.3e}", range.at(share)).parse().unwrap_or(range.from);
                Value::Float(short.clamp(range.from, range.to))
            }
        }
    }
}

impl Range {
    fn check(&self) -> Result<(), Unusable> {
        let Self { from, to, scale } = self;
        let got = format!("from {from} to {to}");
        if !(from.is_finite() && to.is_finite() && from < to) {
            return Err(("a range that goes up".into(), got));
        }
        if *scale == Scale::Log && *from <= 0.0 {
            return Err(("a range above 0, for a logarithmic scale".into(), got));
        }
        Ok(())
    }

    fn at(&self, share: f64) -> f64 {
        match self.scale {
            Scale::Linear => self.from + share * (self.to - self.from),
            Scale::Log => self.from * (self.to / self.from).powf(share),
        }
    }
}

/// A value as people write it: texts without quotes, small numbers short.
pub fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        // In another form than `Display`, which spells 1e-9 out.
        Value::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}

/// A value as a number, if it is one.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(whole) => Some(*whole as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}
