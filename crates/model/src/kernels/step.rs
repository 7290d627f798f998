//! One time step of some lanes and units, forward and back: the recurrent product, and what becomes
//! of its sums while they are still in registers.

use pulp::{Simd, WithSimd};

use super::cell::{load, store, unit_backward, unit_forward, unit_output};
use super::parallel::Piece;
use super::prefetch::prefetch;
use super::product::{self, Packed, PanelRow, multiply_rows};

/// Units of a panel.
const UNITS: usize = 16;
/// Columns of a panel: the four gates', one behind the other.
const WIDTH: usize = 4 * UNITS;

/// A row of a panel. On lines of the cache of its own: a vector that lies on two costs twice.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct GateRow([f32; WIDTH]);

/// The columns of some units of a weight `[D, 4H]`, in panels of [`UNITS`] units that hold all four
/// gates. The last panel is filled up with zeros.
#[derive(Clone, Debug)]
pub(super) struct GatePanels {
    panels: Vec<GateRow>,
    depth: usize,
    units: usize,
}

impl GatePanels {
    /// Packs a row-major weight of `4 * hidden` columns.
    pub(super) fn new(weight: &[f32], hidden: usize, units: Piece) -> Self {
        let depth = weight.len() / (4 * hidden);
        let mut panels = vec![GateRow([0.0; WIDTH]); depth * units.length.div_ceil(UNITS)];
        // A few rows at a time, so that a small cache keeps a line of each.
        for (index, rows) in weight.chunks(8 * 4 * hidden).enumerate() {
            for (panel, first) in
                panels.chunks_exact_mut(depth).zip((0..units.length).step_by(UNITS))
            {
                let width = UNITS.min(units.length - first);
                for (to, row) in panel[8 * index..].iter_mut().zip(rows.chunks_exact(4 * hidden)) {
                    for (to, from) in to.0.chunks_exact_mut(UNITS).zip(row.chunks_exact(hidden)) {
                        to[..width].copy_from_slice(&from[units.start + first..][..width]);
                    }
                }
            }
        }
        Self { panels, depth, units: units.length }
    }
}

/// What a step works on: n lanes, and some units.
pub(super) struct StepForward<'a> {
    /// The recurrent weight of the units.
    pub(super) weight: &'a GatePanels,
    /// The hidden states of all units behind the step before, `[n, H]`.
    pub(super) h: &'a [f32],
    /// The input's share of the gates, `[n, 4 · units]`; then the activated gates.
    pub(super) gates: &'a mut [f32],
    /// The cell states, `[n, units]`: those before, then those behind the step.
    pub(super) c: &'a mut [f32],
    /// Gets the units' hidden states behind the step, `[n, units]`.
    pub(super) h_next: &'a mut [f32],
    /// Whether to begin with the last units. Steps that take turns find the weights that the step
    /// before read last still near.
    pub(super) reversed: bool,
}

impl StepForward<'_> {
    /// Makes the step.
    #[inline(always)]
    pub(super) fn run<S: Simd>(mut self, simd: S) {
        let GatePanels { depth, units, .. } = *self.weight;
        let lanes = self.c.len() / units;
        let weight = self.weight;
        let count = units.div_ceil(UNITS);
        for index in 0..count {
            let index = if self.reversed { count - 1 - index } else { index };
            let (panel, start) = (&weight.panels[index * depth..][..depth], index * UNITS);
            for part in (0..UNITS.min(units - start)).step_by(S::F32_LANES) {
                let first = start + part;
                let place = Place { first, width: S::F32_LANES.min(units - first), part };
                let mut lane = 0;
                while lane < lanes {
                    lane += match S::REGISTER_COUNT {
                        32.. => self.some_rows::<S, 6>(simd, panel, place, lane, lanes),
                        _ => self.some_rows::<S, 2>(simd, panel, place, lane, lanes),
                    };
                }
            }
        }
    }

    /// Takes the next lanes, `HIGH` at most, so that the last ones do not stand alone; returns
    /// how many.
    #[inline(always)]
    fn some_rows<S: Simd, const HIGH: usize>(
        &mut self,
        simd: S,
        panel: &[GateRow],
        place: Place,
        lane: usize,
        lanes: usize,
    ) -> usize {
        let left = lanes - lane;
        let rows = left.div_ceil(left.div_ceil(HIGH));
        match rows {
            6 => self.rows::<S, 6>(simd, panel, place, lane),
            5 => self.rows::<S, 5>(simd, panel, place, lane),
            4 => self.rows::<S, 4>(simd, panel, place, lane),
            3 => self.rows::<S, 3>(simd, panel, place, lane),
            2 => self.rows::<S, 2>(simd, panel, place, lane),
            _ => self.rows::<S, 1>(simd, panel, place, lane),
        }
        rows
    }

    /// A vector of units in `ROWS` lanes.
    #[inline(always)]
    fn rows<S: Simd, const ROWS: usize>(
        &mut self,
        simd: S,
        panel: &[GateRow],
        place: Place,
        lane: usize,
    ) {
        let units = self.weight.units;
        let hidden = self.h.len() / (self.c.len() / units);
        let tile = TileForward::<ROWS> {
            panel,
            place,
            units,
            hidden,
            h: &self.h[lane * hidden..],
            gates: &mut self.gates[lane * 4 * units..],
            c: &mut self.c[lane * units..],
            h_next: &mut self.h_next[lane * units..],
        };
        simd.vectorize(tile);
    }
}

