//! A text as tokens.

use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;

use thiserror::Error;

use crate::tokens::PackedTokens;
use crate::vocabulary::symbol;
use crate::{Symbol, Units, UnknownSymbol, Vocabulary};

/// How a text is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct CorpusOptions {
    /// What a token stands for.
    pub units: Units,
    /// Only the first so many symbols; all of them where `None`.
    pub take: Option<usize>,
    /// Whether a carriage return before a line feed is dropped. As it stands where `false`.
    pub unify_newlines: bool,
    /// Whether symbols that a given vocabulary does not have are left out. An error where `false`.
    pub skip_unknown: bool,
    /// How many bytes the reader is expected to give. Spares the growing copies of a large text;
    /// a wrong figure costs nothing else.
    pub size_hint: usize,
}

/// A text that cannot be a corpus.
#[derive(Debug, Error)]
pub enum CorpusError {
    /// The reader failed.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Not UTF-8.
    #[error("is not valid UTF-8 at byte {offset}; convert it, or set data.units = \"byte\"")]
    InvalidUtf8 {
        /// The first byte that is not part of a character, counted from 0.
        offset: u64,
    },
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// Nothing to predict.
    #[error("holds one distinct symbol only, {symbol}; there is nothing to learn")]
    OneSymbol {
        /// The symbol.
        symbol: Symbol,
    },
    /// A symbol that the given vocabulary does not have.
    #[error("has a character that the model does not know: {0}")]
    Unknown(#[from] UnknownSymbol),
    /// Only such symbols.
    #[error("has no character that the model knows")]
    NothingKnown,
}

/// A text as packed tokens, with its vocabulary. One byte per character while there are at most
/// 256 distinct ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    vocabulary: Vocabulary,
    tokens: PackedTokens,
    skipped: usize,
}

impl Corpus {
    /// Reads a text; its distinct symbols become the vocabulary. A byte order mark at the start
    /// of UTF-8 is dropped.
    ///
    /// # Errors
    ///
    /// Where the reader fails, the text is not valid UTF-8 (unless read as bytes), or it has
    /// fewer than two distinct symbols.
    pub fn read(reader: impl Read, options: &CorpusOptions) -> Result<Self, CorpusError> {
        let mut tokens = PackedTokens::with_capacity(capacity(options));
        let mut ids = Numbering::default();
        for_each_code(reader, options, |code| {
            tokens.push(ids.number(code));
            Ok(())
        })?;
        let (codes, table) = ids.sorted();
        match codes[..] {
            [] => return Err(CorpusError::Empty),
            [only] => {
                return Err(CorpusError::OneSymbol { symbol: symbol(options.units, only) });
            }
            _ => {}
        }
        tokens.renumber(&table);
        tokens.shrink();
        let vocabulary = Vocabulary::from_sorted(options.units, codes);
        Ok(Self { vocabulary, tokens, skipped: 0 })
    }

    /// Reads a text in a vocabulary that is already there, whose units are used.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), and where the text has a symbol that `vocabulary` has not, unless such are to be left
    /// out.
    pub fn read_with(
        reader: impl Read,
        options: &CorpusOptions,
        vocabulary: &Vocabulary,
    ) -> Result<Self, CorpusError> {
        let options = CorpusOptions { units: vocabulary.units(), ..*options };
        let (mut tokens, mut skipped) = (PackedTokens::with_capacity(capacity(&options)), 0);
        for_each_code(reader, &options, |code| {
            let unknown =
                || UnknownSymbol { symbol: symbol(options.units, code), position: tokens.len() };
            match vocabulary.token(code) {
                Some(token) => tokens.push(token),
                None if options.skip_unknown => skipped += 1,
                None => return Err(unknown().into()),
            }
            Ok(())
        })?;
        match (tokens.len(), skipped) {
            (0, 0) => return Err(CorpusError::Empty),
            (0, _) => return Err(CorpusError::NothingKnown),
            _ => {}
        }
        tokens.shrink();
        Ok(Self { vocabulary: vocabulary.clone(), tokens, skipped })
    }

    /// The number of tokens.
    #[expect(clippy::len_without_is_empty, reason = "a corpus is never empty")]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// How many symbols were left out, for the vocabulary does not have them.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The distinct symbols.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The token at `position`.
    ///
    /// # Panics
    ///
    /// Where `position` is not below [`len`](Self::len).
    pub fn token(&self, position: usize) -> u32 {
        self.tokens.get(position)
    }

