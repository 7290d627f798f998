//! Recurrent products [by pairs](crate::kernels::pairs): the row of a product is a lane's hidden states, and the
//! columns are a panel's.

use pulp::Simd;

use super::panels::{GateRow, WIDTH, add_depth, add_depths, quarters};
use crate::kernels::pairs::{
    BLOCK, ColumnFactors, HALF, add_pair, adds_beside_multiplying, row_factor, thirds,
};

/// Whether products by pairs are the faster ones. With fewer lanes or units what stands around the loop, and
/// has become more, outweighs it.
pub(in crate::kernels) fn pairs_pay(lanes: usize, hidden: usize) -> bool {
    const LANES: usize = 8;
    const HIDDEN: usize = 128;
    /// Hidden states: eight lanes of 128 units are as fast either way.
    const ALL: usize = 2048;
    let are_many = lanes >= LANES && hidden >= HIDDEN && lanes * hidden >= ALL;
    are_many && adds_beside_multiplying()
}

/// The same over a sequence of so many rows in all, for which the weight is scaled anew.
pub(in crate::kernels) fn sequence_pairs_pay(lanes: usize, rows: usize, hidden: usize) -> bool {
    const LANES: usize = 16;
    const ROWS: usize = 1024;
    lanes >= LANES && rows >= ROWS && pairs_pay(lanes, hidden)
}

/// The factors of rows of hidden states.
pub(in crate::kernels) fn row_factors(h: &[f32], hidden: usize, to: &mut [f32]) {
    for (to, row) in to.iter_mut().zip(h.chunks_exact(hidden)) {
        *to = row_factor(row);
    }
}

/// What products with a panel by pairs begin and end with.
pub(in crate::kernels) type PanelFactors = ColumnFactors<WIDTH>;

impl PanelFactors {
    /// The product of rows with a vector of each quarter of the panel, before it is scaled: a tile in registers.
    #[inline(always)]
    pub(in crate::kernels) fn add_up<S: Simd, const ROWS: usize>(
        &self,
        simd: S,
        rows: [&[f32]; ROWS],
        row_factors: &[f32; ROWS],
        panel: &[GateRow],
        part: usize,
    ) -> [[S::f32s; 4]; ROWS] {
        let mut sums = [quarters(simd, &self.minus, part); ROWS];
        for (sums, factor) in sums.iter_mut().zip(row_factors) {
            let factor = simd.splat_f32s(*factor);
            for sum in sums {
                *sum = simd.sub_f32s(*sum, factor);
            }
        }
        let [first, second, single] = thirds(panel);
        let nothing: [&[[f32; BLOCK]]; ROWS] = [&[]; ROWS];
        let (mut firsts, mut seconds, mut singles) = (nothing, nothing, nothing);
        for (index, row) in rows.into_iter().enumerate() {
            let of_row = thirds(&row[..panel.len()]);
            firsts[index] = &of_row[0][..first.len()];
            seconds[index] = &of_row[1][..first.len()];
            singles[index] = &of_row[2][..first.len()];
        }
        for (index, ((first, second), single)) in first.iter().zip(second).zip(single).enumerate() {
            let (firsts, seconds) = (block_of(firsts, index), block_of(seconds, index));
            let singles = block_of(singles, index);
            for depth in 0..HALF {
                let h = [across(firsts, depth), across(seconds, depth)];
                let weights =
                    [quarters(simd, &first[depth].0, part), quarters(simd, &second[depth].0, part)];
                add_pair::<S, ROWS, false>(simd, &mut sums, h, weights);
                add_depth(simd, &mut sums, &across(singles, depth), &single[depth], part);
            }
            for depth in HALF..BLOCK {
                let h = [across(firsts, depth), across(seconds, depth)];
                let weights =
                    [quarters(simd, &first[depth].0, part), quarters(simd, &second[depth].0, part)];
                add_pair::<S, ROWS, true>(simd, &mut sums, h, weights);
                add_depth(simd, &mut sums, &across(singles, depth), &single[depth], part);
            }
        }
        let done = 3 * first.as_flattened().len();
        let mut rest = rows;
        for row in &mut rest {
            *row = &row[done..panel.len()];
        }
        add_depths(simd, &mut sums, rest, &panel[done..], part);
        sums
    }