/// A vector of units in `ROWS` lanes, from the first on.
///
/// A function of its own for the compiler: in a large one it keeps the sums in memory.
struct TileForward<'a, const ROWS: usize> {
    panel: &'a [GateRow],
    place: Place,
    units: usize,
    hidden: usize,
    h: &'a [f32],
    gates: &'a mut [f32],
    c: &'a mut [f32],
    h_next: &'a mut [f32],
}

impl<const ROWS: usize> WithSimd for TileForward<'_, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { panel, place, units, hidden, h, gates, c, h_next } = self;
        let Place { first, width, part } = place;
        let mut rows = [&h[..0]; ROWS];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = &h[index * hidden..][..panel.len()];
        }
        let products = multiply_gates(simd, rows, panel, part);
        // Two passes, so that no row waits for its own outputs.
        for (row, mut sums) in products.into_iter().enumerate() {
            let mut at = row * 4 * units + first;
            for sum in &mut sums {
                *sum = simd.add_f32s(*sum, load(simd, &gates[at..][..width]));
                at += units;
            }
            let c = &mut c[row * units + first..][..width];
            let (activated, c_next) = unit_forward(simd, sums, load(simd, c));
            store(simd, c, c_next);
            let mut at = row * 4 * units + first;
            for gate in activated {
                store(simd, &mut gates[at..][..width], gate);
                at += units;
            }
        }
        for row in 0..ROWS {
            let at = row * units + first;
            let o = load(simd, &gates[row * 4 * units + 3 * units + first..][..width]);
            let h = unit_output(simd, o, load(simd, &c[at..][..width]));
            store(simd, &mut h_next[at..][..width], h);
        }
    }
}

/// Which units a vector holds: from `first` on, `width` of them, at `part` of their panel's.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    width: usize,
    part: usize,
}

/// The product of rows with a vector of units of a panel, for all four gates: a tile in registers.
#[inline(always)]
fn multiply_gates<S: Simd, const ROWS: usize>(
    simd: S,
    rows: [&[f32]; ROWS],
    panel: &[GateRow],
    part: usize,
) -> [[S::f32s; 4]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); 4]; ROWS];
    for (depth, weights) in panel.iter().enumerate() {
        let mut factors = [0.0; ROWS];
        for (factor, row) in factors.iter_mut().zip(rows) {
            *factor = row[depth];
        }
        add_depth(simd, &mut sums, &factors, weights, part);
    }
    sums
}

/// Adds what one row of a panel contributes.
#[inline(always)]
fn add_depth<S: Simd, const ROWS: usize>(
    simd: S,
    sums: &mut [[S::f32s; 4]; ROWS],
    factors: &[f32; ROWS],
    weights: &GateRow,
    part: usize,
) {
    let mut vectors = [simd.splat_f32s(0.0); 4];
    for (vector, gate) in vectors.iter_mut().zip(weights.0.chunks_exact(UNITS)) {
        *vector = S::as_simd_f32s(&gate[part..][..S::F32_LANES]).0[0];
    }
    for (sums, factor) in sums.iter_mut().zip(factors) {
        let factor = simd.splat_f32s(*factor);
        for (sum, weight) in sums.iter_mut().zip(vectors) {
            *sum = simd.mul_add_e_f32s(factor, weight, *sum);
        }
    }
}

