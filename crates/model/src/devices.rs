//! The devices of the backends compiled in, by name.
//!
//! Burn's `Device::default()` follows from which crates of a build happen to enable which
//! backends. Nothing in this project relies on it: a device is always named.

#[cfg(any(feature = "ndarray", feature = "flex"))]
use burn::tensor::Device;

/// Burn's ndarray backend on the CPU.
#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "Burn prefers flex; this project offers both, and tests both")]
pub fn ndarray() -> Device {
    Device::ndarray()
}

/// Burn's flex backend on the CPU.
#[cfg(feature = "flex")]
pub fn flex() -> Device {
    Device::flex()
}
