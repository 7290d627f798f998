//! The recurrent matrix product: a few rows times a packed matrix, added to what is there.

use pulp::Simd;

/// Columns of a panel.
const WIDTH: usize = 32;

/// A matrix `[rows, columns]`, cut into panels of [`WIDTH`] columns whose rows lie one behind the
/// other, so that the product streams through memory. The last panel is filled up with zeros.
pub(super) struct Packed {
    panels: Vec<[f32; WIDTH]>,
    rows: usize,
    columns: usize,
}

impl Packed {
    /// Packs a row-major matrix.
    pub(super) fn new(matrix: &[f32], rows: usize, columns: usize) -> Self {
        Self::gather(rows, columns, |row, column| matrix[row * columns + column])
    }

    /// Packs the transpose of a row-major matrix `[columns, rows]`.
    pub(super) fn transposed(matrix: &[f32], rows: usize, columns: usize) -> Self {
        Self::gather(rows, columns, |row, column| matrix[column * rows + row])
    }

    fn gather(rows: usize, columns: usize, element: impl Fn(usize, usize) -> f32) -> Self {
        let mut panels = Vec::with_capacity(columns.div_ceil(WIDTH) * rows);
        for first in (0..columns).step_by(WIDTH) {
            for row in 0..rows {
                panels.push(std::array::from_fn(|offset| match first + offset {
                    column if column < columns => element(row, column),
                    _ => 0.0,
                }));
            }
        }
        Self { panels, rows, columns }
    }

    /// `to += from × self`, for `from` `[N, rows]` and `to` `[N, columns]`.
    ///
    /// Rows go together as far as the registers hold their sums.
    #[inline(always)]
    pub(super) fn add_product<S: Simd>(&self, simd: S, from: &[f32], to: &mut [f32]) {
        let (from, to) = match S::REGISTER_COUNT {
            32.. => self.add_blocks::<S, 8>(simd, from, to),
            _ => (from, to),
        };
        let (from, to) = self.add_blocks::<S, 4>(simd, from, to);
        let (from, to) = self.add_blocks::<S, 2>(simd, from, to);
        self.add_blocks::<S, 1>(simd, from, to);
    }

    /// Adds the product of as many rows as `ROWS` divides; returns the others.
    #[inline(always)]
    fn add_blocks<'a, S: Simd, const ROWS: usize>(
        &self,
        simd: S,
        from: &'a [f32],
        to: &'a mut [f32],
    ) -> (&'a [f32], &'a mut [f32]) {
        let mut from = from.chunks_exact(ROWS * self.rows);
        let mut to = to.chunks_exact_mut(ROWS * self.columns);
        for (from, to) in (&mut from).zip(&mut to) {
            self.add_rows::<S, ROWS>(simd, from, to);
        }
        (from.remainder(), to.into_remainder())
    }

    /// Adds the product of `ROWS` rows.
    #[inline(always)]
    fn add_rows<S: Simd, const ROWS: usize>(&self, simd: S, from: &[f32], to: &mut [f32]) {
        let (k, n) = (self.rows, self.columns);
        let from: [&[f32]; ROWS] = std::array::from_fn(|row| &from[row * k..][..k]);
        for (index, panel) in self.panels.chunks_exact(k).enumerate() {
            // Two vectors of a panel at a time.
            for part in (0..WIDTH).step_by(2 * S::F32_LANES) {
                let first = index * WIDTH + part;
                if first >= n {
                    break;
                }
                let sums = match ROWS {
                    // Too few sums to keep the pipelines busy: four of each, by depth.
                    1 | 2 => self.sums::<S, ROWS, 4>(simd, from, panel, part),
                    _ => self.sums::<S, ROWS, 1>(simd, from, panel, part),
                };
                for (row, sums) in sums.into_iter().enumerate() {
                    let to = &mut to[row * n..][..n][first..];
                    for (to, sum) in to.chunks_mut(S::F32_LANES).zip(sums) {
                        let sum = simd.add_f32s(simd.partial_load_f32s(to), sum);
                        simd.partial_store_f32s(to, sum);
                    }
                }
            }
        }
    }

    /// The product of `ROWS` rows with two vectors of a panel, in `DEEP` sums each.
    #[inline(always)]
    fn sums<S: Simd, const ROWS: usize, const DEEP: usize>(
        &self,
        simd: S,
        from: [&[f32]; ROWS],
        panel: &[[f32; WIDTH]],
        part: usize,
    ) -> [[S::f32s; 2]; ROWS] {
        let zero = simd.splat_f32s(0.0);
        let mut sums = [[[zero; 2]; ROWS]; DEEP];
        let whole = panel.len() / DEEP * DEEP;
        for depth in (0..whole).step_by(DEEP) {
            for (offset, sums) in sums.iter_mut().enumerate() {
                add_depth(simd, sums, from, panel, part, depth + offset);
            }
        }
        for depth in whole..panel.len() {
            add_depth(simd, &mut sums[0], from, panel, part, depth);
        }
        let mut total = sums[0];
        for other in &sums[1..] {
            for (total, other) in total.iter_mut().flatten().zip(other.iter().flatten()) {
                *total = simd.add_f32s(*total, *other);
            }
        }
        total
    }
}

