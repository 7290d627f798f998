//! Square blocks of a matrix, transposed in registers.

use pulp::Simd;

/// The most numbers of a vector.
pub(super) const MOST: usize = 16;

/// The transpose of a block whose rows are the first vectors, as many as a vector has numbers; the
/// others stay as they are.
#[inline(always)]
pub(super) fn transpose<S: Simd>(simd: S, rows: [S::f32s; MOST]) -> [S::f32s; MOST] {
    match S::F32_LANES {
        16 => square::<S, 16>(simd, rows),
        8 => square::<S, 8>(simd, rows),
        4 => square::<S, 4>(simd, rows),
        1 => rows,
        lanes => unreachable!("no machine has vectors of {lanes} numbers"),
    }
}

/// The same, of `N` rows.
///
/// A number in row i and column j goes along its row to column i + j, then along that column to row −j,
/// and along that row to column i, all modulo N. The first and the last move turn a whole row; the one
/// between moves each column by its own index, in powers of two.
#[inline(always)]
fn square<S: Simd, const N: usize>(simd: S, mut rows: [S::f32s; MOST]) -> [S::f32s; MOST] {
    for (index, row) in rows.iter_mut().enumerate().take(N) {
        *row = simd.rotate_right_f32s(*row, index);
    }
    let rows = lift::<S, N, 1>(simd, rows);
    let rows = lift::<S, N, 2>(simd, rows);
    let rows = lift::<S, N, 4>(simd, rows);
    let rows = lift::<S, N, 8>(simd, rows);
    let mut turned = rows;
    for (index, row) in turned.iter_mut().enumerate().take(N) {
        *row = simd.rotate_left_f32s(rows[(N - index) % N], index);
    }
    turned
}

/// Moves the columns whose index has this bit up by so many of `N` rows.
#[inline(always)]
fn lift<S: Simd, const N: usize, const BIT: usize>(
    simd: S,
    rows: [S::f32s; MOST],
) -> [S::f32s; MOST] {
    if BIT >= N {
        return rows;
    }
    const INDICES: [u32; MOST] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let (bit, zero) = (simd.splat_u32s(BIT as u32), simd.splat_u32s(0));
    let (indices, _) = S::as_simd_u32s(&INDICES[..N]);
    let moves = simd.greater_than_u32s(simd.and_u32s(indices[0], bit), zero);
    let mut lifted = rows;
    for (index, row) in lifted.iter_mut().enumerate().take(N) {
        *row = simd.select_f32s(moves, rows[(index + BIT) % N], *row);
    }
    lifted
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::kernels::on_every_machine;

    struct Transpose(Vec<f32>);

    impl WithSimd for Transpose {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let width = S::F32_LANES;
            let mut rows = [simd.splat_f32s(0.0); MOST];
            for (to, from) in rows.iter_mut().zip(self.0.chunks(MOST)).take(width) {
                *to = simd.partial_load_f32s(&from[..width]);
            }
            let rows = transpose(simd, rows);
            let mut result = vec![0.0; width * width];
            for (to, from) in result.chunks_exact_mut(width).zip(rows) {
                simd.partial_store_f32s(to, from);
            }
            result
        }
    }

    #[test]
    fn rows_become_columns() {
        let matrix: Vec<f32> = (0..MOST * MOST).map(|number| number as f32).collect();
        let fours = ("four at a time", Transpose(matrix.clone()).with_simd(pulp::Scalar128b));
        let machines = on_every_machine(|| Transpose(matrix.clone()));
        for (machine, got) in machines.into_iter().chain([fours]) {
            let width = got.len().isqrt();
            for (index, got) in got.iter().enumerate() {
                let expected = matrix[index % width * MOST + index / width];
                assert_eq!(*got, expected, "{machine}: {index} of {width}");
            }
        }
    }
}
