//! Matrix products with a packed right factor, in the manner of Goto and van de Geijn 2008
//! (<https://doi.org/10.1145/1356052.1356053>).
//!
//! The right factor lies in panels of [`WIDTH`] columns, and of the left one a few rows are read side
//! by side. A tile of the result stays in registers while both stream by.

mod factor;
mod pairs;

use pulp::{Simd, WithSimd};

use super::packing::{Packed, PanelRow, WIDTH};
use super::parallel::Piece;
use super::rows::Rows;

pub(super) use factor::{LeftRows, RightFactor};

/// How deep a panel goes before the sums are put down.
pub(super) const DEPTH: usize = 512;
/// Rows that stay in the cache while all panels pass.
const ROWS: usize = 128;

/// What sums are added to before they are put down.
#[derive(Clone, Copy, Debug)]
pub(super) enum Onto<'a> {
    /// Nothing: what was in their place is not read.
    Nothing,
    /// This row, the same under every row of the sums.
    Row(&'a [f32]),
    /// What is in their place.
    Present,
}

/// left × right, onto what is said, into `to`, `[N, columns]`, for the first N rows of `left`.
///
/// # Panics
///
/// Where there are columns, of depth 0.
#[inline(always)]
pub(super) fn product<S: Simd>(
    simd: S,
    left: Rows<'_>,
    right: &Packed,
    onto: Onto<'_>,
    to: &mut [f32],
) {
    product_of(simd, left, right, right.panels(), onto, to);
}

/// As [`product`], of some panels' columns: the others of `to` remain as they are.
///
/// # Panics
///
/// As [`product`].
#[inline(always)]
pub(super) fn product_of<S: Simd>(
    simd: S,
    left: Rows<'_>,
    right: &Packed,
    panels: Piece,
    onto: Onto<'_>,
    to: &mut [f32],
) {
    assert!(right.rows > 0 || to.is_empty(), "a product of depth 0 has no sums");
    let count = to.len() / right.columns.max(1);
    for rows in Piece::all(count, ROWS) {
        let to = &mut to[rows.start * right.columns..][..rows.length * right.columns];
        for depths in Piece::all(right.rows, DEPTH) {
            let left = left.columns(depths);
            let onto = if depths.start == 0 { onto } else { Onto::Present };
            let block = Block { rows, depths, panels };
            match S::REGISTER_COUNT {
                32.. => part_of_product::<S, 8>(simd, left, right, block, onto, to),
                _ => part_of_product::<S, 4>(simd, left, right, block, onto, to),
            }
        }
    }
}

/// What is formed at a time.
#[derive(Clone, Copy)]
struct Block {
    rows: Piece,
    depths: Piece,
    panels: Piece,
}

/// What some depths contribute to some rows, `HIGH` rows at a time, then 4, 2 and 1.
#[inline(always)]
fn part_of_product<S: Simd, const HIGH: usize>(
    simd: S,
    left: Rows<'_>,
    right: &Packed,
    Block { rows, depths, panels }: Block,
    onto: Onto<'_>,
    to: &mut [f32],
) {
    for index in panels.start..panels.start + panels.length {
        let panel = &right.panel(index)[depths.start..][..depths.length];
        // Two vectors of a panel at a time.
        for part in (0..WIDTH).step_by(2 * S::F32_LANES) {
            let first = index * WIDTH + part;
            if first >= right.columns {
                break;
            }
            let place = Place { columns: right.columns, first, part };
            match right.columns - first > S::F32_LANES {
                true => tiles::<S, HIGH, 2>(simd, left, rows, panel, place, onto, to),
                false => tiles::<S, HIGH, 1>(simd, left, rows, panel, place, onto, to),
            }
        }
    }
}

/// The product of some rows with `WIDE` vectors of a panel.
#[inline(always)]
fn tiles<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    left: Rows<'_>,
    rows: Piece,
    panel: &[PanelRow],
    place: Place,
    onto: Onto<'_>,
    to: &mut [f32],
) {
    let mut done = 0;
    while done < rows.length {
        let row = rows.start + done;
        let to = &mut to[done * place.columns..];
        done += match rows.length - done {
            rest if rest >= HIGH => tile::<S, HIGH, WIDE>(simd, left, row, panel, place, onto, to),
            4.. => tile::<S, 4, WIDE>(simd, left, row, panel, place, onto, to),
            2.. => tile::<S, 2, WIDE>(simd, left, row, panel, place, onto, to),
            _ => tile::<S, 1, WIDE>(simd, left, row, panel, place, onto, to),
        };
    }
}

/// Where a tile stands in the result.
#[derive(Clone, Copy)]
struct Place {
    columns: usize,
    first: usize,
    part: usize,
}

/// The product of `HIGH` rows with `WIDE` vectors of a panel; returns the number of rows.
#[inline(always)]
fn tile<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    left: Rows<'_>,
    first: usize,
    panel: &[PanelRow],
    place: Place,
    onto: Onto<'_>,
    to: &mut [f32],
) -> usize {
    let mut rows: [&[f32]; HIGH] = [&[]; HIGH];
    for (index, row) in rows.iter_mut().enumerate() {
        *row = left.row(first + index);
    }
    simd.vectorize(Tile::<HIGH, WIDE> { rows, panel, place, onto, to });
    HIGH
}

