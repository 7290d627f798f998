//! Sums of outer products: what rows contribute to the gradient of a weight.
//!
//! Rows of a sequence often lie a power of two apart, where a cache has room for a few of them only.
//! So some rows at a time are laid ready: of the right factor a panel of columns, which stays in the
//! first-level cache while all of the left one streams by.

mod pairs;

use pulp::{Simd, WithSimd};

use super::packing::{PanelRow, WIDTH, copy_first};
use super::parallel::Piece;
use super::prefetch::prefetch;
use super::product::{Onto, put_down};
use super::rows::Rows;
use super::spare;

pub(super) use pairs::{outer_by_pairs, outer_pairs_pay};

/// Rows that are laid ready at a time.
const DEPTH: usize = 128;
/// Columns of the left factor whose numbers lie side by side, a block.
const COLUMNS: usize = 8;
/// Rows that are laid side by side: few enough that a small cache keeps a line of each, even
/// where they lie a power of two apart.
const STREAMS: usize = 8;

/// leftᵀ × right, onto what is said, into `to`, for `left` `[K, M]`, `right` `[K, N]` and `to`
/// `[M, N]`: the sum of K outer products, in the order of the rows.
///
/// # Panics
///
/// Where the two have not the same number of rows, or none.
#[inline(always)]
pub(super) fn outer<S: Simd>(
    simd: S,
    left: Rows<'_>,
    right: Rows<'_>,
    onto: Onto<'_>,
    to: &mut [f32],
) {
    let count = count_of(left, right);
    let deepest = DEPTH.min(count);
    let mut blocks = spare::take(left.width().next_multiple_of(COLUMNS) * deepest);
    let mut panel = [PanelRow([0.0; WIDTH]); DEPTH];
    for depths in Piece::all(count, DEPTH) {
        let blocks = lay_blocks(left, depths, &mut blocks);
        let rows = &rows_at::<DEPTH>(right, depths)[..depths.length];
        let onto = if depths.start == 0 { onto } else { Onto::Present };
        for first in (0..right.width()).step_by(WIDTH) {
            let width = WIDTH.min(right.width() - first);
            for (to, row) in panel.iter_mut().zip(rows) {
                copy_first(&mut to.0, &row[first..]);
            }
            let panel = &panel[..depths.length];
            for part in (0..width).step_by(2 * S::F32_LANES) {
                let place = Place {
                    columns: right.width(),
                    first: first + part,
                    width: (width - part).min(2 * S::F32_LANES),
                    part,
                };
                for (index, block) in blocks.chunks_exact(depths.length).enumerate() {
                    let rows = COLUMNS.min(left.width() - index * COLUMNS);
                    let to = &mut to[index * COLUMNS * right.width()..];
                    block_of_rows(simd, block, rows, panel, place, onto, to);
                }
            }
        }
    }
    spare::give(blocks);
}

/// How many outer products there are to be added up.
///
/// # Panics
///
/// As [`outer`].
fn count_of(left: Rows<'_>, right: Rows<'_>) -> usize {
    assert_eq!(left.count(), right.count(), "a row of the right factor for each of the left");
    assert!(left.count() > 0, "a sum of no outer products");
    left.count()
}

/// Lays columns of some rows side by side: [`COLUMNS`] columns of every row, then the next ones. The
/// last block is filled up with zeros.
fn lay_blocks<'a>(rows: Rows<'_>, depths: Piece, to: &'a mut [f32]) -> &'a mut [[f32; COLUMNS]] {
    let count = rows.width().div_ceil(COLUMNS);
    let blocks = &mut to.as_chunks_mut::<COLUMNS>().0[..count * depths.length];
    if !rows.width().is_multiple_of(COLUMNS) {
        blocks[(count - 1) * depths.length..].fill([0.0; COLUMNS]);
    }
    for Piece { start, length } in Piece::all(depths.length, STREAMS) {
        let rows = rows_at::<STREAMS>(rows, Piece { start: depths.start + start, length });
        for (index, block) in blocks.chunks_exact_mut(depths.length).enumerate() {
            for (to, row) in block[start..].iter_mut().zip(&rows[..length]) {
                copy_first(to, &row[index * COLUMNS..]);
            }
        }
    }
    blocks
}

/// Some rows, `N` at most; those behind them are empty.
#[inline(always)]
fn rows_at<const N: usize>(rows: Rows<'_>, piece: Piece) -> [&[f32]; N] {
    std::array::from_fn(|index| match index < piece.length {
        true => rows.row(piece.start + index),
        false => &[],
    })
}

/// Which columns of the result a tile has: from `first` on, `width` of them, at `part` of the panel.
#[derive(Clone, Copy)]
struct Place {
    columns: usize,
    first: usize,
    width: usize,
    part: usize,
}

/// The rows of the result that belong to a block.
#[inline(always)]
fn block_of_rows<S: Simd>(
    simd: S,
    block: &[[f32; COLUMNS]],
    rows: usize,
    panel: &[PanelRow],
    place: Place,
    onto: Onto<'_>,
    to: &mut [f32],
) {
    let onto = onto.from(place.first);
    match S::REGISTER_COUNT {
        32.. => tiles::<S, 8>(simd, block, rows, panel, place, onto, to),
        _ => tiles::<S, 4>(simd, block, rows, panel, place, onto, to),
    }
}

