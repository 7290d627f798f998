use burn::tensor::{Device, Tensor, TensorData};

/// Every device of this build, by name.
pub fn devices() -> Vec<(&'static str, Device)> {
    let devices: Vec<_> = [ndarray(), flex(), wgpu(), cuda()].into_iter().flatten().collect();
    assert!(!devices.is_empty(), "no backend is compiled in");
    devices
}

fn ndarray() -> Option<(&'static str, Device)> {
    #[cfg(feature = "ndarray")]
    return Some(("ndarray", poquelin_model::devices::ndarray()));
    #[cfg(not(feature = "ndarray"))]
    None
}

fn flex() -> Option<(&'static str, Device)> {
    #[cfg(feature = "flex")]
    return Some(("flex", poquelin_model::devices::flex()));
    #[cfg(not(feature = "flex"))]
    None
}

fn wgpu() -> Option<(&'static str, Device)> {
    #[cfg(feature = "wgpu")]
    match Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec().into_iter().next() {
        Some(device) => return Some(("wgpu", device)),
        None => eprintln!("SKIPPED: the wgpu tests, for no adapter exists"),
    }
    None
}

fn cuda() -> Option<(&'static str, Device)> {
    #[cfg(feature = "cuda")]
    match Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec().into_iter().next() {
        Some(device) => return Some(("cuda", device)),
        None => eprintln!("SKIPPED: the cuda tests, for no such GPU is here"),
    }
    None
}

/// The numbers of a tensor.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// A tensor of these numbers.
pub fn tensor<const D: usize>(numbers: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers, shape), device)
}

/// `scale * cos(k * (1 + n / 7) + n)` for k below `count`: test numbers without a generator.
pub fn cosines(n: usize, count: usize, scale: f64) -> Vec<f32> {
    let n = n as f64;
    (0..count).map(|k| (scale * (k as f64 * (1.0 + n / 7.0) + n).cos()) as f32).collect()
}

/// The largest difference, relative to the largest number expected.
pub fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len(), "the number of values");
    let largest = |numbers: &mut dyn Iterator<Item = f64>| numbers.fold(0.0, f64::max);
    let difference = largest(&mut got.iter().zip(expected).map(|(a, b)| f64::from(a - b).abs()));
    let both = got.iter().chain(expected);
    assert!(both.into_iter().all(|value| value.is_finite()), "not every value is finite");
    difference / largest(&mut expected.iter().map(|value| f64::from(value.abs()))).max(1e-30)
}

/// Whether the device of this name is a GPU, or what plays one.
pub fn is_gpu(name: &str) -> bool {
    ["wgpu", "cuda"].contains(&name)
}

/// The devices of the CPU.
pub fn cpus() -> impl Iterator<Item = (&'static str, Device)> {
    // Where there is a GPU, its kernels have tests of their own: software is slow at the sizes here.
    devices().into_iter().filter(|(name, _)| !is_gpu(name))
}

/// The GPUs, and what plays one.
pub fn gpus() -> impl Iterator<Item = (&'static str, Device)> {
    devices().into_iter().filter(|(name, _)| is_gpu(name))
}

/// What comes out with so many threads.
pub fn with_threads<R: Send>(threads: usize, run: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
}
