//! Forward.

use std::sync::Mutex;

use pulp::{Simd, WithSimd};

use super::{Place, lanes_of_tile};
use crate::kernels::cell::{load, store, unit_forward, unit_output};
use crate::kernels::packing::{WORK, copy_first};
use crate::kernels::parallel::{Piece, for_each};
use crate::kernels::spare::{self, Numbers, Spare};

/// Units of a panel.
const UNITS: usize = 16;
/// Columns of a panel: the four gates', one behind the other.
const WIDTH: usize = 4 * UNITS;

/// A row of a panel. On lines of the cache of its own: a vector that lies on two costs twice.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct GateRow([f32; WIDTH]);

impl Numbers for GateRow {
    fn all(number: f32) -> Self {
        Self([number; WIDTH])
    }

    fn spare() -> &'static Mutex<Spare<Self>> {
        static SPARE: Mutex<Spare<GateRow>> = Mutex::new(Spare::NOTHING);
        &SPARE
    }
}

/// The columns of some units of a weight `[D, 4H]`, in panels of [`UNITS`] units that hold all four
/// gates. The last panel is filled up with zeros.
#[derive(Debug)]
pub(in crate::kernels) struct GatePanels {
    panels: Vec<GateRow>,
    depth: usize,
    units: usize,
}

impl GatePanels {
    /// Packs a row-major weight of `4 * hidden` columns.
    pub(in crate::kernels) fn new(weight: &[f32], hidden: usize, units: Piece) -> Self {
        let depth = weight.len() / (4 * hidden);
        let count = units.length.div_ceil(UNITS);
        let mut panels = spare::take(depth * count);
        if !units.length.is_multiple_of(UNITS) {
            panels[depth * (count - 1)..].fill(GateRow::all(0.0));
        }
        let work = WORK * panels.len() * WIDTH;
        let parts = panels.chunks_exact_mut(depth.max(1)).enumerate().collect();
        for_each(parts, work, |(index, panel): (usize, &mut [GateRow])| {
            let first = index * UNITS;
            let width = UNITS.min(units.length - first);
            for (to, row) in panel.iter_mut().zip(weight.chunks_exact(4 * hidden)) {
                let (gates, _) = to.0.as_chunks_mut::<UNITS>();
                for (to, from) in gates.iter_mut().zip(row.chunks_exact(hidden)) {
                    copy_first(to, &from[units.start + first..][..width]);
                }
            }
        });
        Self { panels, depth, units: units.length }
    }

    /// All rows of the weight.
    pub(in crate::kernels) fn depths(&self) -> Piece {
        Piece { start: 0, length: self.depth }
    }

    /// The places of a step, a vector of units each. With `reversed` the last panel comes first: steps
    /// that take turns find the weights that the step before read last still near.
    #[inline(always)]
    pub(in crate::kernels) fn places<S: Simd>(
        &self,
        _simd: S,
        reversed: bool,
    ) -> impl Iterator<Item = Place> + use<S> {
        let units = self.units;
        let count = units.div_ceil(UNITS);
        (0..count).flat_map(move |index| {
            let start = UNITS * if reversed { count - 1 - index } else { index };
            (0..UNITS.min(units - start)).step_by(S::F32_LANES).map(move |part| {
                let first = start + part;
                Place { first, width: S::F32_LANES.min(units - first), part }
            })
        })
    }
}

impl Drop for GatePanels {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.panels));
    }
}

/// What the gates of n lanes begin with, wherever that stands.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Starts<'a> {
    pub(in crate::kernels) numbers: &'a [f32],
    /// Where each lane's begin: the first unit's of the first gate.
    pub(in crate::kernels) places: &'a [usize],
    /// How far the next gate's are from there.
    pub(in crate::kernels) stride: usize,
}

/// What a step works on: n lanes, and some units.
pub(in crate::kernels) struct StepForward<'a> {
    /// The recurrent weight of the units.
    pub(in crate::kernels) weight: &'a GatePanels,
    /// The hidden states of all units behind the step before, `[n, H]`.
    pub(in crate::kernels) h: &'a [f32],
    /// Those of them whose products are formed.
    pub(in crate::kernels) depths: Piece,
    /// Whether the gates have the products of others already.
    pub(in crate::kernels) onto: bool,
    /// Get the activated gates, `[n, 4 · units]`; without an end of the step, the recurrent
    /// products.
    pub(in crate::kernels) gates: &'a mut [f32],
    pub(in crate::kernels) end: Option<End<'a>>,
}

/// What a step ends with.
pub(in crate::kernels) struct End<'a> {
    /// The input's share of the gates.
    pub(in crate::kernels) starts: Starts<'a>,
    /// The cell states, `[n, units]`: those before, then those behind the step.
    pub(in crate::kernels) c: &'a mut [f32],
    /// Gets the units' hidden states behind the step, `[n, units]`.
    pub(in crate::kernels) h_next: &'a mut [f32],
}

