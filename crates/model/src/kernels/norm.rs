//! The sum of squares.

use pulp::{Arch, Simd, WithSimd};

use super::parallel::{for_each, piece_length};

/// Numbers whose squares are added up in single precision; what comes of them, in double.
const PIECE: usize = 4096;

/// What a number is worth in elementary operations: it waits for the memory.
const WORK: usize = 8;

/// The sum of the squares. Its bits do not depend on the number of threads.
pub(crate) fn sum_of_squares(numbers: &[f32]) -> f32 {
    let (arch, work) = (Arch::new(), WORK * numbers.len());
    let length = piece_length(numbers.len(), work).next_multiple_of(PIECE);
    let sums = for_each(numbers.chunks(length).collect(), work, |numbers: &[f32]| {
        let pieces = numbers.chunks(PIECE).map(|piece| f64::from(arch.dispatch(Sum(piece))));
        pieces.collect::<Vec<f64>>()
    });
    sums.into_iter().flatten().sum::<f64>() as f32
}

struct Sum<'a>(&'a [f32]);

impl WithSimd for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (vectors, tail) = S::as_simd_f32s(self.0);
        // Four sums, so that none waits for itself.
        let mut sums = [simd.splat_f32s(0.0); 4];
        let (fours, rest) = vectors.as_chunks::<4>();
        for four in fours {
            for (sum, &x) in sums.iter_mut().zip(four) {
                *sum = simd.mul_add_e_f32s(x, x, *sum);
            }
        }
        let last = simd.partial_load_f32s(tail);
        for (sum, &x) in sums.iter_mut().zip(rest.iter().chain([&last])) {
            *sum = simd.mul_add_e_f32s(x, x, *sum);
        }
        let [a, b, c, d] = sums;
        simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_plain_sum() {
        for count in [0, 1, 15, 16, 63, 64, 65, 4095, 4096, 10_000] {
            let numbers: Vec<f32> = (0..count).map(|k| (k as f32 * 0.37).sin()).collect();
            let expected: f64 = numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let got = f64::from(sum_of_squares(&numbers));
            assert!((got - expected).abs() <= 1e-5 * expected, "{count}: {got}, not {expected}");
        }
        assert!(sum_of_squares(&[1.0, f32::NAN]).is_nan());
        assert_eq!(sum_of_squares(&[f32::INFINITY; 70]), f32::INFINITY);
    }
}
