//! The distinct symbols of a corpus, in order.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What one token stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Units {
    /// One Unicode scalar value.
    #[default]
    Char,
    /// One byte, whatever it means.
    Byte,
}

/// A character, or a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// A Unicode scalar value.
    Char(char),
    /// A byte.
    Byte(u8),
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Char(c) => write!(f, "{c:?} (U+{:04X})", *c as u32),
            Self::Byte(byte) => write!(f, "byte 0x{byte:02x}"),
        }
    }
}

/// A symbol that a vocabulary does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{symbol} at position {position} is not in the vocabulary")]
pub struct UnknownSymbol {
    /// The symbol.
    pub symbol: Symbol,
    /// Its position in the text, counted in symbols from 0.
    pub position: usize,
}

/// A stored vocabulary that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VocabularyError {
    /// No symbol at all.
    #[error("the vocabulary is empty")]
    Empty,
    /// Not in order, or a symbol twice.
    #[error("the vocabulary is not in increasing order at symbol {index}")]
    Unordered {
        /// The first symbol that is not above the one before it.
        index: usize,
    },
    /// A code above 255 in a vocabulary of bytes, or one that is no character.
    #[error("code {code} at symbol {index} of the vocabulary is not a {}", match units {
        Units::Char => "character",
        Units::Byte => "byte",
    })]
    BadCode {
        /// The code.
        code: u32,
        /// Its index.
        index: usize,
        /// The vocabulary's units.
        units: Units,
    },
}

/// The sorted distinct symbols of a corpus; a token is an index into them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredVocabulary", into = "StoredVocabulary")]
pub struct Vocabulary {
    units: Units,
    /// Unicode scalar values or bytes, strictly increasing.
    codes: Vec<u32>,
}

/// A vocabulary as it stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredVocabulary {
    units: Units,
    codes: Vec<u32>,
}

impl From<Vocabulary> for StoredVocabulary {
    fn from(Vocabulary { units, codes }: Vocabulary) -> Self {
        Self { units, codes }
    }
}

impl TryFrom<StoredVocabulary> for Vocabulary {
    type Error = VocabularyError;

    fn try_from(StoredVocabulary { units, codes }: StoredVocabulary) -> Result<Self, Self::Error> {
        if codes.is_empty() {
            return Err(VocabularyError::Empty);
        }
        if let Some(index) = codes.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(VocabularyError::Unordered { index: index + 1 });
        }
        let valid = |code: u32| match units {
            Units::Char => char::from_u32(code).is_some(),
            Units::Byte => code <= 255,
        };
        match codes.iter().position(|&code| !valid(code)) {
            Some(index) => Err(VocabularyError::BadCode { code: codes[index], index, units }),
            None => Ok(Self { units, codes }),
        }
    }
}

impl Vocabulary {
    /// From strictly increasing codes that are known to be valid.
    pub(crate) fn from_sorted(units: Units, codes: Vec<u32>) -> Self {
        Self { units, codes }
    }

    /// What a token stands for.
    pub fn units(&self) -> Units {
        self.units
    }

    /// V, the number of distinct symbols.
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary is never empty")]
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// The symbol of a token.
    ///
    /// # Panics
    ///
    /// Where `token` is not below V.
    pub fn symbol(&self, token: u32) -> Symbol {
        symbol(self.units, self.codes[token as usize])
    }

    /// The token of a symbol given by its code.
    pub(crate) fn token(&self, code: u32) -> Option<u32> {
        self.codes.binary_search(&code).ok().map(|index| index as u32)
    }

    /// The tokens of `text`.
    ///
    /// # Errors
    ///
    /// The first symbol that the vocabulary does not have.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, UnknownSymbol> {
        self.codes_of(text)
            .enumerate()
            .map(|(position, code)| {
                let unknown = || UnknownSymbol { symbol: symbol(self.units, code), position };
                self.token(code).ok_or_else(unknown)
            })
            .collect()
    }

    /// The tokens of `text` without the symbols that the vocabulary does not have.
    pub fn encode_known(&self, text: &str) -> Vec<u32> {
        self.codes_of(text).filter_map(|code| self.token(code)).collect()
    }

    /// How this vocabulary, found now, differs from `expected`; `None` where it does not.
    pub fn difference(&self, expected: &Self) -> Option<String> {
        if self == expected {
            return None;
        }
        let only = |of: &Self, other: &Self| {
            let missing = of.codes.iter().find(|&&code| other.token(code).is_none());
            missing.map(|&code| symbol(of.units, code))
        };
        let (now, then) = (self.len(), expected.len());
        Some(match (only(self, expected), only(expected, self)) {
            _ if self.units != expected.units => "its units differ".to_owned(),
            (Some(new), _) => format!("it has {now} distinct symbols, not {then}: {new} is new"),
            (None, Some(old)) => {
                format!("it has {now} distinct symbols, not {then}: {old} is gone")
            }
            (None, None) => "its symbols differ".to_owned(),
        })
    }

    /// The text of `tokens`. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Panics
    ///
    /// Where a token is not below V.
    pub fn decode(&self, tokens: &[u32]) -> String {
        String::from_utf8_lossy(&self.bytes(tokens)).into_owned()
    }

    /// The bytes of the text of `tokens`: characters as UTF-8, bytes as they are.
    ///
    /// # Panics
    ///
    /// Where a token is not below V.
    pub fn bytes(&self, tokens: &[u32]) -> Vec<u8> {
        let codes = tokens.iter().map(|&token| self.codes[token as usize]);
        match self.units {
            Units::Char => codes.filter_map(char::from_u32).collect::<String>().into_bytes(),
            Units::Byte => codes.map(|code| code as u8).collect(),
        }
    }

    fn codes_of<'a>(&self, text: &'a str) -> Box<dyn Iterator<Item = u32> + 'a> {
        match self.units {
            Units::Char => Box::new(text.chars().map(u32::from)),
            Units::Byte => Box::new(text.bytes().map(u32::from)),
        }
    }
}

/// The symbol of a code that is valid in `units`.
pub(crate) fn symbol(units: Units, code: u32) -> Symbol {
    match units {
        Units::Char => Symbol::Char(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)),
        Units::Byte => Symbol::Byte(code as u8),
    }
}
