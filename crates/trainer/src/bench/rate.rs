//! The machine's own rate of matrix products, as a yardstick.

use std::hint::black_box;

use burn::tensor::{Device, Tensor};
use poquelin_model::linear;

use super::{is_card, median_time, wait_for};

/// Floating-point operations per second of one large product on the device.
pub fn gemm_rate(device: &Device) -> f64 {
    let width = if is_card(device) { 4096 } else { 1024 };
    let matrix = Tensor::<2>::ones([width, width], device) * 0.5;
    let bias = Tensor::<1>::zeros([width], device);
    let time = median_time(device, || {
        black_box(linear(matrix.clone(), matrix.clone(), bias.clone()));
        wait_for(device);
    });
    2.0 * (width as f64).powi(3) / time.as_secs_f64()
}
