//! Tests of the trainer: the real program on real files.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

/// Bad input: the message, the exit code, and that nothing was written.
mod bad_input;
/// `bench`: what it prints.
mod bench;
/// Configuration files and `--set`.
mod config;
/// Devices: what is compiled in, and the GPU's loss against the CPU's.
mod devices;
/// Runs the program in a folder of its own.
mod program;
/// `train`, `evaluate`, `generate` and `corpus stats` from end to end.
mod runs;
/// Losses against PyTorch's; clipping.
mod training;
