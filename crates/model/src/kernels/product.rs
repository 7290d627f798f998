//! Matrix products with a packed right factor, in the manner of Goto and van de Geijn 2008
//! (<https://doi.org/10.1145/1356052.1356053>).
//!
//! The right factor lies in panels of [`WIDTH`] columns, the left one in blocks of a few rows
//! whose numbers alternate; a tile of the result stays in registers while both stream by.

use pulp::Simd;

/// Columns of a panel.
const WIDTH: usize = 32;
/// How deep a panel and a block go before the sums are put down.
pub(super) const DEPTH: usize = 512;
/// Rows that are packed side by side: few enough that a small cache keeps a line of each, even
/// where they lie a power of two apart.
const STREAMS: usize = 8;
/// Rows whose blocks lie in the cache while all panels pass.
const ROWS: usize = 128;

/// A matrix `[rows, columns]` in panels, whose rows lie one behind the other. The last panel is
/// filled up with zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed {
    panels: Vec<[f32; WIDTH]>,
    rows: usize,
    columns: usize,
}

impl Packed {
    /// Packs a row-major matrix of so many columns.
    pub(super) fn new(matrix: &[f32], columns: usize) -> Self {
        let mut packed = Self::default();
        packed.pack(matrix, columns);
        packed
    }

    /// Packs the transpose of a row-major matrix of so many columns.
    pub(super) fn transposed(matrix: &[f32], columns: usize) -> Self {
        let mut packed = Self::default();
        packed.pack_transposed(matrix, columns, columns);
        packed
    }

    /// As [`new`](Self::new), in the place of what was there.
    pub(super) fn pack(&mut self, matrix: &[f32], columns: usize) {
        self.pack_part(matrix, columns, columns);
    }

    /// As [`pack`](Self::pack), of rows that lie `stride` apart: their first `columns`.
    pub(super) fn pack_part(&mut self, matrix: &[f32], stride: usize, columns: usize) {
        let rows = matrix.len().div_ceil(stride);
        self.begin(rows, columns);
        for (index, from) in matrix.chunks(STREAMS * stride).enumerate() {
            for (panel, first) in
                self.panels.chunks_exact_mut(rows).zip((0..columns).step_by(WIDTH))
            {
                let width = WIDTH.min(columns - first);
                for (to, from) in panel[index * STREAMS..].iter_mut().zip(from.chunks(stride)) {
                    to[..width].copy_from_slice(&from[first..][..width]);
                }
            }
        }
    }

    /// As [`transposed`](Self::transposed), in the place of what was there: the first `depths`
    /// columns of rows that lie `stride` apart.
    pub(super) fn pack_transposed(&mut self, matrix: &[f32], stride: usize, depths: usize) {
        self.begin(depths, matrix.len().div_ceil(stride));
        for (panel, rows) in self.panels.chunks_exact_mut(depths).zip(matrix.chunks(WIDTH * stride))
        {
            for (index, rows) in rows.chunks(STREAMS * stride).enumerate() {
                let first = index * STREAMS;
                if rows.len() > (STREAMS - 1) * stride {
                    let rows: [&[f32]; STREAMS] =
                        std::array::from_fn(|row| &rows[row * stride..][..depths]);
                    for (depth, to) in panel.iter_mut().enumerate() {
                        let numbers: [f32; STREAMS] = std::array::from_fn(|row| rows[row][depth]);
                        to[first..first + STREAMS].copy_from_slice(&numbers);
                    }
                } else {
                    for (offset, row) in rows.chunks(stride).enumerate() {
                        for (to, &from) in panel.iter_mut().zip(row) {
                            to[first + offset] = from;
                        }
                    }
                }
            }
        }
    }

    fn begin(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        self.panels.clear();
        self.panels.resize(columns.div_ceil(WIDTH) * rows, [0.0; WIDTH]);
    }
}

