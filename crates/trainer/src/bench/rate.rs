//! The machine's own rate of matrix products, as a yardstick.

use burn::tensor::{Device, Tensor};
use poquelin_model::linear;

use super::{median_time, read};

/// Floating-point operations per second of one large product on the device.
pub fn gemm_rate(device: &Device) -> f64 {
    const WIDTH: usize = 1024;
    let matrix = Tensor::<2>::ones([WIDTH, WIDTH], device) * 0.5;
    let bias = Tensor::<1>::zeros([WIDTH], device);
    let time = median_time(|| {
        let product = linear(matrix.clone(), matrix.clone(), bias.clone());
        read(product.narrow(0, 0, 1).narrow(1, 0, 1).reshape([1]));
    });
    2.0 * (WIDTH * WIDTH * WIDTH) as f64 / time.as_secs_f64()
}
