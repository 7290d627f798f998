//! Tests of the data crate.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

/// Decoding, vocabularies, what is refused.
mod corpus;
/// Splits, lanes and chunks: who is a target when.
mod layout;
/// The loader: order, epochs, places; and Burn's own loader on our data set.
mod loader;
