//! Matrix products with a packed right factor, in the manner of Goto and van de Geijn 2008
//! (<https://doi.org/10.1145/1356052.1356053>).
//!
//! The right factor lies in panels of [`WIDTH`] columns. Of the left one a few rows are read side by
//! side; where its columns are contiguous and not its rows, they are laid in blocks first, in which
//! the numbers of these rows alternate. A tile of the result stays in registers while both stream
//! by.

use pulp::{Simd, WithSimd};

use super::parallel::Piece;

/// Columns of a panel.
pub(super) const WIDTH: usize = 32;
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
    panels: Vec<PanelRow>,
    rows: usize,
    columns: usize,
}

/// A row of a panel. On lines of the cache of its own: a vector that lies on two costs twice.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct PanelRow([f32; WIDTH]);

impl Packed {
    /// Packs a row-major matrix of so many columns.
    pub(super) fn new(matrix: &[f32], columns: usize) -> Self {
        let mut packed = Self::default();
        packed.pack(matrix, columns);
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
                    to.0[..width].copy_from_slice(&from[first..][..width]);
                }
            }
        }
    }

    /// Packs the transpose of the first `depths` columns of rows that lie `stride` apart.
    pub(super) fn pack_transposed(&mut self, matrix: &[f32], stride: usize, depths: usize) {
        self.begin(depths, matrix.len().div_ceil(stride));
        self.fill_transposed(matrix, stride, Piece { start: 0, length: depths }, 0);
    }

    /// Packs the transpose of some units' columns of a weight `[R, 4H]`: `[4 · units, R]`.
    pub(super) fn transposed_units(weight: &[f32], hidden: usize, units: Piece) -> Self {
        let mut packed = Self::default();
        packed.begin(4 * units.length, weight.len() / (4 * hidden));
        for gate in 0..4 {
            let columns = Piece { start: gate * hidden + units.start, ..units };
            packed.fill_transposed(weight, 4 * hidden, columns, gate * units.length);
        }
        packed
    }

    /// Fills the depths from `depth` on with columns of a matrix whose rows lie `stride` apart.
    fn fill_transposed(&mut self, matrix: &[f32], stride: usize, columns: Piece, depth: usize) {
        let Piece { start, length } = columns;
        let panels = self.panels.chunks_exact_mut(self.rows);
        for (panel, rows) in panels.zip(matrix.chunks(WIDTH * stride)) {
            let panel = &mut panel[depth..][..length];
            for (index, rows) in rows.chunks(STREAMS * stride).enumerate() {
                let first = index * STREAMS;
                if rows.len() > (STREAMS - 1) * stride {
                    let rows: [&[f32]; STREAMS] =
                        std::array::from_fn(|row| &rows[row * stride + start..][..length]);
                    for (depth, to) in panel.iter_mut().enumerate() {
                        let numbers: [f32; STREAMS] = std::array::from_fn(|row| rows[row][depth]);
                        to.0[first..first + STREAMS].copy_from_slice(&numbers);
                    }
                } else {
                    for (offset, row) in rows.chunks(stride).enumerate() {
                        for (to, &from) in panel.iter_mut().zip(&row[start..]) {
                            to.0[first + offset] = from;
                        }
                    }
                }
            }
        }
    }

    /// The panels, each of [`rows`](Self::rows) rows.
    pub(super) fn panels(&self) -> impl Iterator<Item = &[PanelRow]> {
        self.panels.chunks_exact(self.rows)
    }

    fn begin(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        self.panels.clear();
        self.panels.resize(columns.div_ceil(WIDTH) * rows, PanelRow([0.0; WIDTH]));
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
    let count = to.len() / right.columns.max(1);
    for rows in Piece::all(count, ROWS) {
        let to = &mut to[rows.start * right.columns..][..rows.length * right.columns];
        for depths in Piece::all(right.rows, DEPTH) {
            match S::REGISTER_COUNT {
                32.. => add_part::<S, 8>(simd, left, right, rows, depths, to, blocks),
                _ => add_part::<S, 4>(simd, left, right, rows, depths, to, blocks),
            }
        }
    }
}

/// Adds what some depths contribute to some rows, `HIGH` rows at a time, then 4, 2 and 1.
#[inline(always)]
fn add_part<S: Simd, const HIGH: usize>(
    simd: S,
    left: Left<'_>,
    right: &Packed,
    rows: Piece,
    depths: Piece,
    to: &mut [f32],
    blocks: &mut Blocks,
) {
    let factors = Factors::new::<HIGH>(left, rows, depths, blocks);
    for (index, panel) in right.panels().enumerate() {
        let panel = &panel[depths.start..][..depths.length];
        // Two vectors of a panel at a time.
        for part in (0..WIDTH).step_by(2 * S::F32_LANES) {
            let first = index * WIDTH + part;
            if first >= right.columns {
                break;
            }
            let place = Place { columns: right.columns, first, part };
            match right.columns - first > S::F32_LANES {
                true => add_tiles::<S, HIGH, 2>(simd, factors, rows.length, panel, place, to),
                false => add_tiles::<S, HIGH, 1>(simd, factors, rows.length, panel, place, to),
            }
        }
    }
}

