//! The recurrent weight, laid so that a tile reads all four gates of some units in one stream.

use std::borrow::{Borrow, BorrowMut};
use std::sync::Mutex;

use pulp::Simd;

use super::Place;
use super::pairs::PanelFactors;
use crate::kernels::packing::{WORK, copy_first};
use crate::kernels::parallel::{Piece, for_each};
use crate::kernels::spare::{self, Numbers, Spare};

/// Units of a panel.
pub(in crate::kernels) const UNITS: usize = 16;
/// Columns of a panel: the four gates', one behind the other.
pub(in crate::kernels) const WIDTH: usize = 4 * UNITS;

/// A row of a panel: of units of all gates, or just of so many columns. On lines of the cache of its own: a vector
/// that lies on two costs twice.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(in crate::kernels) struct GateRow(pub(in crate::kernels) [f32; WIDTH]);

impl Borrow<[f32; WIDTH]> for GateRow {
    fn borrow(&self) -> &[f32; WIDTH] {
        &self.0
    }
}

impl BorrowMut<[f32; WIDTH]> for GateRow {
    fn borrow_mut(&mut self) -> &mut [f32; WIDTH] {
        &mut self.0
    }
}

impl Numbers for GateRow {
    fn all(number: f32) -> Self {
        Self([number; WIDTH])
    }

    fn spare() -> &'static Mutex<Spare<Self>> {
        static SPARE: Mutex<Spare<GateRow>> = Mutex::new(Spare::NOTHING);
        &SPARE
    }
}

/// The columns of some units of a weight `[D, 4H]`, as they are or [scaled](Self::by_pairs), in panels of
/// [`UNITS`] units that hold all four gates. The last panel is filled up with zeros.
#[derive(Debug)]
pub(in crate::kernels) struct GatePanels {
    panels: Vec<GateRow>,
    depth: usize,
    units: usize,
    /// Of every panel, where products are formed by pairs: its columns are scaled then.
    factors: Option<Vec<PanelFactors>>,
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
        Self { panels, depth, units: units.length, factors: None }
    }

    /// The same, scaled for products by pairs.
    pub(in crate::kernels) fn by_pairs(mut self) -> Self {
        let work = WORK * self.panels.len() * WIDTH;
        let panels = self.panels.chunks_exact_mut(self.depth.max(1)).collect();
        self.factors =
            Some(for_each(panels, work, |panel: &mut [GateRow]| PanelFactors::scaling(panel)));
        self
    }

    pub(in crate::kernels) fn is_by_pairs(&self) -> bool {
        self.factors.is_some()
    }

    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// All rows of the weight.
    pub(in crate::kernels) fn depths(&self) -> Piece {
        Piece { start: 0, length: self.depth }
    }

    /// The panel of a place.
    #[inline(always)]
    pub(super) fn panel_at(&self, place: Place) -> (&[GateRow], Option<&PanelFactors>) {
        let index = place.first / UNITS;
        let factors = self.factors.as_ref().map(|factors| &factors[index]);
        (&self.panels[index * self.depth..][..self.depth], factors)
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

/// The product of rows with a vector of units of a panel, for all four gates: a tile in registers.
#[inline(always)]
pub(super) fn multiply_gates<S: Simd, const ROWS: usize>(
    simd: S,
    rows: [&[f32]; ROWS],
    panel: &[GateRow],
    part: usize,
) -> [[S::f32s; 4]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); 4]; ROWS];
    add_depths(simd, &mut sums, rows, panel, part);
    sums
}

/// Adds the product of rows with a panel of as many depths.
#[inline(always)]
pub(super) fn add_depths<S: Simd, const ROWS: usize>(
    simd: S,
    sums: &mut [[S::f32s; 4]; ROWS],
    rows: [&[f32]; ROWS],
    panel: &[GateRow],
    part: usize,
) {
    for (depth, weights) in panel.iter().enumerate() {
        let mut factors = [0.0; ROWS];
        for (factor, row) in factors.iter_mut().zip(rows) {
            *factor = row[depth];
        }
        add_depth(simd, sums, &factors, weights, part);
    }
}

/// Adds what one row of a panel contributes.
#[inline(always)]
pub(in crate::kernels) fn add_depth<S: Simd, const ROWS: usize>(
    simd: S,
    sums: &mut [[S::f32s; 4]; ROWS],
    factors: &[f32; ROWS],
    weights: &GateRow,
    part: usize,
) {
    let vectors = quarters(simd, &weights.0, part);
    for (sums, factor) in sums.iter_mut().zip(factors) {
        let factor = simd.splat_f32s(*factor);
        for (sum, weight) in sums.iter_mut().zip(vectors) {
            *sum = simd.mul_add_e_f32s(factor, weight, *sum);
        }
    }
}

/// A vector of each quarter of a row: of units of every gate, where these are its columns.
#[inline(always)]
pub(in crate::kernels) fn quarters<S: Simd>(
    simd: S,
    row: &[f32; WIDTH],
    part: usize,
) -> [S::f32s; 4] {
    let mut vectors = [simd.splat_f32s(0.0); 4];
    for (vector, gate) in vectors.iter_mut().zip(row.chunks_exact(UNITS)) {
        *vector = S::as_simd_f32s(&gate[part..][..S::F32_LANES]).0[0];
    }
    vectors
}