/// The same, `HIGH` rows at a time.
#[inline(always)]
fn tiles<S: Simd, const HIGH: usize>(
    simd: S,
    block: &[[f32; COLUMNS]],
    rows: usize,
    panel: &[PanelRow],
    place: Place,
    onto: Onto<'_>,
    to: &mut [f32],
) {
    for first in (0..rows).step_by(HIGH) {
        let (rows, to) = (HIGH.min(rows - first), &mut to[first * place.columns..]);
        if place.width > S::F32_LANES {
            simd.vectorize(OuterTile::<HIGH, 2> { block, first, rows, panel, place, onto, to });
        } else {
            simd.vectorize(OuterTile::<HIGH, 1> { block, first, rows, panel, place, onto, to });
        }
    }
}

/// `HIGH` columns of a block, from `first` on, times `WIDE` vectors of a panel: as many rows of the
/// result, of which the first `rows` are wanted.
///
/// A function of its own for the compiler: in a large one it keeps the sums in memory.
struct OuterTile<'a, const HIGH: usize, const WIDE: usize> {
    block: &'a [[f32; COLUMNS]],
    first: usize,
    rows: usize,
    panel: &'a [PanelRow],
    place: Place,
    onto: Onto<'a>,
    to: &'a mut [f32],
}

impl<const HIGH: usize, const WIDE: usize> WithSimd for OuterTile<'_, HIGH, WIDE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { block, first, rows, panel, place, onto, to } = self;
        let Place { columns, first: column, width, part } = place;
        // The place of the sums is far: it is called for before they are formed.
        for row in to.chunks(columns).take(rows) {
            prefetch(&row[column..][..width]);
        }
        let mut sums = [[simd.splat_f32s(0.0); WIDE]; HIGH];
        for (factors, row) in block.iter().zip(panel) {
            let (from, _) = S::as_simd_f32s(&row.0[part..]);
            let mut vectors = [simd.splat_f32s(0.0); WIDE];
            vectors.copy_from_slice(&from[..WIDE]);
            for (sums, &factor) in sums.iter_mut().zip(&factors[first..][..HIGH]) {
                let factor = simd.splat_f32s(factor);
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = simd.mul_add_e_f32s(factor, vector, *sum);
                }
            }
        }
        for (sums, to) in sums.into_iter().zip(to.chunks_mut(columns)).take(rows) {
            put_down(simd, sums, onto, &mut to[column..][..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::on_every_machine;

    /// Outer products, by pairs or not.
    pub(super) struct Outer<'a> {
        pub(super) left: Rows<'a>,
        pub(super) right: Rows<'a>,
        pub(super) onto: Onto<'a>,
        pub(super) to: &'a [f32],
        pub(super) by_pairs: bool,
    }

    impl WithSimd for Outer<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let Self { left, right, onto, to, by_pairs } = self;
            let mut to = to.to_vec();
            match by_pairs {
                true => outer_by_pairs(simd, left, right, onto, &mut to),
                false => outer(simd, left, right, onto, &mut to),
            }
            to
        }
    }

    #[test]
    fn outer_products_of_some_lanes_and_columns_are_the_naive_ones() {
        let number = |k: usize| (k as f32 * 0.37 + 0.1).sin();
        let batch = 5;
        // Steps of some lanes: 3 and 9 rows, around a block of pairs 23, 24 and 25, around what is laid ready 128, 129
        // and 258.
        let rows = [[1, 3], [3, 3], [23, 1], [8, 3], [25, 1], [128, 1], [43, 3], [86, 3]];
        let shapes = rows.into_iter().flat_map(|rows| {
            let sides = [1, 2, 5, 8, 21].into_iter();
            sides.flat_map(move |m| [1, 15, 32, 64, 76, 130].map(|n| (rows, m, n)))
        });
        for ([steps, length], m, n) in shapes {
            let lanes = Piece { start: 1, length };
            // Columns to either side that do not belong to the factors.
            let (wide_m, wide_n) = (m + 3, n + 2);
            let left: Vec<f32> = (0..steps * batch * wide_m).map(number).collect();
            let right: Vec<f32> = (0..steps * batch * wide_n).map(|k| number(k + 5)).collect();
            let start: Vec<f32> = (0..m * n).map(|k| number(k + 9)).collect();
            let rows = |numbers, wide, length| {
                Rows::of_lanes(numbers, wide, batch, lanes).columns(Piece { start: 1, length })
            };
            let mut expected = vec![0.0; m * n];
            for row in (0..steps).flat_map(|step| (1..=length).map(move |lane| step * batch + lane))
            {
                for (index, sum) in expected.iter_mut().enumerate() {
                    let left = left[row * wide_m + 1 + index / n];
                    *sum += f64::from(left) * f64::from(right[row * wide_n + 1 + index % n]);
                }
            }
            let unread = vec![f32::NAN; m * n];
            let cases = [
                (Onto::Present, &start, start.clone()),
                (Onto::Row(&start[..n]), &unread, start[..n].repeat(m)),
                (Onto::Nothing, &unread, vec![0.0; m * n]),
            ];
            let (left, right) = (rows(&left, wide_m, m), rows(&right, wide_n, n));
            // What 9 rows have, and as much more as rounding adds up to.
            let bound = 1e-5 * ((steps * length) as f64 / 9.0).sqrt().max(1.0);
            for ((onto, to, start), by_pairs) in
                cases.iter().flat_map(|case| [(case, false), (case, true)])
            {
                let products = || Outer { left, right, onto: *onto, to, by_pairs };
                for (machine, got) in on_every_machine(products) {
                    for ((&got, start), expected) in got.iter().zip(start).zip(&expected) {
                        let (expected, by) = (expected + f64::from(*start), by_pairs);
                        let name =
                            format!("{machine}, {steps} × {length}, {m} × {n}, by pairs: {by}");
                        let error = (f64::from(got) - expected).abs();
                        assert!(error < bound, "{name}: {got}, not {expected}");
                    }
                }
            }
        }
    }
}