/// The product of rows with `WIDE` vectors of a panel.
///
/// A function of its own for the compiler: in a large one it keeps the sums in memory.
struct Tile<'a, const HIGH: usize, const WIDE: usize> {
    rows: [&'a [f32]; HIGH],
    panel: &'a [PanelRow],
    place: Place,
    onto: Onto<'a>,
    to: &'a mut [f32],
}

impl<const HIGH: usize, const WIDE: usize> WithSimd for Tile<'_, HIGH, WIDE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, panel, place, onto, to } = self;
        let zeros = [[simd.splat_f32s(0.0); WIDE]; HIGH];
        let sums = multiply_rows(simd, zeros, rows, panel, place.part);
        let width = (WIDE * S::F32_LANES).min(place.columns - place.first);
        for (row, sums) in sums.into_iter().enumerate() {
            let to = &mut to[row * place.columns + place.first..][..width];
            put_down(simd, sums, onto.from(place.first), to);
        }
    }
}

impl Onto<'_> {
    /// The same of columns from `first` on.
    #[inline(always)]
    pub(super) fn from(self, first: usize) -> Self {
        match self {
            Self::Row(row) => Self::Row(&row[first..]),
            other => other,
        }
    }
}

/// Puts the sums of a row of a tile in their place: as many as there is room for.
#[inline(always)]
pub(super) fn put_down<S: Simd, const WIDE: usize>(
    simd: S,
    mut sums: [S::f32s; WIDE],
    onto: Onto<'_>,
    to: &mut [f32],
) {
    match onto {
        Onto::Nothing => {}
        Onto::Row(row) => add_numbers(simd, &mut sums, &row[..to.len()]),
        Onto::Present => add_numbers(simd, &mut sums, to),
    }
    let (vectors, tail) = S::as_mut_simd_f32s(to);
    // Where all are whole, in a loop that the compiler unrolls: the sums stay in registers.
    if let Some(vectors) = vectors.first_chunk_mut::<WIDE>() {
        *vectors = sums;
        return;
    }
    for (to, sum) in vectors.iter_mut().zip(sums) {
        *to = sum;
    }
    if !tail.is_empty() {
        simd.partial_store_f32s(tail, sums[vectors.len()]);
    }
}

/// Adds as many numbers as there are.
#[inline(always)]
fn add_numbers<S: Simd, const WIDE: usize>(simd: S, sums: &mut [S::f32s; WIDE], numbers: &[f32]) {
    let (vectors, tail) = S::as_simd_f32s(numbers);
    if let Some(vectors) = vectors.first_chunk::<WIDE>() {
        for (sum, number) in sums.iter_mut().zip(vectors) {
            *sum = simd.add_f32s(*sum, *number);
        }
        return;
    }
    for (sum, number) in sums.iter_mut().zip(vectors) {
        *sum = simd.add_f32s(*sum, *number);
    }
    if !tail.is_empty() {
        let sum = &mut sums[vectors.len()];
        *sum = simd.add_f32s(*sum, simd.partial_load_f32s(tail));
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
        // One after the other: a loop over the three has the compiler keep them all in memory.
        add_sums(simd, &mut sums, second);
        add_sums(simd, &mut third, fourth);
        add_sums(simd, &mut sums, third);
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

/// Adds what another part of the depths gave.
#[inline(always)]
fn add_sums<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    sums: &mut [[S::f32s; WIDE]; HIGH],
    others: [[S::f32s; WIDE]; HIGH],
) {
    for (sums, others) in sums.iter_mut().zip(others) {
        for (sum, other) in sums.iter_mut().zip(others) {
            *sum = simd.add_f32s(*sum, other);
        }
    }
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

    struct Product<'a>(Rows<'a>, &'a Packed, Onto<'a>, &'a [f32]);

    impl WithSimd for Product<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut to = self.3.to_vec();
            product(simd, self.0, self.1, self.2, &mut to);
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
            let unread = vec![f32::NAN; n * m];
            let cases = [
                (Onto::Present, &start, start.clone()),
                (Onto::Row(&start[..m]), &unread, start[..m].repeat(n)),
                (Onto::Nothing, &unread, vec![0.0; n * m]),
            ]
            .map(|(onto, to, start)| (onto, to, naive(&from, &matrix, &start, [n, k, m])));
            // The rows as they are, and in groups of 3 with something else in between.
            let mut spaced = vec![f32::NAN; n.div_ceil(3) * 5 * k];
            for (index, row) in from.chunks_exact(k).enumerate() {
                spaced[(index / 3 * 5 + index % 3 + 1) * k..][..k].copy_from_slice(row);
            }
            let lanes = Piece { start: 1, length: 3 };
            let lefts = [Rows::new(&from, k), Rows::of_lanes(&spaced, k, 5, lanes)];
            let rights = [Packed::new(&matrix, m), transposed(&flipped(&matrix, m), k)];
            for (left, right) in lefts.iter().flat_map(|left| rights.iter().map(move |r| (left, r)))
            {
                for (onto, to, expected) in &cases {
                    for (machine, got) in on_every_machine(|| Product(*left, right, *onto, to)) {
                        for (got, expected) in got.iter().zip(expected) {
                            assert!((got - expected).abs() < 1e-3, "{machine}: {n} {k} {m}");
                        }
                    }
                }
            }
        }
    }
}
