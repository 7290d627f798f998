//! Sums of outer products: what rows contribute to the gradient of a weight.
//!
//! Both factors are read where they lie. Their rows are far too many to be packed for nothing, and
//! a tile reads so little of each that the second-level cache keeps up with the multipliers.

use pulp::{Simd, WithSimd};

use super::cell::{load, store};
use super::rows::Rows;

/// `to += leftᵀ × right`, for `left` `[K, M]`, `right` `[K, N]` and `to` `[M, N]`: the sum of K
/// outer products, in the order of the rows.
///
/// # Panics
///
/// Where the two are not grouped alike.
#[inline(always)]
pub(super) fn add_outer<S: Simd>(simd: S, left: Rows<'_>, right: Rows<'_>, to: &mut [f32]) {
    assert_eq!(left.group(), right.group(), "rows in groups of their own");
    let columns = right.width();
    let mut first = 0;
    while first < columns {
        first += match columns - first {
            rest if rest >= 2 * S::F32_LANES => {
                add_column::<S, 2>(simd, left, right, first, 2 * S::F32_LANES, to)
            }
            rest => add_column::<S, 1>(simd, left, right, first, rest.min(S::F32_LANES), to),
        };
    }
}

/// Adds `width` columns of the result, which `WIDE` vectors hold; returns how many.
#[inline(always)]
fn add_column<S: Simd, const WIDE: usize>(
    simd: S,
    left: Rows<'_>,
    right: Rows<'_>,
    first: usize,
    width: usize,
    to: &mut [f32],
) -> usize {
    let mut row = 0;
    while row < left.width() {
        let to = &mut to[row * right.width()..];
        row += match left.width() - row {
            8.. if S::REGISTER_COUNT >= 32 => {
                add_tile::<S, 8, WIDE>(simd, left, right, [row, first, width], to)
            }
            4.. => add_tile::<S, 4, WIDE>(simd, left, right, [row, first, width], to),
            2.. => add_tile::<S, 2, WIDE>(simd, left, right, [row, first, width], to),
            _ => add_tile::<S, 1, WIDE>(simd, left, right, [row, first, width], to),
        };
    }
    width
}

/// Adds a tile of the result; returns how many rows it has.
#[inline(always)]
fn add_tile<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    left: Rows<'_>,
    right: Rows<'_>,
    [row, first, width]: [usize; 3],
    to: &mut [f32],
) -> usize {
    simd.vectorize(OuterTile::<HIGH, WIDE> { left, right, row, first, width, to });
    HIGH
}

/// `HIGH` rows of the result from `row` on, `WIDE` vectors of each: `width` columns from `first` on.
///
/// A function of its own for the compiler: in a large one it keeps the sums in memory.
struct OuterTile<'a, const HIGH: usize, const WIDE: usize> {
    left: Rows<'a>,
    right: Rows<'a>,
    row: usize,
    first: usize,
    width: usize,
    to: &'a mut [f32],
}

impl<const HIGH: usize, const WIDE: usize> WithSimd for OuterTile<'_, HIGH, WIDE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { left, right, row, first, width, to } = self;
        let mut sums = [[simd.splat_f32s(0.0); WIDE]; HIGH];
        let (from_left, from_right) = (left.first() + row, right.first() + first);
        for (left, right) in left.groups().zip(right.groups()) {
            for (left, right) in left.zip(right) {
                let right = &right[from_right..][..width];
                let mut vectors = [simd.splat_f32s(0.0); WIDE];
                if WIDE == 1 {
                    vectors[0] = load(simd, right);
                } else {
                    vectors.copy_from_slice(&S::as_simd_f32s(right).0[..WIDE]);
                }
                for (sums, &factor) in sums.iter_mut().zip(&left[from_left..][..HIGH]) {
                    let factor = simd.splat_f32s(factor);
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = simd.mul_add_e_f32s(factor, vector, *sum);
                    }
                }
            }
        }
        for (sums, to) in sums.iter().zip(to.chunks_mut(right.width())) {
            let to = &mut to[first..][..width];
            for (sum, to) in sums.iter().zip(to.chunks_mut(S::F32_LANES)) {
                let sum = simd.add_f32s(*sum, load(simd, to));
                store(simd, to, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::on_every_machine;
    use crate::kernels::parallel::Piece;

    struct AddOuter<'a>(Rows<'a>, Rows<'a>, &'a [f32]);

    impl WithSimd for AddOuter<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut to = self.2.to_vec();
            add_outer(simd, self.0, self.1, &mut to);
            to
        }
    }

    #[test]
    fn outer_products_of_some_lanes_and_columns_are_the_naive_ones() {
        let number = |k: usize| (k as f32 * 0.37 + 0.1).sin();
        let (steps, batch, lanes) = (3, 5, Piece { start: 1, length: 3 });
        for (m, n) in [1, 2, 5, 8, 21].into_iter().flat_map(|m| [1, 15, 32, 76].map(|n| (m, n))) {
            // Columns to either side that do not belong to the factors.
            let (wide_m, wide_n) = (m + 3, n + 2);
            let left: Vec<f32> = (0..steps * batch * wide_m).map(number).collect();
            let right: Vec<f32> = (0..steps * batch * wide_n).map(|k| number(k + 5)).collect();
            let start: Vec<f32> = (0..m * n).map(|k| number(k + 9)).collect();
            let rows = |numbers, wide, length| {
                Rows::of_lanes(numbers, wide, batch, lanes).columns(Piece { start: 1, length })
            };
            let mut expected: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
            for row in (0..steps).flat_map(|step| (1..4).map(move |lane| step * batch + lane)) {
                for (index, sum) in expected.iter_mut().enumerate() {
                    let left = left[row * wide_m + 1 + index / n];
                    *sum += f64::from(left) * f64::from(right[row * wide_n + 1 + index % n]);
                }
            }
            let (left, right) = (rows(&left, wide_m, m), rows(&right, wide_n, n));
            for (machine, got) in on_every_machine(|| AddOuter(left, right, &start)) {
                for (&got, expected) in got.iter().zip(&expected) {
                    assert!((f64::from(got) - expected).abs() < 1e-5, "{machine}: {m} {n}");
                }
            }
        }
    }
}
