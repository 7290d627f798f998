//! The device a command runs on. Backends are chosen here and in the cargo features, nowhere else.

use std::fmt;
use std::str::FromStr;

pub use burn::tensor::Device;
#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::tensor::{DeviceType, Devices};
use thiserror::Error;

/// A backend of Burn's, named like the cargo feature that compiles it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// NVIDIA GPUs through CUDA.
    Cuda,
    /// Apple GPUs through Metal's own shading language.
    Metal,
    /// GPUs through Vulkan and SPIR-V.
    Vulkan,
    /// Any GPU through wgpu and WGSL.
    Wgpu,
    /// The CPU, Burn's ndarray backend.
    NdArray,
    /// The CPU, Burn's flex backend.
    Flex,
}

/// A backend and, for a GPU, which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceChoice {
    /// The backend.
    pub backend: Backend,
    /// The index among the backend's devices; the backend's own choice where `None`.
    pub index: Option<usize>,
}

/// A device that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// Not a backend's name.
    #[error("--device {0}: expected one of {names}, and for a GPU an index, as in wgpu:1",
        names = Backend::ALL.map(Backend::name).join(", "))]
    UnknownName(String),
    /// A backend that this build does not have.
    #[error(
        "--device {0}: this program was built without that backend; build it with \
         --features {0}. It has: {has}", has = compiled_in()
    )]
    NotCompiledIn(Backend),
    /// No backend at all.
    #[error("this program was built without any backend; build it with --features ndarray")]
    NoBackend,
    /// A GPU backend that finds no GPU.
    #[error(
        "no {0} device found; install the GPU's driver (on Debian, mesa-vulkan-drivers and \
         libvulkan1 give a software one), or name another with --device: {has}",
        has = compiled_in()
    )]
    NoAdapter(Backend),
    /// An index past the last device.
    #[error("--device {name}:{index}: the last of {name}'s devices is {name}:{last}",
        last = count - 1)]
    NoSuchIndex {
        /// The backend.
        name: Backend,
        /// The index asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
}

impl Backend {
    /// All of them, the one preferred first.
    const ALL: [Self; 6] =
        [Self::Cuda, Self::Metal, Self::Vulkan, Self::Wgpu, Self::NdArray, Self::Flex];

    /// The name on the command line, in summaries and of the cargo feature.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
            Self::NdArray => "ndarray",
            Self::Flex => "flex",
        }
    }

    /// Those that this build has, the one preferred first.
    pub fn compiled_in() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|backend| backend.is_compiled_in())
    }

    /// Whether this build has it.
    pub const fn is_compiled_in(self) -> bool {
        match self {
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::NdArray => cfg!(feature = "ndarray"),
            Self::Flex => cfg!(feature = "flex"),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{}:{index}", self.backend),
            None => write!(f, "{}", self.backend),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::UnknownName(text.to_owned());
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index.parse().map_err(|_| unknown())?)),
            None => (text, None),
        };
        let backend = Backend::ALL.into_iter().find(|backend| backend.name() == name);
        Ok(Self { backend: backend.ok_or_else(unknown)?, index })
    }
}

impl DeviceChoice {
    /// The first backend compiled in, in the order of [`Backend`]: a GPU wins over the CPU.
    ///
    /// # Errors
    ///
    /// Where none is.
    pub fn preferred() -> Result<Self, DeviceError> {
        let backend = Backend::compiled_in().next();
        Ok(Self { backend: backend.ok_or(DeviceError::NoBackend)?, index: None })
    }

    /// All devices of a backend, each with the choice that opens it.
    ///
    /// # Errors
    ///
    /// Where the backend is not compiled in, or finds no device.
    pub fn all(backend: Backend) -> Result<Vec<(Self, Device)>, DeviceError> {
        let any = Self { backend, index: None };
        if matches!(backend, Backend::NdArray | Backend::Flex) {
            return Ok(vec![(any, any.open()?)]);
        }
        let mut devices = Vec::new();
        for index in 0.. {
            let choice = Self { backend, index: Some(index) };
            match choice.open() {
                Ok(device) => devices.push((choice, device)),
                Err(DeviceError::NoSuchIndex { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(devices)
    }

    /// Opens the device.
    ///
    /// # Errors
    ///
    /// Where the backend is not compiled in, or has no such device.
    pub fn open(self) -> Result<Device, DeviceError> {
        let Self { backend, .. } = self;
        match backend {
            #[cfg(feature = "ndarray")]
            Backend::NdArray => self.only(poquelin_model::devices::ndarray()),
            #[cfg(feature = "flex")]
            Backend::Flex => self.only(poquelin_model::devices::flex()),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu => self.gpu(Device::enumerate(DeviceType::Wgpu), || {
                Device::wgpu(DeviceKind::DefaultDevice)
            }),
            #[cfg(feature = "vulkan")]
            Backend::Vulkan => self.gpu(Device::enumerate(DeviceType::Vulkan), || {
                Device::vulkan(DeviceKind::DefaultDevice)
            }),
            #[cfg(feature = "metal")]
            Backend::Metal => self.gpu(Device::enumerate(DeviceType::Metal), || {
                Device::metal(DeviceKind::DefaultDevice)
            }),
            #[cfg(feature = "cuda")]
            Backend::Cuda => self.gpu(Device::enumerate(DeviceType::Cuda), || Device::cuda(0)),
            #[cfg(not(all(
                feature = "ndarray",
                feature = "flex",
                feature = "vulkan",
                feature = "metal",
                feature = "cuda"
            )))]
            _ => Err(DeviceError::NotCompiledIn(backend)),
        }
    }

    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn only(self, device: Device) -> Result<Device, DeviceError> {
        match self.index {
            None | Some(0) => Ok(device),
            Some(index) => Err(self.no_such_index(index, 1)),
        }
    }

    #[cfg(any(feature = "wgpu", feature = "cuda"))]
    fn gpu(self, devices: Devices, best: impl FnOnce() -> Device) -> Result<Device, DeviceError> {
        let devices = devices.into_vec();
        match self.index {
            _ if devices.is_empty() => Err(DeviceError::NoAdapter(self.backend)),
            None => Ok(best()),
            Some(index) => {
                let missing = || self.no_such_index(index, devices.len());
                devices.get(index).cloned().ok_or_else(missing)
            }
        }
    }

    fn no_such_index(self, index: usize, count: usize) -> DeviceError {
        DeviceError::NoSuchIndex { name: self.backend, index, count }
    }
}

/// The names of the backends that this build has.
fn compiled_in() -> String {
    Backend::compiled_in().map(Backend::name).collect::<Vec<_>>().join(", ")
}