/// Adds what one row of a panel contributes. A function and not a closure, which the compiler
/// may decide to leave out of the code compiled for an instruction set.
#[inline(always)]
fn add_depth<S: Simd, const ROWS: usize>(
    simd: S,
    sums: &mut [[S::f32s; 2]; ROWS],
    from: [&[f32]; ROWS],
    panel: &[[f32; WIDTH]],
    part: usize,
    depth: usize,
) {
    let (weights, _) = S::as_simd_f32s(&panel[depth][part..]);
    let weights = [weights[0], weights[1]];
    for (sums, from) in sums.iter_mut().zip(from) {
        let factor = simd.splat_f32s(from[depth]);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = simd.mul_add_e_f32s(factor, weight, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Scalar, WithSimd};

    use super::*;

    struct AddProduct<'a>(&'a Packed, &'a [f32], &'a mut [f32]);

    impl WithSimd for AddProduct<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            self.0.add_product(simd, self.1, self.2);
        }
    }

    fn number(k: usize) -> f32 {
        (k as f32 * 0.37 + 0.1).sin()
    }

    fn naive(from: &[f32], matrix: &[f32], start: &[f32], [n, k, m]: [usize; 3]) -> Vec<f32> {
        let mut to = start.to_vec();
        for (row, column, depth) in
            (0..n).flat_map(|row| (0..m).flat_map(move |c| (0..k).map(move |d| (row, c, d))))
        {
            to[row * m + column] += from[row * k + depth] * matrix[depth * m + column];
        }
        to
    }

    #[test]
    fn products_of_awkward_shapes_are_the_naive_ones() {
        for n in [1, 2, 3, 4, 7, 8, 15] {
            for k in [1, 3, 31, 64] {
                for m in [1, 4, 31, 32, 33, 100] {
                    let from: Vec<f32> = (0..n * k).map(number).collect();
                    let matrix: Vec<f32> = (0..k * m).map(|i| number(i + 5)).collect();
                    let flipped: Vec<f32> =
                        (0..k * m).map(|i| matrix[(i % k) * m + i / k]).collect();
                    let start: Vec<f32> = (0..n * m).map(|i| number(i + 9)).collect();
                    let expected = naive(&from, &matrix, &start, [n, k, m]);
                    for packed in [Packed::new(&matrix, k, m), Packed::transposed(&flipped, k, m)] {
                        let (mut best, mut plain) = (start.clone(), start.clone());
                        Arch::new().dispatch(AddProduct(&packed, &from, &mut best));
                        AddProduct(&packed, &from, &mut plain).with_simd(Scalar::new());
                        for (got, expected) in
                            best.iter().zip(&expected).chain(plain.iter().zip(&expected))
                        {
                            assert!((got - expected).abs() < 1e-4, "{n} {k} {m}");
                        }
                    }
                }
            }
        }
    }
}