    /// [Adds up](Self::add_up), and scales: the product of rows that are not scaled, as hidden states are not.
    #[inline(always)]
    pub(super) fn multiply<S: Simd, const ROWS: usize>(
        &self,
        simd: S,
        rows: [&[f32]; ROWS],
        row_factors: &[f32; ROWS],
        panel: &[GateRow],
        part: usize,
    ) -> [[S::f32s; 4]; ROWS] {
        let mut sums = self.add_up(simd, rows, row_factors, panel, part);
        let scales = quarters(simd, &self.scales, part);
        for sums in &mut sums {
            for (sum, scale) in sums.iter_mut().zip(scales) {
                *sum = simd.mul_f32s(*sum, scale);
            }
        }
        sums
    }
}

/// A block of every row.
#[inline(always)]
fn block_of<const ROWS: usize>(
    rows: [&[[f32; BLOCK]]; ROWS],
    index: usize,
) -> [&[f32; BLOCK]; ROWS] {
    let mut blocks = [&[0.0; BLOCK]; ROWS];
    for (block, row) in blocks.iter_mut().zip(rows) {
        *block = &row[index];
    }
    blocks
}

/// A number of every row.
#[inline(always)]
fn across<const ROWS: usize>(rows: [&[f32; BLOCK]; ROWS], depth: usize) -> [f32; ROWS] {
    let mut factors = [0.0; ROWS];
    for (factor, row) in factors.iter_mut().zip(rows) {
        *factor = row[depth];
    }
    factors
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::super::testing::{SHAPES, all, numbers};
    use super::super::{GatePanels, StepForward};
    use super::*;
    use crate::kernels::on_every_machine;
    use crate::kernels::pairs::testing::drawn;

    /// The recurrent products of some lanes, by pairs or not.
    struct Products<'a> {
        weight: &'a [f32],
        h: &'a [f32],
        hidden: usize,
        by_pairs: bool,
    }

    impl WithSimd for Products<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let Self { weight, h, hidden, by_pairs } = self;
            let weight = GatePanels::new(weight, hidden, all(hidden));
            let weight = if by_pairs { weight.by_pairs() } else { weight };
            let mut factors = vec![f32::NAN; h.len() / hidden];
            row_factors(h, hidden, &mut factors);
            let mut gates = vec![f32::NAN; 4 * h.len()];
            let mut step = StepForward {
                weight: &weight,
                h,
                depths: all(hidden),
                row_factors: &factors,
                onto: false,
                gates: &mut gates,
                end: None,
            };
            weight.places(simd, false).for_each(|place| step.run_at(simd, place));
            gates
        }
    }

    /// The same in double precision.
    fn expected(weight: &[f32], h: &[f32], hidden: usize) -> Vec<f64> {
        let mut sums = vec![0.0; 4 * h.len()];
        for (sums, h) in sums.chunks_exact_mut(4 * hidden).zip(h.chunks_exact(hidden)) {
            for (weights, &h) in weight.chunks_exact(4 * hidden).zip(h) {
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum += f64::from(h) * f64::from(weight);
                }
            }
        }
        sums
    }

    #[test]
    fn products_by_pairs_are_the_products() {
        // Around one and two blocks of pairs, and with nothing left over, one and all but one.
        let shapes = [[4, 23], [5, 24], [9, 25], [7, 47], [11, 48], [6, 49], [5, 144], [7, 130]];
        for [lanes, hidden] in SHAPES.into_iter().chain(shapes) {
            let h = numbers(1, lanes * hidden);
            for scale in [1e-30, 1e-3, 1.0, 1e4, 1e30] {
                let weight: Vec<f32> =
                    numbers(0, 4 * hidden * hidden).into_iter().map(|x| x * scale).collect();
                let expected = expected(&weight, &h, hidden);
                let bound = 1e-5 * f64::from(scale);
                let products = || Products { weight: &weight, h: &h, hidden, by_pairs: true };
                for (machine, got) in on_every_machine(products) {
                    for (&got, expected) in got.iter().zip(&expected) {
                        let name = format!("{machine}, {lanes} lanes of {hidden}, {scale}");
                        let error = (f64::from(got) - expected).abs();
                        assert!(error < bound, "{name}: {got}, not {expected}");
                    }
                }
            }
        }
    }

    type Change = fn(f32) -> f32;

    #[test]
    fn products_by_pairs_are_nearly_as_exact_as_others() {
        // Hidden states, each kind with how many times the others' error is allowed: small ones are not what
        // the weights are scaled for.
        let states: [(&str, Change, f64); 4] = [
            ("any", |x| x, 1.6),
            ("saturated", |x| 0.999_f32.copysign(x), 1.6),
            ("of one sign", |x| 0.9 + 0.1 * x, 2.2),
            ("small", |x| 0.1 * x, 5.0),
        ];
        // As they are drawn, and a few that are far larger than the rest.
        let weights: [(&str, Change); 2] =
            [("weights alike", |x| 0.05 * x), ("some weights large", |x| 2.0 * x.powi(9))];
        for hidden in [128, 512] {
            // Columns are of all sizes.
            let size = |column: usize| 10_f32.powi(column as i32 % 7 - 3);
            for ((state, of_state, times), (kind, of_weight)) in
                states.into_iter().flat_map(|state| weights.map(|weight| (state, weight)))
            {
                let h: Vec<f32> = drawn(1, 10 * hidden).into_iter().map(of_state).collect();
                let weight = drawn(2, 4 * hidden * hidden).into_iter().enumerate();
                let weight: Vec<f32> =
                    weight.map(|(index, x)| of_weight(x) * size(index % (4 * hidden))).collect();
                let expected = expected(&weight, &h, hidden);
                let errors = |by_pairs| {
                    let products = || Products { weight: &weight, h: &h, hidden, by_pairs };
                    on_every_machine(products).into_iter().map(|(machine, got)| {
                        let errors = got.iter().zip(&expected).enumerate();
                        let squares = errors.map(|(index, (&got, expected))| {
                            let size = f64::from(size(index % (4 * hidden)));
                            ((f64::from(got) - expected) / size).powi(2)
                        });
                        (machine, squares.sum::<f64>().sqrt())
                    })
                };
                for ((machine, by_pairs), (_, others)) in errors(true).zip(errors(false)) {
                    let ratio = by_pairs / others;
                    assert!(ratio < times, "{machine}, H = {hidden}, {state}, {kind}: {ratio}");
                }
            }
        }
    }

    #[test]
    fn a_lane_without_numbers_harms_no_other_and_weights_of_zero_give_nothing() {
        let (lanes, hidden) = (7, 52);
        // Among the first and the second of a pair, those without one, and those left over.
        for depth in [3, 18, 40, 51] {
            let mut h = numbers(1, lanes * hidden);
            h[3 * hidden + depth] = f32::NAN;
            let products = |weight: &[f32]| {
                on_every_machine(|| Products { weight, h: &h, hidden, by_pairs: true })
            };
            for (machine, got) in products(&vec![0.0; 4 * hidden * hidden]) {
                for (lane, row) in got.chunks_exact(4 * hidden).enumerate() {
                    let is_nothing = row.iter().all(|&x| x == 0.0);
                    assert!(lane == 3 || is_nothing, "{machine}, {lane}: {row:?}");
                }
            }
            for (machine, got) in products(&numbers(0, 4 * hidden * hidden)) {
                for (lane, row) in got.chunks_exact(4 * hidden).enumerate() {
                    assert!(row.iter().all(|x| x.is_nan() == (lane == 3)), "{machine}, {lane}");
                }
            }
        }
    }
}
