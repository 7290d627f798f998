//! Products of many rows [by pairs](crate::kernels::pairs). What is multiplied is of any size, so each row of the left
//! factor is scaled, as each column of the right one is.

use pulp::{Simd, WithSimd};

use super::Onto;
use crate::kernels::packing::{self, Packed, WORK};
use crate::kernels::pairs::{Strip, adds_beside_multiplying, powers, row_factor};
use crate::kernels::parallel::{Piece, for_each};
use crate::kernels::rows::Rows;
use crate::kernels::spare;
use crate::kernels::step::{GateRow, PanelFactors, UNITS, WIDTH, lanes_of_tile, quarters};

/// Rows of a tile: both numbers of a pair are in registers beside the sums.
const HIGH: usize = 5;

/// Whether that is faster for so many rows of this length and so many columns: `rows` at a time, `all` in all. What
/// scaling takes is won back by the number of columns and of all rows, and what beginning and ending a tile takes by the
/// rows' length.
pub(super) fn pairs_pay(rows: usize, all: usize, depth: usize, columns: usize) -> bool {
    const ROWS: usize = 16;
    const ALL: usize = 1024;
    const DEPTH: usize = 256;
    const COLUMNS: usize = 256;
    let are_many = rows >= ROWS && all >= ALL && depth >= DEPTH && columns >= COLUMNS;
    are_many && adds_beside_multiplying()
}

/// A right factor whose columns are scaled, in panels of [`WIDTH`] columns. The last one is filled up with zeros.
#[derive(Debug)]
pub(in crate::kernels) struct PairPanels {
    panels: Vec<GateRow>,
    factors: Vec<PanelFactors>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl PairPanels {
    pub(super) fn new(packed: &Packed) -> Self {
        let Packed { rows, columns, .. } = *packed;
        let mut panels = spare::take(columns.div_ceil(WIDTH) * rows);
        let work = WORK * panels.len() * WIDTH;
        let parts = panels.chunks_exact_mut(rows).enumerate().collect();
        let factors = for_each(parts, work, |(index, panel): (usize, &mut [GateRow])| {
            for (half, packed_index) in [2 * index, 2 * index + 1].into_iter().enumerate() {
                let columns = Piece { start: half * packing::WIDTH, length: packing::WIDTH };
                if packed_index < packed.panels().length {
                    for (GateRow(to), from) in panel.iter_mut().zip(packed.panel(packed_index)) {
                        to[columns.start..][..columns.length].copy_from_slice(&from.0);
                    }
                } else {
                    for GateRow(to) in &mut *panel {
                        to[columns.start..][..columns.length].fill(0.0);
                    }
                }
            }
            PanelFactors::scaling(panel)
        });
        Self { panels, factors, rows, columns }
    }

    pub(super) fn panels(&self) -> Piece {
        Piece { start: 0, length: self.factors.len() }
    }
}

impl Drop for PairPanels {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.panels));
    }
}

/// Rows of a left factor, scaled, with their factors and what their sums are multiplied with.
#[derive(Debug, Default)]
pub(super) struct ScaledRows {
    numbers: Vec<f32>,
    factors: Vec<f32>,
    scales: Vec<f32>,
}

impl ScaledRows {
    /// Takes some rows in the place of what was there.
    #[inline(always)]
    pub(super) fn take(&mut self, rows: Rows<'_>, piece: Piece) {
        let width = rows.width();
        let count = piece.length * width;
        if self.numbers.len() < count {
            spare::give(std::mem::replace(&mut self.numbers, spare::take(count)));
        }
        self.factors.clear();
        self.scales.clear();
        for (index, to) in self.numbers[..count].chunks_exact_mut(width).enumerate() {
            let from = rows.row(piece.start + index);
            let (up, down) = powers(mean_square(from));
            for (to, from) in to.iter_mut().zip(from) {
                *to = from * up;
            }
            self.factors.push(row_factor(to));
            self.scales.push(down);
        }
    }
}

impl Drop for ScaledRows {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.numbers));
    }
}

#[inline(always)]
fn mean_square(row: &[f32]) -> f64 {
    /// As many sums side by side.
    const SUMS: usize = 16;
    let (chunks, rest) = row.as_chunks::<SUMS>();
    let mut sums = [0.0; SUMS];
    for chunk in chunks {
        for (sum, &number) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(number) * f64::from(number);
        }
    }
    for (sum, &number) in sums.iter_mut().zip(rest) {
        *sum += f64::from(number) * f64::from(number);
    }
    sums.iter().sum::<f64>() / row.len() as f64
}

