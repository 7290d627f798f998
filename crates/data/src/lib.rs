//! Character corpora for truncated back-propagation through time (TBPTT) on
//! [Burn](https://burn.dev).
//!
//! A text is read once into a [`Corpus`] of packed tokens, cut into contiguous [`Splits`], and
//! served by a [`ChunkLoader`] as chunks of B lanes by T steps that follow one another, so that a
//! recurrent state can be carried from each chunk to the next.
//!
//! The crate knows text, not models, and opens no path: it decodes from any [`std::io::Read`].
//! The symbols B, T and V are those of `poquelin-model`.
//!
//! ```
//! use poquelin_data::{Corpus, CorpusOptions, Splits};
//!
//! let corpus = Corpus::read("Ô pendule, ô ma sœur!".as_bytes(), &CorpusOptions::default())?;
//! assert_eq!(corpus.len(), 21);
//! assert_eq!(corpus.vocabulary().len(), 16);
//!
//! let splits = Splits::cut(corpus.len(), 0.1, 0.0);
//! assert_eq!((splits.train.len(), splits.test.len()), (18, 3));
//! # Ok::<(), poquelin_data::CorpusError>(())
//! ```

mod batch;
mod corpus;
mod layout;
mod loader;
mod split;
mod tokens;
mod vocabulary;
mod windows;

pub use batch::{TokenBatch, TokenBatcher};
pub use corpus::{Corpus, CorpusError, CorpusOptions};
pub use layout::{Layout, LayoutError};
pub use loader::ChunkLoader;
pub use split::Splits;
pub use vocabulary::{Symbol, Units, UnknownSymbol, Vocabulary, VocabularyError};
pub use windows::{Window, Windows};
