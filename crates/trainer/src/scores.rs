//! How well a text was predicted.

use serde::{Deserialize, Deserializer, Serialize};

/// The loss over a number of characters, in the three units people use. In JSON `null` stands for what is not
/// finite; the two units that follow from the first are not read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Read")]
pub struct Score {
    /// Mean negative log-likelihood, nats per character.
    pub nats_per_char: f64,
    /// The same in bits.
    pub bits_per_char: f64,
    /// The exponential of the nats: how many characters the model hesitates between.
    pub perplexity: f64,
    /// How many characters were predicted.
    pub chars: u64,
}

impl Score {
    /// From a mean of `nats_per_char` over `chars` characters.
    pub fn new(nats_per_char: f64, chars: u64) -> Self {
        Self {
            nats_per_char,
            bits_per_char: bits(nats_per_char),
            perplexity: nats_per_char.exp(),
            chars,
        }
    }
}

/// What is read of a [`Score`].
#[derive(Deserialize)]
struct Read {
    #[serde(deserialize_with = "number_or_null")]
    nats_per_char: f64,
    chars: u64,
}

impl From<Read> for Score {
    fn from(Read { nats_per_char, chars }: Read) -> Self {
        Self::new(nats_per_char, chars)
    }
}

/// A number as JSON has it, which writes `null` for what is not finite.
pub(crate) fn number_or_null<'a, D: Deserializer<'a>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Nats in bits.
pub fn bits(nats: f64) -> f64 {
    nats / std::f64::consts::LN_2
}

/// A mean over characters in the making.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    nats: f64,
    chars: u64,
}

impl Tally {
    /// Adds `chars` characters predicted at `nats_per_char` on average.
    pub fn add(&mut self, nats_per_char: f64, chars: u64) {
        self.nats += nats_per_char * chars as f64;
        self.chars += chars;
    }

    /// The mean so far; not a number where nothing was added.
    pub fn score(&self) -> Score {
        Score::new(self.nats / self.chars as f64, self.chars)
    }

    /// How many characters were added.
    pub fn chars(&self) -> u64 {
        self.chars
    }
}
