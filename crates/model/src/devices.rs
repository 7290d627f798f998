//! The devices of the backends compiled in, by name.
//!
//! Burn's `Device::default()` follows from which crates of a build happen to enable which
//! backends. Nothing in this project relies on it: a device is always named.

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::backend::DispatchDevice;
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

/// What our kernels compute with on this machine's CPU, in words: how long vectors are, and how products are formed.
/// Where that differs, sums are rounded otherwise.
pub fn arithmetic() -> String {
    crate::kernels::arithmetic()
}

/// What a device of CubeCL's, a GPU or what stands in for one, says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// As the device calls itself.
    pub name: String,
    /// Whether it is a card, and no program that plays one.
    pub is_card: bool,
    /// The most units that work in one group and can meet there.
    pub group_units: usize,
    /// The memory that the units of a group share, in bytes.
    pub group_memory: usize,
    /// Units that go in lockstep, at the least.
    pub subgroup: usize,
}

/// Whether the device is a GPU that reads the recurrent weights of layers of so many hidden units as 16-bit
/// numbers: float16, or else bfloat16. Opens the device.
pub fn has_half(device: &Device, hidden: usize) -> bool {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    if let DispatchDevice::Cube(device) = device.clone().without_autodiff().as_dispatch() {
        return crate::backends::cube::has_half(&device.client(), hidden);
    }
    let _ = (device, hidden);
    false
}

/// What the device is; `None` for a CPU backend. Opens the device.
pub fn hardware(device: &Device) -> Option<Hardware> {
    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    if let DispatchDevice::Cube(device) = device.clone().without_autodiff().as_dispatch() {
        let client = device.client();
        let properties = client.properties();
        let (identity, limits) = (&properties.identity, &properties.hardware);
        return Some(Hardware {
            name: identity.name.clone(),
            is_card: identity.physical.is_some(),
            group_units: limits.max_units_per_cube as usize,
            group_memory: limits.max_shared_memory_size,
            subgroup: limits.plane_size_min as usize,
        });
    }
    let _ = device;
    None
}