/// The left factor of a product, `[N, K]`, from its first number on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left<'a> {
    /// Its rows lie `stride` apart.
    Plain { numbers: &'a [f32], stride: usize },
    /// Its columns lie `stride` apart.
    Transposed { numbers: &'a [f32], stride: usize },
}

/// Room for the blocks of a left factor, so that a product allocates nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks(Vec<f32>);

/// `to += left × right`, for `to` `[N, columns]`.
#[inline(always)]
pub(super) fn add_product<S: Simd>(
    simd: S,
    left: Left<'_>,
    right: &Packed,
    to: &mut [f32],
    blocks: &mut Blocks,
) {
    let rows = to.len() / right.columns.max(1);
    for first in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - first);
        let to = &mut to[first * right.columns..][..count * right.columns];
        for depth in (0..right.rows).step_by(DEPTH) {
            let depths = Range { first: depth, count: DEPTH.min(right.rows - depth) };
            let rows = Range { first, count };
            match S::REGISTER_COUNT {
                32.. => add_part::<S, 8>(simd, left, right, rows, depths, to, blocks),
                _ => add_part::<S, 4>(simd, left, right, rows, depths, to, blocks),
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Range {
    first: usize,
    count: usize,
}

/// Adds what some depths contribute to some rows, `HIGH` rows at a time, then 4, 2 and 1.
#[inline(always)]
fn add_part<S: Simd, const HIGH: usize>(
    simd: S,
    left: Left<'_>,
    right: &Packed,
    rows: Range,
    depths: Range,
    to: &mut [f32],
    Blocks(blocks): &mut Blocks,
) {
    let used = rows.count * depths.count;
    if blocks.len() < used {
        blocks.resize(used, 0.0);
    }
    let blocks = &mut blocks[..used];
    let whole = rows.count / HIGH * HIGH;
    let mut row = 0;
    while row < rows.count {
        let block = &mut blocks[row * depths.count..];
        let first = rows.first + row;
        row += match rows.count - row {
            _ if row < whole => pack_block::<HIGH>(left, first, depths, block),
            4.. => pack_block::<4>(left, first, depths, block),
            2.. => pack_block::<2>(left, first, depths, block),
            _ => pack_block::<1>(left, first, depths, block),
        };
    }
    for index in 0..right.columns.div_ceil(WIDTH) {
        let panel = &right.panels[index * right.rows + depths.first..][..depths.count];
        // Two vectors of a panel at a time.
        for part in (0..WIDTH).step_by(2 * S::F32_LANES) {
            let first = index * WIDTH + part;
            if first >= right.columns {
                break;
            }
            let mut row = 0;
            while row < rows.count {
                let block = &blocks[row * depths.count..];
                let to = &mut to[row * right.columns..];
                let place = Place { columns: right.columns, first, part };
                row += match rows.count - row {
                    _ if row < whole => add_tile::<S, HIGH, false>(simd, block, panel, place, to),
                    4.. => add_tile::<S, 4, false>(simd, block, panel, place, to),
                    2.. => add_tile::<S, 2, true>(simd, block, panel, place, to),
                    _ => add_tile::<S, 1, true>(simd, block, panel, place, to),
                };
            }
        }
    }
}

/// Lets the numbers of `HIGH` rows alternate; returns how many that were.
#[inline(always)]
fn pack_block<const HIGH: usize>(
    left: Left<'_>,
    first: usize,
    depths: Range,
    block: &mut [f32],
) -> usize {
    let (block, _) = block[..HIGH * depths.count].as_chunks_mut::<HIGH>();
    match left {
        Left::Plain { numbers, stride } => {
            for high in 0..HIGH {
                let row = &numbers[(first + high) * stride + depths.first..][..depths.count];
                for (to, &from) in block.iter_mut().zip(row) {
                    to[high] = from;
                }
            }
        }
        Left::Transposed { numbers, stride } => {
            let columns = numbers[depths.first * stride..].chunks(stride);
            for (to, from) in block.iter_mut().zip(columns) {
                to.copy_from_slice(&from[first..][..HIGH]);
            }
        }
    }
    HIGH
}

/// Where a tile stands in the result.
#[derive(Clone, Copy)]
struct Place {
    columns: usize,
    first: usize,
    part: usize,
}

/// Adds the product of a block of `HIGH` rows with two vectors of a panel; returns the number of
/// rows. One or two rows have too few sums to keep the pipelines busy: `DEEP`, they have four of
/// each.
#[inline(always)]
fn add_tile<S: Simd, const HIGH: usize, const DEEP: bool>(
    simd: S,
    block: &[f32],
    panel: &[[f32; WIDTH]],
    place: Place,
    to: &mut [f32],
) -> usize {
    let Place { columns, first, part } = place;
    let (mut block, _) = block[..HIGH * panel.len()].as_chunks::<HIGH>();
    let mut panel = panel;
    let mut sums = [[simd.splat_f32s(0.0); 2]; HIGH];
    if DEEP {
        // Four variables and not an array of arrays, which the compiler keeps in memory.
        let (mut second, mut third, mut fourth) = (sums, sums, sums);
        let (blocks, last_block) = block.as_chunks::<4>();
        let (panels, last_panel) = panel.as_chunks::<4>();
        for (factors, weights) in blocks.iter().zip(panels) {
            add_depth(simd, &mut sums, &factors[0], &weights[0], part);
            add_depth(simd, &mut second, &factors[1], &weights[1], part);
            add_depth(simd, &mut third, &factors[2], &weights[2], part);
            add_depth(simd, &mut fourth, &factors[3], &weights[3], part);
        }
        for other in [second, third, fourth] {
            for (sum, other) in sums.iter_mut().flatten().zip(other.iter().flatten()) {
                *sum = simd.add_f32s(*sum, *other);
            }
        }
        (block, panel) = (last_block, last_panel);
    }
    for (factors, weights) in block.iter().zip(panel) {
        add_depth(simd, &mut sums, factors, weights, part);
    }
    let width = (2 * S::F32_LANES).min(columns - first);
    for (row, sums) in sums.iter().enumerate() {
        let to = &mut to[row * columns + first..][..width];
        let (vectors, tail) = S::as_mut_simd_f32s(to);
        for (to, sum) in vectors.iter_mut().zip(sums) {
            *to = simd.add_f32s(*to, *sum);
        }
        if !tail.is_empty() {
            let sum = simd.add_f32s(simd.partial_load_f32s(tail), sums[vectors.len()]);
            simd.partial_store_f32s(tail, sum);
        }
    }
    HIGH
}

/// Adds what one row of a panel contributes. A function and not a closure, which the compiler
/// may decide to leave out of the code compiled for an instruction set.
#[inline(always)]
fn add_depth<S: Simd, const HIGH: usize>(
    simd: S,
    sums: &mut [[S::f32s; 2]; HIGH],
    factors: &[f32; HIGH],
    weights: &[f32; WIDTH],
    part: usize,
) {
    let (weights, _) = S::as_simd_f32s(&weights[part..]);
    let weights = [weights[0], weights[1]];
    for (sums, factor) in sums.iter_mut().zip(factors) {
        let factor = simd.splat_f32s(*factor);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = simd.mul_add_e_f32s(factor, weight, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Scalar, WithSimd};

    use super::*;

    struct AddProduct<'a>(Left<'a>, &'a Packed, &'a mut [f32]);

    impl WithSimd for AddProduct<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            add_product(simd, self.0, self.1, self.2, &mut Blocks::default());
        }
    }

    fn number(k: usize) -> f32 {
        (k as f32 * 0.37 + 0.1).sin()
    }

    fn flipped(matrix: &[f32], columns: usize) -> Vec<f32> {
        let rows = matrix.len() / columns;
        (0..matrix.len()).map(|i| matrix[(i % rows) * columns + i / rows]).collect()
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
        let mut shapes = Vec::new();
        for n in [1, 2, 3, 4, 7, 8, 15] {
            for k in [1, 3, 31, 64] {
                shapes.extend([1, 4, 31, 32, 33, 100].map(|m| [n, k, m]));
            }
        }
        // Beyond one block of rows, and beyond one of depths.
        shapes.extend([[131, 5, 33], [9, 1030, 40], [130, 513, 3]]);
        for [n, k, m] in shapes {
            let from: Vec<f32> = (0..n * k).map(number).collect();
            let matrix: Vec<f32> = (0..k * m).map(|i| number(i + 5)).collect();
            let start: Vec<f32> = (0..n * m).map(|i| number(i + 9)).collect();
            let expected = naive(&from, &matrix, &start, [n, k, m]);
            let from_flipped = flipped(&from, k);
            let lefts = [
                Left::Plain { numbers: &from, stride: k },
                Left::Transposed { numbers: &from_flipped, stride: n },
            ];
            let rights = [Packed::new(&matrix, m), Packed::transposed(&flipped(&matrix, m), k)];
            for (left, right) in lefts.iter().flat_map(|left| rights.iter().map(move |r| (left, r)))
            {
                let (mut best, mut plain) = (start.clone(), start.clone());
                Arch::new().dispatch(AddProduct(*left, right, &mut best));
                AddProduct(*left, right, &mut plain).with_simd(Scalar::new());
                for (got, expected) in best.iter().zip(&expected).chain(plain.iter().zip(&expected))
                {
                    assert!((got - expected).abs() < 1e-3, "{n} {k} {m}");
                }
            }
        }
    }
}
