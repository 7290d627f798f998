//! Square blocks of a matrix, transposed in registers.

use pulp::Simd;

/// The most numbers of a vector.
pub(super) const MOST: usize = 16;

/// The transpose of a block whose rows are the first vectors, as many as a vector has numbers; the
/// others stay as they are.
///
/// A number in row i and column j goes along its row to column i + j, then along that column to row −j,
/// and along that row to column i, all modulo the width. The first and the last move turn a whole
/// row; the one between moves each column by its own index, in powers of two.
#[inline(always)]
pub(super) fn transpose<S: Simd>(simd: S, rows: &mut [S::f32s; MOST]) {
    let width = S::F32_LANES;
    let mut indices = [0; MOST];
    indices.iter_mut().enumerate().for_each(|(lane, index)| *index = lane as u32);
    let lanes = simd.partial_load_u32s(&indices[..width]);
    for (index, row) in rows[..width].iter_mut().enumerate() {
        *row = simd.rotate_right_f32s(*row, index);
    }
    let mut distance = 1;
    while distance < width {
        let bit = simd.and_u32s(lanes, simd.splat_u32s(distance as u32));
        let moves = simd.greater_than_u32s(bit, simd.splat_u32s(0));
        let before = *rows;
        for index in 0..width {
            let from = before[(index + distance) % width];
            rows[index] = simd.select_f32s(moves, from, before[index]);
        }
        distance *= 2;
    }
    let before = *rows;
    for (index, row) in rows[..width].iter_mut().enumerate() {
        *row = simd.rotate_left_f32s(before[(width - index) % width], index);
    }
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
            transpose(simd, &mut rows);
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
        for (machine, got) in on_every_machine(|| Transpose(matrix.clone())) {
            let width = got.len().isqrt();
            for (index, got) in got.iter().enumerate() {
                let expected = matrix[index % width * MOST + index / width];
                assert_eq!(*got, expected, "{machine}: {index} of {width}");
            }
        }
    }
}