    /// Appends the tokens in `range` to `destination`.
    ///
    /// # Panics
    ///
    /// Where `range` is not within the corpus.
    pub fn extend_into(&self, range: Range<usize>, destination: &mut Vec<i32>) {
        self.tokens.extend_into(range, destination);
    }
}

fn capacity(options: &CorpusOptions) -> usize {
    options.size_hint.min(options.take.unwrap_or(usize::MAX))
}

/// Numbers codes in the order of their first appearance.
struct Numbering {
    /// Codes in the order of their numbers.
    codes: Vec<u32>,
    /// The numbers of codes below 256 plus one; 0 where there is none yet.
    low: [u32; 256],
    high: HashMap<u32, u32>,
}

impl Default for Numbering {
    fn default() -> Self {
        Self { codes: Vec::new(), low: [0; 256], high: HashMap::new() }
    }
}

impl Numbering {
    fn number(&mut self, code: u32) -> u32 {
        let next = self.codes.len() as u32;
        let number = match self.low.get_mut(code as usize) {
            Some(slot) => {
                if *slot == 0 {
                    *slot = next + 1;
                }
                *slot - 1
            }
            None => *self.high.entry(code).or_insert(next),
        };
        if number == next {
            self.codes.push(code);
        }
        number
    }

    /// The codes in increasing order, and the place there of each number.
    fn sorted(self) -> (Vec<u32>, Vec<u32>) {
        let mut sorted = self.codes.clone();
        sorted.sort_unstable();
        let place = |code: &u32| sorted.binary_search(code).expect("every code was sorted") as u32;
        let table = self.codes.iter().map(place).collect();
        (sorted, table)
    }
}

/// Calls `visit` with the code of every symbol, up to `options.take` of them.
fn for_each_code(
    reader: impl Read,
    options: &CorpusOptions,
    mut visit: impl FnMut(u32) -> Result<(), CorpusError>,
) -> Result<(), CorpusError> {
    let mut left = options.take.unwrap_or(usize::MAX);
    let mut after_return = false;
    let mut first = true;
    let mut take = |code: u32| -> Result<bool, CorpusError> {
        let mark = std::mem::take(&mut first) && options.units == Units::Char && code == 0xfeff;
        if mark {
            return Ok(left > 0);
        }
        // A carriage return waits for what follows it.
        let waiting = std::mem::take(&mut after_return);
        if options.unify_newlines && code == u32::from(b'\r') {
            after_return = true;
            if !waiting {
                return Ok(left > 0);
            }
        } else if waiting && code != u32::from(b'\n') {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            visit(u32::from(b'\r'))?;
        }
        if left == 0 {
            return Ok(false);
        }
        left -= 1;
        visit(code)?;
        Ok(left > 0)
    };
    match options.units {
        Units::Byte => for_each_byte(reader, &mut take)?,
        Units::Char => for_each_char(reader, &mut take)?,
    }
    if after_return && left > 0 {
        visit(u32::from(b'\r'))?;
    }
    Ok(())
}

const BUFFER: usize = 1 << 16;

/// Calls `take` with every byte until it answers that it has enough.
fn for_each_byte(
    mut reader: impl Read,
    take: &mut impl FnMut(u32) -> Result<bool, CorpusError>,
) -> Result<(), CorpusError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = read_some(&mut reader, &mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        for &byte in &buffer[..count] {
            if !take(u32::from(byte))? {
                return Ok(());
            }
        }
    }
}

/// Calls `take` with every character of UTF-8 until it answers that it has enough.
fn for_each_char(
    mut reader: impl Read,
    take: &mut impl FnMut(u32) -> Result<bool, CorpusError>,
) -> Result<(), CorpusError> {
    let mut buffer = vec![0; BUFFER];
    let mut offset = 0;
    // A character may begin in one read and end in the next.
    let mut begun = 0;
    loop {
        let count = read_some(&mut reader, &mut buffer[begun..])?;
        let filled = begun + count;
        let (text, rest) = match std::str::from_utf8(&buffer[..filled]) {
            Ok(text) => (text, None),
            Err(error) => {
                let valid = std::str::from_utf8(&buffer[..error.valid_up_to()])
                    .expect("it is valid up to there");
                (valid, Some(error))
            }
        };
        for character in text.chars() {
            if !take(u32::from(character))? {
                return Ok(());
            }
        }
        let done = text.len();
        if let Some(error) = rest
            && (error.error_len().is_some() || count == 0)
        {
            return Err(CorpusError::InvalidUtf8 { offset: offset + done as u64 });
        }
        if count == 0 {
            return Ok(());
        }
        buffer.copy_within(done..filled, 0);
        begun = filled - done;
        offset += done as u64;
    }
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
