//! Outer products added up [by pairs](crate::kernels::pairs) of rows. Gradients are of any size, so each column
//! of both factors is scaled, some rows at a time.

use pulp::{Simd, WithSimd};

use super::{COLUMNS, DEPTH, count_of, lay_blocks, rows_at};
use crate::kernels::packing::copy_first;
use crate::kernels::pairs::{
    self, ColumnFactors, HALF, Strip, add_pair, adds_beside_multiplying, thirds,
};
use crate::kernels::parallel::Piece;
use crate::kernels::prefetch::prefetch;
use crate::kernels::product::Onto;
use crate::kernels::rows::Rows;
use crate::kernels::spare;
use crate::kernels::step::{GateRow, UNITS, WIDTH, add_depth, quarters};

/// Rows of the result that a tile has.
const HIGH: usize = COLUMNS / 2;

/// Whether that is faster for so many rows of factors of these widths. What scaling one factor takes is won back by
/// the width of the other, and what beginning and ending a tile takes by the number of rows. With 128 columns of the left
/// one it is no faster.
pub(in crate::kernels) fn outer_pairs_pay(rows: usize, left: usize, right: usize) -> bool {
    const ROWS: usize = DEPTH / 2;
    const LEFT: usize = 256;
    const RIGHT: usize = 512;
    rows >= ROWS && left >= LEFT && right >= RIGHT && adds_beside_multiplying()
}

/// As [`outer`](super::outer), its sums rounded otherwise.
///
/// # Panics
///
/// As [`outer`](super::outer).
#[inline(always)]
pub(in crate::kernels) fn outer_by_pairs<S: Simd>(
    simd: S,
    left: Rows<'_>,
    right: Rows<'_>,
    onto: Onto<'_>,
    to: &mut [f32],
) {
    let count = count_of(left, right);
    // Pieces alike, since one of few rows would be scaled for nothing, and of whole blocks of pairs.
    let length = count.div_ceil(count.div_ceil(DEPTH));
    let length = length.next_multiple_of(3 * pairs::BLOCK).min(DEPTH);
    let mut blocks = spare::take(left.width().next_multiple_of(COLUMNS) * length);
    let mut of_blocks = Vec::with_capacity(left.width().div_ceil(COLUMNS));
    let mut panel = spare::take(DEPTH);
    for depths in Piece::all(count, length) {
        let blocks = lay_blocks(left, depths, &mut blocks);
        of_blocks.clear();
        of_blocks.extend(blocks.chunks_exact_mut(depths.length).map(ColumnFactors::scaling));
        let blocks = blocks.chunks_exact(depths.length).zip(&of_blocks);
        let rows = rows_at::<DEPTH>(right, depths);
        let onto = if depths.start == 0 { onto } else { Onto::Present };
        let rows_of_block = COLUMNS * right.width();
        for columns in Piece::all(right.width(), WIDTH) {
            let panel = &mut panel[..depths.length];
            for (GateRow(to), row) in panel.iter_mut().zip(&rows) {
                if columns.length < WIDTH {
                    to.fill(0.0);
                }
                copy_first(to, &row[columns.start..]);
            }
            let factors = &ColumnFactors::scaling(panel);
            let onto = onto.from(columns.start);
            let strip = Strip { panel, factors, columns, pitch: right.width(), onto };
            for ((block, of_block), to) in blocks.clone().zip(to.chunks_mut(rows_of_block)) {
                for (half, to) in to.chunks_mut(HIGH * right.width()).enumerate() {
                    for part in (0..UNITS).step_by(S::F32_LANES) {
                        let to = &mut *to;
                        simd.vectorize(PairTile { block, of_block, half, strip, part, to });
                    }
                }
            }
        }
    }
    spare::give(panel);
    spare::give(blocks);
}

/// Half of the columns of a block, times a vector of each quarter of a panel: as many rows of the result.
///
/// A function of its own for the compiler: in a large one it keeps the sums in memory.
struct PairTile<'a> {
    block: &'a [[f32; COLUMNS]],
    of_block: &'a ColumnFactors<COLUMNS>,
    half: usize,
    strip: Strip<'a>,
    part: usize,
    /// The rows, or what there is of them.
    to: &'a mut [f32],
}

