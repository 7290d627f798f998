//! Forward.

use pulp::{Simd, WithSimd};

use super::pairs::PanelFactors;
use super::panels::{GatePanels, GateRow, multiply_gates};
use super::{Place, lanes_of_tile};
use crate::kernels::cell::{load, store, unit_forward, unit_output};
use crate::kernels::parallel::Piece;

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
    /// Those of them whose products are formed: all, where that is done by pairs.
    pub(in crate::kernels) depths: Piece,
    /// The lanes' [`row_factors`](super::row_factors), where products are formed by pairs.
    pub(in crate::kernels) row_factors: &'a [f32],
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
        let lanes = self.gates.len() / (4 * weight.units());
        let mut lane = 0;
        while lane < lanes {
            lane += match S::REGISTER_COUNT {
                // Both factors of a pair are in registers too.
                32.. if weight.is_by_pairs() => self.some_rows::<S, 5>(simd, place, lane, lanes),
                32.. => self.some_rows::<S, 6>(simd, place, lane, lanes),
                _ => self.some_rows::<S, 2>(simd, place, lane, lanes),
            };
        }
    }

    /// Takes the next lanes, `HIGH` at most; returns how many.
    #[inline(always)]
    fn some_rows<S: Simd, const HIGH: usize>(
        &mut self,
        simd: S,
        place: Place,
        lane: usize,
        lanes: usize,
    ) -> usize {
        let rows = lanes_of_tile(lanes - lane, HIGH);
        match rows {
            6 => self.rows::<S, 6>(simd, place, lane),
            5 => self.rows::<S, 5>(simd, place, lane),
            4 => self.rows::<S, 4>(simd, place, lane),
            3 => self.rows::<S, 3>(simd, place, lane),
            2 => self.rows::<S, 2>(simd, place, lane),
            _ => self.rows::<S, 1>(simd, place, lane),
        }
        rows
    }

    /// A vector of units in `ROWS` lanes.
    #[inline(always)]
    fn rows<S: Simd, const ROWS: usize>(&mut self, simd: S, place: Place, lane: usize) {
        let units = self.weight.units();
        let (panel, factors) = self.weight.panel_at(place);
        let pairs = factors.map(|factors| {
            debug_assert_eq!(self.depths.length, panel.len(), "by pairs all products are formed");
            (factors, self.row_factors[lane..].first_chunk().expect("every lane has a factor"))
        });
        let hidden = 4 * units * self.h.len() / self.gates.len();
        let end = self.end.as_mut().map(|End { starts, c, h_next }| End {
            starts: Starts { places: &starts.places[lane..][..ROWS], ..*starts },
            c: &mut c[lane * units..],
            h_next: &mut h_next[lane * units..],
        });
        let Piece { start, length } = self.depths;
        let tile = TileForward::<ROWS> {
            panel: &panel[start..][..length],
            pairs,
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
    /// Where the product is formed by pairs.
    pairs: Option<(&'a PanelFactors, &'a [f32; ROWS])>,
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
        let Self { panel, pairs, place, units, hidden, h, onto, gates, end } = self;
        let Place { first, width, part } = place;
        let mut rows = [&h[..0]; ROWS];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = &h[index * hidden..][..panel.len()];
        }
        let mut products = match pairs {
            Some((factors, of_rows)) => factors.multiply(simd, rows, of_rows, panel, part),
            None => multiply_gates(simd, rows, panel, part),
        };
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
                row_factors: &[],
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
                let mut step = StepForward {
                    weight: &weight,
                    h: &h,
                    depths,
                    row_factors: &[],
                    onto,
                    gates: &mut gates,
                    end: None,
                };
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
