//! Tests of the model crate on every backend compiled in.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

/// One token after the other, on threads that stay.
mod decoder;
/// The fused operation against the reference, over awkward shapes.
mod fused;
/// Finite differences, losses of a part of the results, frozen weights.
mod gradients;
/// What a training step minimises.
mod objective;
/// Values and gradients against PyTorch's `nn.LSTM`.
mod parity;
/// Seeds: the same weights and masks everywhere, and the same ids in every run.
mod randomness;
/// What is refused, and how.
mod shapes;
/// Carrying, detaching, selecting and reordering state.
mod state;
/// The devices under test, and how closely values must agree.
mod support;
/// Writing on a GPU against writing on the CPU.
mod writer;