/// What a step back works on: n lanes, and some units.
pub(super) struct StepBackward<'a> {
    /// What flows back from the step behind this one, if there is any. All units only.
    pub(super) later: Option<Later<'a>>,
    /// The activated gates, `[n, 4 · units]`; then the gradients of their sums.
    pub(super) gates: &'a mut [f32],
    /// The cell states behind this step, `[n, units]`.
    pub(super) cells: &'a [f32],
    /// And before it.
    pub(super) earlier: &'a [f32],
    /// The gradient of the hidden states, `[n, units]`, without what comes from `later`.
    pub(super) grad_h: &'a [f32],
    /// The gradient of the cell states, `[n, units]`: behind this step, then before it.
    pub(super) grad_c: &'a mut [f32],
}

/// The step behind.
#[derive(Clone, Copy)]
pub(super) struct Later<'a> {
    /// The gradients of its gates' sums, `[n, 4H]`.
    pub(super) gates: &'a [f32],
    /// The transpose of the recurrent weight, `[4H, H]`.
    pub(super) weight: &'a Packed,
}

impl StepBackward<'_> {
    /// Makes the step; `lanes` is n.
    #[inline(always)]
    pub(super) fn run<S: Simd>(mut self, simd: S, lanes: usize) {
        let units = self.cells.len() / lanes;
        let mut panels = self.later.map(|later| later.weight.panels());
        for start in (0..units).step_by(product::WIDTH) {
            let panel = panels.as_mut().and_then(Iterator::next);
            let count = product::WIDTH.min(units - start);
            for part in (0..count).step_by(2 * S::F32_LANES) {
                let first = start + part;
                let place =
                    Place { first, width: units.min(first + 2 * S::F32_LANES) - first, part };
                let mut lane = 0;
                while lane < lanes {
                    lane += match S::REGISTER_COUNT {
                        32.. => self.some_rows::<S, 8>(simd, panel, place, lane, lanes),
                        _ => self.some_rows::<S, 4>(simd, panel, place, lane, lanes),
                    };
                }
            }
        }
    }

    /// As [`StepForward::some_rows`].
    #[inline(always)]
    fn some_rows<S: Simd, const HIGH: usize>(
        &mut self,
        simd: S,
        panel: Option<&[PanelRow]>,
        place: Place,
        lane: usize,
        lanes: usize,
    ) -> usize {
        let left = lanes - lane;
        let rows = left.div_ceil(left.div_ceil(HIGH));
        match rows {
            8 => self.rows::<S, 8>(simd, panel, place, lane, lanes),
            7 => self.rows::<S, 7>(simd, panel, place, lane, lanes),
            6 => self.rows::<S, 6>(simd, panel, place, lane, lanes),
            5 => self.rows::<S, 5>(simd, panel, place, lane, lanes),
            4 => self.rows::<S, 4>(simd, panel, place, lane, lanes),
            3 => self.rows::<S, 3>(simd, panel, place, lane, lanes),
            2 => self.rows::<S, 2>(simd, panel, place, lane, lanes),
            _ => self.rows::<S, 1>(simd, panel, place, lane, lanes),
        }
        rows
    }

    /// Two vectors of units in `ROWS` lanes.
    #[inline(always)]
    fn rows<S: Simd, const ROWS: usize>(
        &mut self,
        simd: S,
        panel: Option<&[PanelRow]>,
        place: Place,
        lane: usize,
        lanes: usize,
    ) {
        let units = self.cells.len() / lanes;
        let first = lane * units;
        let tile = TileBackward::<ROWS> {
            later: self
                .later
                .zip(panel)
                .map(|(later, panel)| (&later.gates[lane * panel.len()..], panel)),
            place,
            units,
            gates: &mut self.gates[4 * first..],
            cells: &self.cells[first..],
            earlier: &self.earlier[first..],
            grad_h: &self.grad_h[first..],
            grad_c: &mut self.grad_c[first..],
        };
        simd.vectorize(tile);
    }
}

/// Into how many portions a product is cut to call for numbers in between.
const PORTIONS: usize = 4;

/// Two vectors of units in `ROWS` lanes, from the first on.
struct TileBackward<'a, const ROWS: usize> {
    /// The gradients of the gates one step later, and their weights for these units.
    later: Option<(&'a [f32], &'a [PanelRow])>,
    place: Place,
    units: usize,
    gates: &'a mut [f32],
    cells: &'a [f32],
    earlier: &'a [f32],
    grad_h: &'a [f32],
    grad_c: &'a mut [f32],
}

