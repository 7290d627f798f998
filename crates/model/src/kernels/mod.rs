//! The CPU kernels: an LSTM layer over a whole sequence, forward and backward, on slices.
//!
//! They know no Burn type. All arrays are row major, time first: `products` and `gates` are
//! `[T, B, 4H]`, `outputs` and `cells` `[T, B, H]`, the recurrent weight is `[H, 4H]`, and the
//! gates stand in the order i, f, g, o. The lanes of a batch never meet, so a thread takes some
//! lanes through all steps without waiting for any other.
//!
//! Vectors are [pulp](https://docs.rs/pulp)'s: the same code is compiled for AVX-512, AVX2 with
//! FMA, NEON and plain machines, and one of them is picked at run time.

mod activation;
pub(crate) mod adamw;
mod cell;
pub(crate) mod cross_entropy;
pub(crate) mod decoding;
pub(crate) mod linear;
mod matrix;
mod parallel;
mod product;
pub(crate) mod sequence;
pub(crate) mod tokens;