/// Adds the product of all rows with `WIDE` vectors of a panel.
#[inline(always)]
fn add_tiles<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    factors: Factors<'_>,
    rows: usize,
    panel: &[PanelRow],
    place: Place,
    to: &mut [f32],
) {
    let mut row = 0;
    while row < rows {
        let to = &mut to[row * place.columns..];
        row += match rows - row {
            left if left >= HIGH => add_tile::<S, HIGH, WIDE>(simd, factors, row, panel, place, to),
            4.. => add_tile::<S, 4, WIDE>(simd, factors, row, panel, place, to),
            2.. => add_tile::<S, 2, WIDE>(simd, factors, row, panel, place, to),
            _ => add_tile::<S, 1, WIDE>(simd, factors, row, panel, place, to),
        };
    }
}

/// Some rows and depths of a left factor, ready to be read a few rows at a time.
#[derive(Clone, Copy)]
enum Factors<'a> {
    /// Rows that lie `stride` apart.
    Rows { numbers: &'a [f32], stride: usize },
    /// Blocks of `HIGH` rows, then of 4, 2 and 1, whose numbers alternate.
    Blocks(&'a [f32]),
}

impl<'a> Factors<'a> {
    #[inline(always)]
    fn new<const HIGH: usize>(
        left: Left<'a>,
        rows: Piece,
        depths: Piece,
        Blocks(blocks): &'a mut Blocks,
    ) -> Self {
        let (numbers, stride) = match left {
            Left::Plain { numbers, stride } => {
                return Self::Rows {
                    numbers: &numbers[rows.start * stride + depths.start..],
                    stride,
                };
            }
            Left::Transposed { numbers, stride } => (numbers, stride),
        };
        let used = rows.length * depths.length;
        if blocks.len() < used {
            blocks.resize(used, 0.0);
        }
        let mut row = 0;
        while row < rows.length {
            let block = &mut blocks[row * depths.length..];
            let columns = numbers[depths.start * stride..].chunks(stride);
            let first = rows.start + row;
            row += match rows.length - row {
                left if left >= HIGH => alternate::<HIGH>(columns, first, depths.length, block),
                4.. => alternate::<4>(columns, first, depths.length, block),
                2.. => alternate::<2>(columns, first, depths.length, block),
                _ => alternate::<1>(columns, first, depths.length, block),
            };
        }
        Self::Blocks(&blocks[..used])
    }
}

/// Lays `HIGH` rows of a matrix, given by its columns, so that their numbers alternate; returns
/// their number.
#[inline(always)]
fn alternate<'a, const HIGH: usize>(
    columns: impl Iterator<Item = &'a [f32]>,
    first: usize,
    depths: usize,
    block: &mut [f32],
) -> usize {
    let (block, _) = block[..HIGH * depths].as_chunks_mut::<HIGH>();
    for (to, from) in block.iter_mut().zip(columns) {
        to.copy_from_slice(&from[first..][..HIGH]);
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

/// Adds the product of `HIGH` rows with `WIDE` vectors of a panel; returns the number of rows.
#[inline(always)]
fn add_tile<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    factors: Factors<'_>,
    row: usize,
    panel: &[PanelRow],
    place: Place,
    to: &mut [f32],
) -> usize {
    match factors {
        Factors::Rows { numbers, stride } => {
            let numbers = &numbers[row * stride..];
            simd.vectorize(RowsTile::<HIGH, WIDE> { numbers, stride, panel, place, to });
        }
        Factors::Blocks(blocks) => {
            let block = &blocks[row * panel.len()..][..HIGH * panel.len()];
            let block = block.as_chunks::<HIGH>().0;
            simd.vectorize(BlockTile::<HIGH, WIDE> { block, panel, place, to });
        }
    }
    HIGH
}

/// The product of the first `HIGH` rows, which lie `stride` apart, with `WIDE` vectors of a panel.
///
/// A function of its own for the compiler: in a large one it keeps the sums in memory.
struct RowsTile<'a, const HIGH: usize, const WIDE: usize> {
    numbers: &'a [f32],
    stride: usize,
    panel: &'a [PanelRow],
    place: Place,
    to: &'a mut [f32],
}

impl<const HIGH: usize, const WIDE: usize> WithSimd for RowsTile<'_, HIGH, WIDE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { numbers, stride, panel, place, to } = self;
        let mut rows = [&numbers[..0]; HIGH];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = &numbers[index * stride..][..panel.len()];
        }
        let zeros = [[simd.splat_f32s(0.0); WIDE]; HIGH];
        let sums = multiply_rows(simd, zeros, rows, panel, place.part);
        put_down(simd, sums, place, to);
    }
}

/// The same of rows whose numbers alternate.
struct BlockTile<'a, const HIGH: usize, const WIDE: usize> {
    block: &'a [[f32; HIGH]],
    panel: &'a [PanelRow],
    place: Place,
    to: &'a mut [f32],
}