impl WithSimd for PairTile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { block, of_block, half, strip, part, to } = self;
        let Strip { panel, factors, columns, pitch, .. } = strip;
        // The place of the sums is far: it is called for before they are formed.
        for row in to.chunks(pitch) {
            prefetch(&row[columns.start..][..columns.length]);
        }
        let mut sums = [quarters(simd, &factors.minus, part); HIGH];
        for (sums, minus) in sums.iter_mut().zip(half_of(&of_block.minus, half)) {
            let minus = simd.splat_f32s(minus);
            for sum in sums {
                *sum = simd.add_f32s(*sum, minus);
            }
        }
        let [first, second, single] = thirds(block);
        let blocks = first.iter().zip(second).zip(single);
        let [one, two, three] = thirds(panel);
        let panels = one.iter().zip(two).zip(three);
        for (((first, second), single), ((one, two), three)) in blocks.zip(panels) {
            for depth in 0..HALF {
                let left = [half_of(&first[depth], half), half_of(&second[depth], half)];
                let right =
                    [quarters(simd, &one[depth].0, part), quarters(simd, &two[depth].0, part)];
                add_pair::<S, HIGH, false>(simd, &mut sums, left, right);
                add_depth(simd, &mut sums, &half_of(&single[depth], half), &three[depth], part);
            }
            for depth in HALF..pairs::BLOCK {
                let left = [half_of(&first[depth], half), half_of(&second[depth], half)];
                let right =
                    [quarters(simd, &one[depth].0, part), quarters(simd, &two[depth].0, part)];
                add_pair::<S, HIGH, true>(simd, &mut sums, left, right);
                add_depth(simd, &mut sums, &half_of(&single[depth], half), &three[depth], part);
            }
        }
        let done = 3 * first.as_flattened().len();
        for (left, right) in block[done..].iter().zip(&panel[done..]) {
            add_depth(simd, &mut sums, &half_of(left, half), right, part);
        }
        let scales = quarters(simd, &factors.scales, part);
        for (sums, scale) in sums.iter_mut().zip(half_of(&of_block.scales, half)) {
            let scale = simd.splat_f32s(scale);
            for (sum, of_column) in sums.iter_mut().zip(scales) {
                // First the scales, of which one may be huge and the other tiny.
                *sum = simd.mul_f32s(*sum, simd.mul_f32s(of_column, scale));
            }
        }
        strip.put_down(simd, sums, part, to);
    }
}

/// A number of half of the columns of a block.
#[inline(always)]
fn half_of(row: &[f32; COLUMNS], half: usize) -> [f32; HIGH] {
    row.as_chunks::<HIGH>().0[half]
}

#[cfg(test)]
mod tests {
    use super::super::tests::Outer;
    use super::*;
    use crate::kernels::on_every_machine;
    use crate::kernels::pairs::testing::drawn;