impl<const ROWS: usize> WithSimd for TileBackward<'_, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { later, place, units, gates, cells, earlier, grad_h, grad_c } = self;
        let Place { first, width, part } = place;
        let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
        if let Some((later, panel)) = later {
            // What becomes of the sums comes from far. It is called for while they are being formed,
            // a few lines at a time: the memory keeps no long list of calls.
            let chunk = panel.len().div_ceil(PORTIONS);
            for (portion, panel) in panel.chunks(chunk).enumerate() {
                for row in (0..ROWS).skip(portion).step_by(PORTIONS) {
                    for gate in 0..4 {
                        prefetch(&gates[(4 * row + gate) * units + first..][..width]);
                    }
                    for numbers in [cells, earlier, grad_h] {
                        prefetch(&numbers[row * units + first..][..width]);
                    }
                }
                let depth = 4 * units;
                let mut rows = [&later[..0]; ROWS];
                for (index, row) in rows.iter_mut().enumerate() {
                    *row = &later[index * depth + portion * chunk..][..panel.len()];
                }
                sums = multiply_rows(simd, sums, rows, panel, part);
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (index, sum) in sums.into_iter().enumerate() {
                let offset = index * S::F32_LANES;
                if offset >= width {
                    continue;
                }
                let (first, width) = (first + offset, S::F32_LANES.min(width - offset));
                let at = row * units + first;
                let grad_c = &mut grad_c[at..][..width];
                let states = [
                    load(simd, &cells[at..][..width]),
                    load(simd, &earlier[at..][..width]),
                    simd.add_f32s(sum, load(simd, &grad_h[at..][..width])),
                    load(simd, grad_c),
                ];
                let mut activated = [sum; 4];
                let mut at = row * 4 * units + first;
                for gate in &mut activated {
                    *gate = load(simd, &gates[at..][..width]);
                    at += units;
                }
                let [i, f, g, o, before] = unit_backward(simd, activated, states);
                store(simd, grad_c, before);
                let mut at = row * 4 * units + first;
                for gradient in [i, f, g, o] {
                    store(simd, &mut gates[at..][..width], gradient);
                    at += units;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::on_every_machine;

    fn numbers(n: usize, count: usize) -> Vec<f32> {
        (0..count).map(|k| 0.8 * ((k * (n + 3)) as f32 * 0.37 + n as f32).sin()).collect()
    }

    fn all(hidden: usize) -> Piece {
        Piece { start: 0, length: hidden }
    }

    const SHAPES: [[usize; 2]; 9] =
        [[1, 1], [1, 128], [2, 7], [3, 16], [5, 33], [6, 40], [13, 17], [16, 64], [19, 31]];

    struct Forward([usize; 2], bool);

    impl WithSimd for Forward {
        /// The gates, the cell states and the hidden states.
        type Output = [Vec<f32>; 3];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self([lanes, hidden], reversed) = self;
            let weight = GatePanels::new(&numbers(0, 4 * hidden * hidden), hidden, all(hidden));
            let mut gates = numbers(2, lanes * 4 * hidden);
            let (mut c, mut h_next) = (numbers(3, lanes * hidden), vec![0.0; lanes * hidden]);
            StepForward {
                weight: &weight,
                h: &numbers(1, lanes * hidden),
                gates: &mut gates,
                c: &mut c,
                h_next: &mut h_next,
                reversed,
            }
            .run(simd);
            [gates, c, h_next]
        }
    }

    /// The same in double precision.
    fn plain_forward([lanes, hidden]: [usize; 2]) -> [Vec<f32>; 3] {
        let (weight, h) = (numbers(0, 4 * hidden * hidden), numbers(1, lanes * hidden));
        let (mut gates, mut c) = (numbers(2, lanes * 4 * hidden), numbers(3, lanes * hidden));
        let mut h_next = vec![0.0; lanes * hidden];
        for (lane, unit) in (0..lanes).flat_map(|lane| (0..hidden).map(move |unit| (lane, unit))) {
            let [i, f, g, o] = [0, 1, 2, 3].map(|gate| {
                let column = gate * hidden + unit;
                let place = lane * 4 * hidden + column;
                let sum = (0..hidden).fold(f64::from(gates[place]), |sum, depth| {
                    let weight = f64::from(weight[depth * 4 * hidden + column]);
                    sum + f64::from(h[lane * hidden + depth]) * weight
                });
                let value = if gate == 2 { sum.tanh() } else { 1.0 / (1.0 + (-sum).exp()) };
                gates[place] = value as f32;
                value
            });
            let at = lane * hidden + unit;
            let next = f * f64::from(c[at]) + i * g;
            c[at] = next as f32;
            h_next[at] = (o * next.tanh()) as f32;
        }
        [gates, c, h_next]
    }

    fn assert_close(name: &str, got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-5, "{name}: {got}, not {expected}");
        }
    }

    #[test]
    fn a_step_forward_is_the_equations() {
        for (shape, reversed) in
            SHAPES.into_iter().flat_map(|shape| [(shape, false), (shape, true)])
        {
            let expected = plain_forward(shape);
            for (machine, got) in on_every_machine(|| Forward(shape, reversed)) {
                for (got, expected) in got.iter().zip(&expected) {
                    assert_close(&format!("{machine}, {shape:?}"), got, expected);
                }
            }
        }
    }

    struct Backward([usize; 2], bool);

    impl WithSimd for Backward {
        /// The gradients of the gates and of the earlier cell states.
        type Output = [Vec<f32>; 2];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self([lanes, hidden], with_later) = self;
            let weight =
                Packed::transposed_units(&numbers(0, 4 * hidden * hidden), hidden, all(hidden));
            let later = numbers(1, lanes * 4 * hidden);
            let mut gates = activated(lanes * 4 * hidden);
            let mut grad_c = numbers(6, lanes * hidden);
            StepBackward {
                later: with_later.then_some(Later { gates: &later, weight: &weight }),
                gates: &mut gates,
                cells: &numbers(3, lanes * hidden),
                earlier: &numbers(4, lanes * hidden),
                grad_h: &numbers(5, lanes * hidden),
                grad_c: &mut grad_c,
            }
            .run(simd, lanes);
            [gates, grad_c]
        }
    }

    fn activated(count: usize) -> Vec<f32> {
        numbers(2, count).into_iter().map(|x| 0.5 + 0.5 * x).collect()
    }

    /// The same in double precision.
    fn plain_backward([lanes, hidden]: [usize; 2], with_later: bool) -> [Vec<f32>; 2] {
        let (weight, later) = (numbers(0, 4 * hidden * hidden), numbers(1, lanes * 4 * hidden));
        let (mut gates, mut grad_c) = (activated(lanes * 4 * hidden), numbers(6, lanes * hidden));
        let [cells, earlier, of_outputs] = [3, 4, 5].map(|n| numbers(n, lanes * hidden));
        for (lane, unit) in (0..lanes).flat_map(|lane| (0..hidden).map(move |unit| (lane, unit))) {
            let at = lane * hidden + unit;
            let width = 4 * hidden;
            let mut grad_h = f64::from(of_outputs[at]);
            if with_later {
                grad_h += (0..width)
                    .map(|k| {
                        f64::from(later[lane * width + k]) * f64::from(weight[unit * width + k])
                    })
                    .sum::<f64>();
            }
            let place = |gate: usize| lane * width + gate * hidden + unit;
            let [i, f, g, o] = [0, 1, 2, 3].map(|gate| f64::from(gates[place(gate)]));
            let squashed = f64::from(cells[at]).tanh();
            let grad = f64::from(grad_c[at]) + grad_h * o * (1.0 - squashed * squashed);
            let gradients = [
                grad * g * i * (1.0 - i),
                grad * f64::from(earlier[at]) * f * (1.0 - f),
                grad * i * (1.0 - g * g),
                grad_h * squashed * o * (1.0 - o),
            ];
            for (gate, gradient) in gradients.into_iter().enumerate() {
                gates[place(gate)] = gradient as f32;
            }
            grad_c[at] = (grad * f) as f32;
        }
        [gates, grad_c]
    }

    #[test]
    fn a_step_back_is_the_equations() {
        for (shape, with_later) in
            SHAPES.into_iter().flat_map(|shape| [(shape, false), (shape, true)])
        {
            let expected = plain_backward(shape, with_later);
            for (machine, got) in on_every_machine(|| Backward(shape, with_later)) {
                for (got, expected) in got.iter().zip(&expected) {
                    assert_close(&format!("{machine}, {shape:?}"), got, expected);
                }
            }
        }
    }
}
