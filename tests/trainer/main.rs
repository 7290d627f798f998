//! Tests of the trainer: the real program on real files.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

/// Bad input: the message, the exit code, and that nothing was written.
mod bad_input;
/// `bench`: what it prints.
mod bench;
/// Configuration files and `--set`.
mod config;
/// Checkpoints with flipped bits, cut short, or changed by somebody who knows the checksum.
mod damage;
/// Devices: what is compiled in, and the GPU's loss against the CPU's.
mod devices;
/// Runs whose loss is no number: what is said, and the ways back.
mod diverging;
/// What two runs must have in common to be the same.
mod essence;
/// The table of docs/keeping.md.
#[cfg(unix)]
mod failures;
/// Writes, renames and syncs that fail.
#[cfg(target_os = "linux")]
mod faults;
/// Curves as SVG.
mod plot;
/// Runs the program in a folder of its own.
mod program;
/// Runs that are killed, stopped or extended, and go on.
mod resuming;
/// `train`, `evaluate`, `generate` and `corpus stats` from end to end.
mod runs;
/// Sweeps: grids and draws, compared, interrupted and taken up again.
mod sweep;
/// Losses against PyTorch's; clipping.
mod training;