impl<const HIGH: usize, const WIDE: usize> WithSimd for BlockTile<'_, HIGH, WIDE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { block, panel, place, to } = self;
        let mut sums = [[simd.splat_f32s(0.0); WIDE]; HIGH];
        for (factors, weights) in block.iter().zip(panel) {
            add_depth(simd, &mut sums, factors, weights, place.part);
        }
        put_down(simd, sums, place, to);
    }
}

/// Adds a tile to its place in the result.
#[inline(always)]
fn put_down<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    sums: [[S::f32s; WIDE]; HIGH],
    Place { columns, first, .. }: Place,
    to: &mut [f32],
) {
    let width = (WIDE * S::F32_LANES).min(columns - first);
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
}

/// Adds the product of rows with `WIDE` vectors of a panel to a tile in registers. One or two rows
/// have too few sums to keep the pipelines busy: they have four of each.
#[inline(always)]
pub(super) fn multiply_rows<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    mut sums: [[S::f32s; WIDE]; HIGH],
    rows: [&[f32]; HIGH],
    panel: &[PanelRow],
    part: usize,
) -> [[S::f32s; WIDE]; HIGH] {
    let mut first = 0;
    if HIGH <= 2 {
        // Variables and not an array of arrays, which the compiler keeps in memory.
        let zeros = [[simd.splat_f32s(0.0); WIDE]; HIGH];
        let (mut second, mut third, mut fourth) = (zeros, zeros, zeros);
        let (panels, _) = panel.as_chunks::<4>();
        let mut quads = [rows[0].as_chunks::<4>().0; HIGH];
        for (quads, row) in quads.iter_mut().zip(rows) {
            *quads = &row.as_chunks::<4>().0[..panels.len()];
        }
        for (depth, weights) in panels.iter().enumerate() {
            add_depth(simd, &mut sums, &across(quads, depth, 0), &weights[0], part);
            add_depth(simd, &mut second, &across(quads, depth, 1), &weights[1], part);
            add_depth(simd, &mut third, &across(quads, depth, 2), &weights[2], part);
            add_depth(simd, &mut fourth, &across(quads, depth, 3), &weights[3], part);
        }
        for other in [second, third, fourth] {
            for (sum, other) in sums.iter_mut().flatten().zip(other.iter().flatten()) {
                *sum = simd.add_f32s(*sum, *other);
            }
        }
        first = 4 * panels.len();
    }
    let mut rest = rows;
    for row in &mut rest {
        *row = &row[first..panel.len()];
    }
    for (depth, weights) in panel[first..].iter().enumerate() {
        let mut factors = [0.0; HIGH];
        for (factor, row) in factors.iter_mut().zip(rest) {
            *factor = row[depth];
        }
        add_depth(simd, &mut sums, &factors, weights, part);
    }
    sums
}

/// A number of every row.
#[inline(always)]
fn across<const HIGH: usize>(
    rows: [&[[f32; 4]]; HIGH],
    depth: usize,
    offset: usize,
) -> [f32; HIGH] {
    let mut factors = [0.0; HIGH];
    for (factor, row) in factors.iter_mut().zip(rows) {
        *factor = row[depth][offset];
    }
    factors
}

/// Adds what one row of a panel contributes. A function and not a closure, which the compiler
/// may decide to leave out of the code compiled for an instruction set.
#[inline(always)]
fn add_depth<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    sums: &mut [[S::f32s; WIDE]; HIGH],
    factors: &[f32; HIGH],
    weights: &PanelRow,
    part: usize,
) {
    let (from, _) = S::as_simd_f32s(&weights.0[part..]);
    let mut weights = [simd.splat_f32s(0.0); WIDE];
    weights.copy_from_slice(&from[..WIDE]);
    for (sums, factor) in sums.iter_mut().zip(factors) {
        let factor = simd.splat_f32s(*factor);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = simd.mul_add_e_f32s(factor, weight, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::on_every_machine;

    struct AddProduct<'a>(Left<'a>, &'a Packed, &'a [f32]);

    impl WithSimd for AddProduct<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut to = self.2.to_vec();
            add_product(simd, self.0, self.1, &mut to, &mut Blocks::default());
            to
        }
    }

    fn transposed(matrix: &[f32], columns: usize) -> Packed {
        let mut packed = Packed::default();
        packed.pack_transposed(matrix, columns, columns);
        packed
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
            let rights = [Packed::new(&matrix, m), transposed(&flipped(&matrix, m), k)];
            for (left, right) in lefts.iter().flat_map(|left| rights.iter().map(move |r| (left, r)))
            {
                for (machine, got) in on_every_machine(|| AddProduct(*left, right, &start)) {
                    for (got, expected) in got.iter().zip(&expected) {
                        assert!((got - expected).abs() < 1e-3, "{machine}: {n} {k} {m}");
                    }
                }
            }
        }
    }
}
