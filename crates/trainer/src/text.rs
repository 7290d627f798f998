//! Opening texts: files, and the comedy that is compiled in.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use poquelin_data::{Corpus, CorpusError, CorpusOptions, Vocabulary};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cli::UnknownPolicy;
use crate::config::DataConfig;
use crate::error::Error;

const COMEDY: &str = include_str!("../../../datasets/comedie.txt");
const COMEDY_NAME: &str = "datasets/comedie.txt (built in)";

/// Where a text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextSource {
    /// The comedy of `datasets/`, compiled into the program.
    Comedy,
    /// A file.
    File(PathBuf),
}

impl TextSource {
    /// The text named by `data.text`.
    pub fn new(name: &str) -> Self {
        match name {
            "" => Self::Comedy,
            path => Self::File(PathBuf::from(path)),
        }
    }

    /// What the text is called in messages.
    pub fn name(&self) -> String {
        match self {
            Self::Comedy => COMEDY_NAME.to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// The value of `data.text` that finds the text again from any folder.
    pub fn lasting_name(&self) -> String {
        match self {
            Self::Comedy => String::new(),
            Self::File(path) => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                absolute.display().to_string()
            }
        }
    }

    /// Reads the text as `data` says: in a vocabulary of its own, or in the one given, which may lack some of its
    /// characters.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, decoded or learnt from.
    pub fn read(
        &self,
        data: &DataConfig,
        vocabulary: Option<(&Vocabulary, UnknownPolicy)>,
    ) -> Result<Corpus, Error> {
        let named = |source| match source {
            CorpusError::Unknown(unknown) => Error::UnknownInText { name: self.name(), unknown },
            source => Error::Corpus { name: self.name(), source },
        };
        match self {
            Self::Comedy => decode(COMEDY.as_bytes(), COMEDY.len(), data, vocabulary),
            Self::File(path) => {
                let (file, size) = open(path).map_err(|error| named(error.into()))?;
                decode(file, size, data, vocabulary)
            }
        }
        .map_err(named)
    }
}

fn open(path: &Path) -> std::io::Result<(File, usize)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::IsADirectory,
            "it is a folder; give a text file",
        ));
    }
    Ok((file, usize::try_from(metadata.len()).unwrap_or(0)))
}

fn decode(
    reader: impl Read,
    size_hint: usize,
    data: &DataConfig,
    vocabulary: Option<(&Vocabulary, UnknownPolicy)>,
) -> Result<Corpus, CorpusError> {
    let options = CorpusOptions {
        units: data.units,
        take: (data.take > 0).then_some(data.take),
        unify_newlines: data.unify_newlines,
        skip_unknown: matches!(vocabulary, Some((_, UnknownPolicy::Skip))),
        size_hint,
    };
    match vocabulary {
        Some((vocabulary, _)) => Corpus::read_with(reader, &options, vocabulary),
        None => Corpus::read(reader, &options),
    }
}

/// What tells one corpus from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The number of tokens.
    pub tokens: usize,
    /// SHA-256 over the tokens, each as four bytes, little endian, in hexadecimal.
    pub sha256: String,
}

impl Fingerprint {
    /// Hashes a corpus.
    pub fn of(corpus: &Corpus) -> Self {
        const BLOCK: usize = 1 << 16;
        let mut hash = Sha256::new();
        let mut tokens = Vec::with_capacity(BLOCK);
        let mut bytes = Vec::with_capacity(4 * BLOCK);
        for start in (0..corpus.len()).step_by(BLOCK) {
            tokens.clear();
            bytes.clear();
            corpus.extend_into(start..corpus.len().min(start + BLOCK), &mut tokens);
            bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
            hash.update(&bytes);
        }
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { tokens: corpus.len(), sha256 }
    }

    /// How `self`, found now, differs from `expected`; `None` where it does not.
    pub fn difference(&self, expected: &Self) -> Option<String> {
        if self.tokens != expected.tokens {
            Some(format!("it has {} characters, not {}", self.tokens, expected.tokens))
        } else if self.sha256 != expected.sha256 {
            Some("it is as long, but its characters differ".to_owned())
        } else {
            None
        }
    }
}