impl StepForward<'_> {
    /// Makes the step of the units at a place.
    #[inline(always)]
    pub(in crate::kernels) fn run_at<S: Simd>(&mut self, simd: S, place: Place) {
        let weight = self.weight;
        let panel = &weight.panels[place.first / UNITS * weight.depth..][..weight.depth];
        let lanes = self.gates.len() / (4 * weight.units);
        let mut lane = 0;
        while lane < lanes {
            lane += match S::REGISTER_COUNT {
                32.. => self.some_rows::<S, 6>(simd, panel, place, lane, lanes),
                _ => self.some_rows::<S, 2>(simd, panel, place, lane, lanes),
            };
        }
    }

    /// Takes the next lanes, `HIGH` at most; returns how many.
    #[inline(always)]
    fn some_rows<S: Simd, const HIGH: usize>(
        &mut self,
        simd: S,
        panel: &[GateRow],
        place: Place,
        lane: usize,
        lanes: usize,
    ) -> usize {
        let rows = lanes_of_tile(lanes - lane, HIGH);
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
        let hidden = 4 * units * self.h.len() / self.gates.len();
        let end = self.end.as_mut().map(|End { starts, c, h_next }| End {
            starts: Starts { places: &starts.places[lane..][..ROWS], ..*starts },
            c: &mut c[lane * units..],
            h_next: &mut h_next[lane * units..],
        });
        let Piece { start, length } = self.depths;
        let tile = TileForward::<ROWS> {
            panel: &panel[start..][..length],
            place,
            units,
            hidden,
            h: &self.h[lane * hidden + start..],
            onto: self.onto,
            gates: &mut self.gates[lane * 4 * units..],
            end,
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
    onto: bool,
    gates: &'a mut [f32],
    end: Option<End<'a>>,
}

impl<const ROWS: usize> WithSimd for TileForward<'_, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { panel, place, units, hidden, h, onto, gates, end } = self;
        let Place { first, width, part } = place;
        let mut rows = [&h[..0]; ROWS];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = &h[index * hidden..][..panel.len()];
        }
        let mut products = multiply_gates(simd, rows, panel, part);
        if onto {
            for (row, sums) in products.iter_mut().enumerate() {
                let mut at = row * 4 * units + first;
                for sum in sums {
                    *sum = simd.add_f32s(*sum, load(simd, &gates[at..][..width]));
                    at += units;
                }
            }
        }
        let Some(End { starts, c, h_next }) = end else {
            for (row, sums) in products.into_iter().enumerate() {
                let mut at = row * 4 * units + first;
                for sum in sums {
                    store(simd, &mut gates[at..][..width], sum);
                    at += units;
                }
            }
            return;
        };
        // Two passes, so that no row waits for its own outputs.
        for (row, (mut sums, &start)) in products.into_iter().zip(starts.places).enumerate() {
            let mut at = start + first;
            for sum in &mut sums {
                *sum = simd.add_f32s(*sum, load(simd, &starts.numbers[at..][..width]));
                at += starts.stride;
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

#[cfg(test)]
mod tests {
    use super::super::testing::{SHAPES, all, assert_close, numbers};
    use super::*;
    use crate::kernels::on_every_machine;

    struct Forward([usize; 2], bool);

    impl WithSimd for Forward {
        /// The gates, the cell states and the hidden states.
        type Output = [Vec<f32>; 3];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let Self([lanes, hidden], reversed) = self;
            let weight = GatePanels::new(&numbers(0, 4 * hidden * hidden), hidden, all(hidden));
            let mut gates = vec![0.0; lanes * 4 * hidden];
            let places: Vec<usize> = (0..lanes).map(|lane| lane * 4 * hidden).collect();
            let (mut c, mut h_next) = (numbers(3, lanes * hidden), vec![0.0; lanes * hidden]);
            let mut step = StepForward {
                weight: &weight,
                h: &numbers(1, lanes * hidden),
                depths: all(hidden),
                onto: false,
                gates: &mut gates,
                end: Some(End {
                    starts: Starts {
                        numbers: &numbers(2, lanes * 4 * hidden),
                        places: &places,
                        stride: hidden,
                    },
                    c: &mut c,
                    h_next: &mut h_next,
                }),
            };
            weight.places(simd, reversed).for_each(|place| step.run_at(simd, place));
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

    /// Of so many depths at a time, with what is there before or without.
    struct Products([usize; 2], Vec<(Piece, bool)>);

    impl WithSimd for Products {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let Self([lanes, hidden], pieces) = self;
            let weight = GatePanels::new(&numbers(0, 4 * hidden * hidden), hidden, all(hidden));
            let h = numbers(1, lanes * hidden);
            let mut gates = vec![f32::NAN; lanes * 4 * hidden];
            for (depths, onto) in pieces {
                let gates = &mut gates;
                let mut step =
                    StepForward { weight: &weight, h: &h, depths, onto, gates, end: None };
                weight.places(simd, false).for_each(|place| step.run_at(simd, place));
            }
            gates
        }
    }

    #[test]
    fn products_come_in_pieces_too() {
        for [lanes, hidden] in SHAPES {
            let [first, second] = [hidden / 3, 2 * hidden / 3];
            let depths = |start, end, onto| (Piece::between(start, end), onto);
            let whole = || Products([lanes, hidden], vec![depths(0, hidden, false)]);
            // The middle is never empty.
            let middle = depths(first, second + 1, false);
            let rest = [depths(0, first, true), depths(second + 1, hidden, true)];
            let pieces = || Products([lanes, hidden], [&[middle], &rest[..]].concat());
            for ((machine, got), (_, whole)) in
                on_every_machine(pieces).into_iter().zip(on_every_machine(whole))
            {
                assert_close(&format!("{machine}, {lanes} lanes of {hidden}"), &got, &whole);
            }
        }
    }
}