/// The products of rows with some panels' columns, onto what is said, into `to`, `[N, columns]`.
#[inline(always)]
pub(super) fn product_by_pairs<S: Simd>(
    simd: S,
    left: &ScaledRows,
    right: &PairPanels,
    panels: Piece,
    onto: Onto<'_>,
    to: &mut [f32],
) {
    let count = left.scales.len();
    for index in panels.start..panels.start + panels.length {
        let panel = &right.panels[index * right.rows..][..right.rows];
        let first = index * WIDTH;
        let columns = Piece { start: first, length: WIDTH.min(right.columns - first) };
        let (factors, onto) = (&right.factors[index], onto.from(first));
        let strip = Strip { panel, factors, columns, pitch: right.columns, onto };
        for part in (0..UNITS).step_by(S::F32_LANES) {
            let mut row = 0;
            while row < count {
                let to = &mut to[row * right.columns..];
                let rows = lanes_of_tile(count - row, HIGH);
                match rows {
                    5 => simd.vectorize(PairTile::<5> { left, row, strip, part, to }),
                    4 => simd.vectorize(PairTile::<4> { left, row, strip, part, to }),
                    3 => simd.vectorize(PairTile::<3> { left, row, strip, part, to }),
                    2 => simd.vectorize(PairTile::<2> { left, row, strip, part, to }),
                    _ => simd.vectorize(PairTile::<1> { left, row, strip, part, to }),
                }
                row += rows;
            }
        }
    }
}

/// The product of `ROWS` rows with a vector of each quarter of a panel.
///
/// A function of its own for the compiler: in a large one it keeps the sums in memory.
struct PairTile<'a, const ROWS: usize> {
    left: &'a ScaledRows,
    /// The first of the rows.
    row: usize,
    strip: Strip<'a>,
    part: usize,
    /// The rows of the result from there on.
    to: &'a mut [f32],
}