    fn products(
        left: &[f32],
        m: usize,
        right: &[f32],
        n: usize,
    ) -> [Vec<(&'static str, Vec<f32>)>; 2] {
        let nothing = vec![f32::NAN; m * n];
        [true, false].map(|by_pairs| {
            on_every_machine(|| Outer {
                left: Rows::new(left, m),
                right: Rows::new(right, n),
                onto: Onto::Nothing,
                to: &nothing,
                by_pairs,
            })
        })
    }

    type Change = fn(usize, f32) -> f32;

    #[test]
    fn outer_products_by_pairs_are_nearly_as_exact_as_others() {
        let (rows, m, n) = (300, 21, 130);
        // What becomes of a number of a row.
        let kinds: [(&str, Change); 6] = [
            ("alike", |_, x| x),
            ("of one sign", |_, x| 0.9 + 0.1 * x),
            ("a few large", |_, x| x.powi(9)),
            ("smaller from row to row", |row, x| x * 0.97_f32.powi(row as i32)),
            ("larger from row to row", |row, x| x * 0.97_f32.powi(300 - row as i32)),
            ("a few at all", |row, x| if row % 97 == 5 { x } else { 0.0 }),
        ];
        // Columns are of all sizes that gradients have, or one factor's are huge and the other's tiny.
        let size = |column: usize, power| 10_f32.powi(column as i32 % 17 - 14 + power);
        for ((power, (of_left, left)), (of_right, right)) in [0, 20, -20]
            .into_iter()
            .flat_map(|power| kinds.map(|left| (power, left)))
            .flat_map(|left| kinds.map(|right| (left, right)))
        {
            let factor = |seed, width: usize, change: Change, power| -> Vec<f32> {
                let numbers = drawn(seed, rows * width).into_iter().enumerate();
                numbers.map(|(at, x)| change(at / width, x) * size(at % width, power)).collect()
            };
            let (left, right) = (factor(1, m, left, power), factor(2, n, right, -power));
            // How many times the others' error is allowed: what is large in one factor and meets what is small in the
            // other is rounded as if both were large.
            let times = match [of_left, of_right] {
                ["a few at all", _] | [_, "a few at all"] => 4.0,
                ["smaller from row to row", "larger from row to row"] => 3.5,
                ["larger from row to row", "smaller from row to row"] => 3.5,
                _ => 1.5,
            };
            let mut expected = vec![0.0; m * n];
            for (left, right) in left.chunks_exact(m).zip(right.chunks_exact(n)) {
                for (index, sum) in expected.iter_mut().enumerate() {
                    *sum += f64::from(left[index / n]) * f64::from(right[index % n]);
                }
            }
            let error = |got: &[f32]| {
                let errors = got.iter().zip(&expected).enumerate();
                let squares = errors.map(|(index, (&got, expected))| {
                    let [left, right] = [size(index / n, power), size(index % n, -power)];
                    let size = f64::from(left) * f64::from(right);
                    ((f64::from(got) - expected) / size).powi(2)
                });
                squares.sum::<f64>().sqrt()
            };
            let [by_pairs, others] = products(&left, m, &right, n);
            for ((machine, by_pairs), (_, others)) in by_pairs.iter().zip(&others) {
                let ratio = error(by_pairs) / error(others);
                let name = format!("{machine}, {of_left} and {of_right}, 10^{power}");
                assert!(ratio < times, "{name}: {ratio}");
            }
        }
    }

    #[test]
    fn columns_of_zeros_give_zeros_and_what_is_not_finite_stays_in_its_row_and_column() {
        let (rows, m, n) = (150, 13, 70);
        let (mut left, mut right) = (drawn(1, rows * m), drawn(2, rows * n));
        left.iter_mut().skip(4).step_by(m).for_each(|x| *x = 0.0);
        right.iter_mut().skip(65).step_by(n).for_each(|x| *x = 0.0);
        let check = |left: &[f32], right: &[f32], is_finite: &dyn Fn(usize, usize) -> bool| {
            for (machine, got) in &products(left, m, right, n)[0] {
                for (index, got) in got.iter().enumerate() {
                    let (row, column) = (index / n, index % n);
                    let name = format!("{machine}, {row}, {column}: {got}");
                    assert_eq!(got.is_finite(), is_finite(row, column), "{name}");
                    let is_zero = row == 4 || column == 65;
                    assert!(!got.is_finite() || (*got == 0.0) == is_zero, "{name}");
                }
            }
        };
        check(&left, &right, &|_, _| true);
        // Among the first and the second of a pair, those without one, and those left over; in blocks and panels that are
        // whole and that are not.
        let depths = [3, 50, 70, 149].into_iter();
        let places = depths.flat_map(|depth| [[depth, 7, 9], [depth, 12, 69]]);
        for ([depth, row, column], number) in
            places.flat_map(|place| [f32::NAN, -f32::NAN, f32::INFINITY].map(|x| (place, x)))
        {
            let mut broken = left.clone();
            broken[depth * m + row] = number;
            check(&broken, &right, &|at, _| at != row);
            let mut broken = right.clone();
            broken[depth * n + column] = number;
            check(&left, &broken, &|_, at| at != column);
        }
    }
}
