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
mod product;
mod sequence;

pub(crate) use sequence::{Dimensions, Saved, backward, forward};