impl<const ROWS: usize> WithSimd for PairTile<'_, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { left, row, strip, part, to } = self;
        let Strip { panel, factors, .. } = strip;
        let depth = panel.len();
        let mut rows: [&[f32]; ROWS] = [&[]; ROWS];
        for (index, to) in rows.iter_mut().enumerate() {
            *to = &left.numbers[(row + index) * depth..][..depth];
        }
        let of_rows = left.factors[row..].first_chunk().expect("every row has a factor");
        let scales: &[f32; ROWS] = left.scales[row..].first_chunk().expect("and a scale");
        let mut sums = factors.add_up(simd, rows, of_rows, panel, part);
        let of_columns = quarters(simd, &factors.scales, part);
        for (sums, of_row) in sums.iter_mut().zip(scales) {
            let of_row = simd.splat_f32s(*of_row);
            for (sum, of_column) in sums.iter_mut().zip(of_columns) {
                // First the scales, of which one may be huge and the other tiny.
                *sum = simd.mul_f32s(*sum, simd.mul_f32s(of_column, of_row));
            }
        }
        strip.put_down(simd, sums, part, to);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LeftRows, RightFactor};
    use super::*;
    use crate::kernels::on_every_machine;
    use crate::kernels::pairs::testing::drawn;

    struct Product<'a> {
        left: Rows<'a>,
        right: &'a RightFactor,
        onto: Onto<'a>,
        to: &'a [f32],
    }

    impl WithSimd for Product<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut to = self.to.to_vec();
            let multiplied = &mut LeftRows::default();
            self.right.product(simd, self.left, multiplied, self.onto, &mut to);
            to
        }
    }

    /// A right factor both ways.
    fn both(right: &[f32], columns: usize) -> [RightFactor; 2] {
        let packed = Packed::new(right, columns);
        [RightFactor::ByPairs(PairPanels::new(&packed)), RightFactor::Plain(packed)]
    }

    /// Products of `[N, K]` and `[K, M]`, in double precision.
    fn expected(left: &[f32], right: &[f32], [n, k, m]: [usize; 3]) -> Vec<f64> {
        let mut to = vec![0.0; n * m];
        for (to, row) in to.chunks_exact_mut(m).zip(left.chunks_exact(k)) {
            for (&number, of_right) in row.iter().zip(right.chunks_exact(m)) {
                for (to, &other) in to.iter_mut().zip(of_right) {
                    *to += f64::from(number) * f64::from(other);
                }
            }
        }
        to
    }

    #[test]
    fn products_by_pairs_are_the_naive_ones() {
        // Around tiles of rows, pieces of 64 of them, blocks of pairs, and panels.
        let shapes = [1, 4, 5, 6, 11, 64, 67].into_iter().flat_map(|n| {
            [1, 23, 24, 25, 49, 130]
                .into_iter()
                .flat_map(move |k| [1, 32, 33, 64, 100].map(|m| [n, k, m]))
        });
        for [n, k, m] in shapes {
            let (left, right, start) = (drawn(1, n * k), drawn(2, k * m), drawn(3, n * m));
            let right_factor = &both(&right, m)[0];
            let unread = vec![f32::NAN; n * m];
            let cases = [
                (Onto::Present, &start, start.clone()),
                (Onto::Row(&start[..m]), &unread, start[..m].repeat(n)),
                (Onto::Nothing, &unread, vec![0.0; n * m]),
            ];
            let expected = expected(&left, &right, [n, k, m]);
            for (onto, to, start) in &cases {
                let left = Rows::new(&left, k);
                let product = || Product { left, right: right_factor, onto: *onto, to };
                for (machine, got) in on_every_machine(product) {
                    for ((&got, expected), &start) in got.iter().zip(&expected).zip(start) {
                        let expected = expected + f64::from(start);
                        let error = (f64::from(got) - expected).abs();
                        assert!(error < 1e-5, "{machine}, {n} {k} {m}: {got}, not {expected}");
                    }
                }
            }
        }
    }

    type Change = fn(usize, f32) -> f32;

    #[test]
    fn products_by_pairs_are_nearly_as_exact_as_others() {
        let shape @ [n, k, m] = [10, 512, 70];
        // What becomes of a number of a row.
        let kinds: [(&str, Change, f64); 5] = [
            ("alike", |_, x| x, 1.5),
            ("of one sign", |_, x| 0.9 + 0.1 * x, 1.5),
            ("a few large", |_, x| x.powi(9), 1.5),
            ("smaller and smaller", |at, x| x * 0.97_f32.powi(at as i32), 3.0),
            ("a few at all", |at, x| if at % 170 == 3 { x } else { 0.0 }, 14.0),
        ];
        for ((of_left, change_left, most), (of_right, change_right, other_most)) in
            kinds.into_iter().flat_map(|left| kinds.map(|right| (left, right)))
        {
            // Rows and columns of all sizes, the huge ones of one beside the tiny ones of the other.
            let size = |index: usize, sign: i32| 10_f32.powi(sign * (index as i32 % 5 - 2) * 8);
            let left: Vec<f32> = drawn(1, n * k)
                .into_iter()
                .enumerate()
                .map(|(at, x)| change_left(at % k, x) * size(at / k, 1))
                .collect();
            let right: Vec<f32> = drawn(2, k * m)
                .into_iter()
                .enumerate()
                .map(|(at, x)| change_right(at / m, x) * size(at % m, -1))
                .collect();
            let expected = expected(&left, &right, shape);
            let nothing = vec![f32::NAN; n * m];
            let errors = both(&right, m).map(|right| {
                let left = Rows::new(&left, k);
                let to = &nothing;
                on_every_machine(|| Product { left, right: &right, onto: Onto::Nothing, to })
                    .into_iter()
                    .map(|(machine, got)| {
                        let squares =
                            got.iter().zip(&expected).enumerate().map(|(at, (&got, expected))| {
                                let size = f64::from(size(at / m, 1)) * f64::from(size(at % m, -1));
                                ((f64::from(got) - expected) / size).powi(2)
                            });
                        (machine, squares.sum::<f64>().sqrt())
                    })
                    .collect::<Vec<_>>()
            });
            let [by_pairs, others] = errors;
            for ((machine, by_pairs), (_, others)) in by_pairs.into_iter().zip(others) {
                let (ratio, most) = (by_pairs / others, most.max(other_most));
                assert!(ratio < most, "{machine}, {of_left} and {of_right}: {ratio}");
            }
        }
    }

    #[test]
    fn rows_and_columns_of_zeros_give_zeros_and_what_is_not_finite_stays_in_its_own() {
        let [n, k, m] = [13, 150, 70];
        let (mut left, mut right) = (drawn(1, n * k), drawn(2, k * m));
        left[4 * k..5 * k].fill(0.0);
        right.iter_mut().skip(65).step_by(m).for_each(|x| *x = 0.0);
        let check = |left: &[f32], right: &[f32], is_finite: &dyn Fn(usize, usize) -> bool| {
            let (right, to) = (&both(right, m)[0], &vec![f32::NAN; n * m]);
            let left = Rows::new(left, k);
            for (machine, got) in
                on_every_machine(|| Product { left, right, onto: Onto::Nothing, to })
            {
                for (index, got) in got.iter().enumerate() {
                    let (row, column) = (index / m, index % m);
                    let name = format!("{machine}, {row}, {column}: {got}");
                    assert_eq!(got.is_finite(), is_finite(row, column), "{name}");
                    let is_zero = row == 4 || column == 65;
                    assert!(!got.is_finite() || (*got == 0.0) == is_zero, "{name}");
                }
            }
        };
        check(&left, &right, &|_, _| true);
        // Among the first and the second of a pair, those without one, and those left over.
        for depth in [3, 50, 100, 149] {
            for number in [f32::NAN, -f32::NAN, f32::INFINITY] {
                let mut broken = left.clone();
                broken[7 * k + depth] = number;
                check(&broken, &right, &|row, _| row != 7);
                let mut broken = right.clone();
                broken[depth * m + 69] = number;
                check(&left, &broken, &|_, column| column != 69);
            }
        }
    }
}
