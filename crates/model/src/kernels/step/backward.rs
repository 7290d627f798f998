//! Back.

use pulp::{Simd, WithSimd};

use super::{Place, lanes_of_tile};
use crate::kernels::cell::{load, store, unit_backward};
use crate::kernels::packing::{self, Packed, PanelRow};
use crate::kernels::prefetch::prefetch;
use crate::kernels::product::multiply_rows;

/// What a step back works on: n lanes, and some units.
pub(in crate::kernels) struct StepBackward<'a> {
    /// What flows back from the step behind this one, if there is any. All units only.
    pub(in crate::kernels) later: Option<Later<'a>>,
    /// The activated gates, `[n, 4 · units]`; then the gradients of their sums.
    pub(in crate::kernels) gates: &'a mut [f32],
    /// The cell states behind this step, `[n, units]`.
    pub(in crate::kernels) cells: &'a [f32],
    /// And before it.
    pub(in crate::kernels) earlier: &'a [f32],
    /// The gradient of the hidden states, `[n, units]`, without what comes from `later`.
    pub(in crate::kernels) grad_h: &'a [f32],
    /// The gradient of the cell states, `[n, units]`: behind this step, then before it.
    pub(in crate::kernels) grad_c: &'a mut [f32],
}

/// The step behind.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Later<'a> {
    /// The gradients of its gates' sums, `[n, 4H]`.
    pub(in crate::kernels) gates: &'a [f32],
    /// The transpose of the recurrent weight, `[4H, H]`.
    pub(in crate::kernels) weight: &'a Packed,
}

/// The places of a step back of so many units: two vectors each.
#[inline(always)]
pub(in crate::kernels) fn places_back<S: Simd>(
    _simd: S,
    units: usize,
) -> impl Iterator<Item = Place> + use<S> {
    (0..units).step_by(packing::WIDTH).flat_map(move |start| {
        let count = packing::WIDTH.min(units - start);
        (0..count).step_by(2 * S::F32_LANES).map(move |part| {
            let first = start + part;
            Place { first, width: units.min(first + 2 * S::F32_LANES) - first, part }
        })
    })
}

impl StepBackward<'_> {
    /// Makes the step of the units at a place; `lanes` is n.
    #[inline(always)]
    pub(in crate::kernels) fn run_at<S: Simd>(&mut self, simd: S, lanes: usize, place: Place) {
        let panel = self.later.map(|later| later.weight.panel(place.first / packing::WIDTH));
        let mut lane = 0;
        while lane < lanes {
            lane += match S::REGISTER_COUNT {
                32.. => self.some_rows::<S, 8>(simd, panel, place, lane, lanes),
                _ => self.some_rows::<S, 4>(simd, panel, place, lane, lanes),
            };
        }
    }

    /// As [`StepForward`](super::StepForward)'s.
    #[inline(always)]
    fn some_rows<S: Simd, const HIGH: usize>(
        &mut self,
        simd: S,
        panel: Option<&[PanelRow]>,
        place: Place,
        lane: usize,
        lanes: usize,
    ) -> usize {
        let rows = lanes_of_tile(lanes - lane, HIGH);
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
    use super::super::testing::{SHAPES, all, assert_close, numbers};
    use super::*;
    use crate::kernels::on_every_machine;

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
            let mut step = StepBackward {
                later: with_later.then_some(Later { gates: &later, weight: &weight }),
                gates: &mut gates,
                cells: &numbers(3, lanes * hidden),
                earlier: &numbers(4, lanes * hidden),
                grad_h: &numbers(5, lanes * hidden),
                grad_c: &mut grad_c,
            };
            places_back(simd, hidden).for_each(|place| step.run_at(simd, lanes, place));
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
