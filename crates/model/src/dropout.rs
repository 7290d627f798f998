//! Dropout with masks drawn on the host from an explicit seed.

use burn::tensor::{Tensor, TensorData};

use crate::Seed;
use crate::kernels::mask;

/// Zeroes each element with probability `rate` and scales the others by 1 / (1 − rate), so that
/// the expectation stays (Srivastava et al. 2014, <https://jmlr.org/papers/v15/srivastava14a.html>).
pub(crate) fn dropout<const D: usize>(input: Tensor<D>, rate: f64, seed: Seed) -> Tensor<D> {
    let shape = input.dims();
    masked(input, shape, rate, seed)
}

/// As [`dropout`] over a sequence `[T, B, D]`, time first; if `locked`, the same elements of a lane
/// are dropped at every step (Gal and Ghahramani 2016, <https://arxiv.org/abs/1512.05287>).
pub(crate) fn dropout_sequence(input: Tensor<3>, rate: f64, locked: bool, seed: Seed) -> Tensor<3> {
    let [steps, batch, width] = input.dims();
    masked(input, [if locked { 1 } else { steps }, batch, width], rate, seed)
}

/// Zeroes whole rows, as [`dropout`] does elements: tokens of an embedding (Gal and Ghahramani 2016,
/// Merity et al. 2018, <https://arxiv.org/abs/1708.02182>).
pub(crate) fn dropout_rows(input: Tensor<2>, rate: f64, seed: Seed) -> Tensor<2> {
    let [rows, _] = input.dims();
    masked(input, [rows, 1], rate, seed)
}

/// The input times a mask that is broadcast to it.
fn masked<const D: usize>(input: Tensor<D>, shape: [usize; D], rate: f64, seed: Seed) -> Tensor<D> {
    if rate == 0.0 {
        return input;
    }
    let mask = mask::draw(shape.iter().product(), rate, seed.value());
    let mask = Tensor::from_data(TensorData::new(mask, shape), &input.device());
    input * mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn a_locked_mask_is_the_same_at_every_step_and_rows_go_whole() {
        #[cfg(feature = "ndarray")]
        let device = crate::devices::ndarray();
        #[cfg(not(feature = "ndarray"))]
        let device = crate::devices::flex();
        let ones = Tensor::<3>::ones([5, 4, 30], &device);
        let values = |tensor: Tensor<3>| tensor.into_data().try_into_vec::<f32>().expect("f32");
        let locked = values(dropout_sequence(ones.clone(), 0.5, true, Seed::new(1)));
        assert!(locked.chunks(120).all(|step| *step == locked[..120]));
        assert!(locked[..30] != locked[30..60], "every lane has its own");
        let free = values(dropout_sequence(ones, 0.5, false, Seed::new(1)));
        assert!(free.chunks(120).any(|step| *step != free[..120]));

        let table = Tensor::<2>::ones([40, 6], &device);
        let rows = dropout_rows(table, 0.5, Seed::new(1)).into_data();
        let rows = rows.try_into_vec::<f32>().expect("f32");
        assert!(rows.chunks(6).all(|row| row.iter().all(|value| *value == row[0])));
        assert!(rows.contains(&0.0) && rows.contains(&2.0));
    }
}
