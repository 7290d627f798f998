//! Dropout with masks drawn on the host from an explicit seed.

use burn::tensor::{Tensor, TensorData};
use rand::Rng;

use crate::Seed;

/// Zeroes each element with probability `rate` and scales the others by 1 / (1 − rate), so that
/// the expectation stays (Srivastava et al. 2014, <https://jmlr.org/papers/v15/srivastava14a.html>).
pub(crate) fn dropout<const D: usize>(input: Tensor<D>, rate: f64, seed: Seed) -> Tensor<D> {
    if rate == 0.0 {
        return input;
    }
    let shape = input.shape();
    let mask = mask(shape.num_elements(), rate, seed);
    let mask = Tensor::from_data(TensorData::new(mask, shape), &input.device());
    input * mask
}

fn mask(count: usize, rate: f64, seed: Seed) -> Vec<f32> {
    let mut generator = seed.generator();
    let kept = (1.0 / (1.0 - rate)) as f32;
    let threshold = (rate * (u64::from(u32::MAX) + 1) as f64) as u64;
    (0..count)
        .map(|_| if u64::from(generator.next_u32()) < threshold { 0.0 } else { kept })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_its_share_and_the_expectation() {
        let mask = mask(100_000, 0.3, Seed::new(1));
        let dropped = mask.iter().filter(|&&value| value == 0.0).count() as f64 / 1e5;
        assert!((dropped - 0.3).abs() < 0.01, "dropped {dropped}");
        let mean = mask.iter().map(|&value| f64::from(value)).sum::<f64>() / 1e5;
        assert!((mean - 1.0).abs() < 0.01, "mean {mean}");
    }
}
