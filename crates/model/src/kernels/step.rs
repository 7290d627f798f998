//! One time step of some lanes and units, forward and back: the recurrent product, and what becomes
//! of its sums while they are still in registers.

mod backward;
mod forward;
mod pairs;
mod panels;

pub(super) use backward::{Later, StepBackward, places_back};
pub(super) use forward::{End, Starts, StepForward};
pub(super) use pairs::{PanelFactors, pairs_pay, row_factors, sequence_pairs_pay};
pub(super) use panels::{GatePanels, GateRow, UNITS, WIDTH, add_depth, quarters};

/// Which units a vector holds: from `first` on, `width` of them, at `part` of their panel's.
#[derive(Clone, Copy)]
pub(super) struct Place {
    first: usize,
    width: usize,
    part: usize,
}

/// How many of the lanes left a tile takes that has room for `most`: so many that the last ones do
/// not stand alone.
pub(super) fn lanes_of_tile(left: usize, most: usize) -> usize {
    left.div_ceil(left.div_ceil(most))
}

/// What the tests of both directions share.
#[cfg(test)]
mod testing {
    use crate::kernels::parallel::Piece;

    pub(super) fn numbers(n: usize, count: usize) -> Vec<f32> {
        (0..count).map(|k| 0.8 * ((k * (n + 3)) as f32 * 0.37 + n as f32).sin()).collect()
    }

    pub(super) fn all(hidden: usize) -> Piece {
        Piece { start: 0, length: hidden }
    }

    pub(super) const SHAPES: [[usize; 2]; 9] =
        [[1, 1], [1, 128], [2, 7], [3, 16], [5, 33], [6, 40], [13, 17], [16, 64], [19, 31]];

    pub(super) fn assert_close(name: &str, got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-5, "{name}: {got}, not {expected}");
        }
    }
}
