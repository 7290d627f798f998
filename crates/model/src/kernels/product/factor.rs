//! The right factor of products of many rows, in the form in which they are the faster ones.

use pulp::Simd;

use super::pairs::{PairPanels, ScaledRows, pairs_pay, product_by_pairs};
use super::{Onto, product, product_of};
use crate::kernels::packing::{self, Packed};
use crate::kernels::parallel::Piece;
use crate::kernels::rows::Rows;
use crate::kernels::step;

/// Rows that are scaled at a time, and stay in the cache while all panels pass.
const ROWS: usize = 64;

/// A right factor.
#[derive(Debug)]
pub(in crate::kernels) enum RightFactor {
    /// Its products are formed as always.
    Plain(Packed),
    /// [By pairs](crate::kernels::pairs).
    ByPairs(PairPanels),
}

impl RightFactor {
    /// Of products of so many rows at a time, and in all.
    pub(in crate::kernels) fn new(packed: Packed, rows: usize, all: usize) -> Self {
        match pairs_pay(rows, all, packed.rows, packed.columns) {
            true => Self::ByPairs(PairPanels::new(&packed)),
            false => Self::Plain(packed),
        }
    }

    pub(in crate::kernels) fn rows(&self) -> usize {
        match self {
            Self::Plain(packed) => packed.rows,
            Self::ByPairs(panels) => panels.rows,
        }
    }

    pub(in crate::kernels) fn columns(&self) -> usize {
        match self {
            Self::Plain(packed) => packed.columns,
            Self::ByPairs(panels) => panels.columns,
        }
    }

    /// All panels, by their indices.
    pub(in crate::kernels) fn panels(&self) -> Piece {
        match self {
            Self::Plain(packed) => packed.panels(),
            Self::ByPairs(panels) => panels.panels(),
        }
    }

    /// Columns of a panel.
    pub(in crate::kernels) fn width(&self) -> usize {
        match self {
            Self::Plain(_) => packing::WIDTH,
            Self::ByPairs(_) => step::WIDTH,
        }
    }

    /// As [`product`](super::product); `multiplied` lends its memory.
    ///
    /// # Panics
    ///
    /// As [`product`](super::product).
    #[inline(always)]
    pub(in crate::kernels) fn product<S: Simd>(
        &self,
        simd: S,
        left: Rows<'_>,
        multiplied: &mut LeftRows,
        onto: Onto<'_>,
        to: &mut [f32],
    ) {
        match self {
            Self::Plain(packed) => product(simd, left, packed, onto, to),
            Self::ByPairs(panels) => {
                let scaled = &mut multiplied.0;
                for rows in Piece::all(to.len() / panels.columns, ROWS) {
                    scaled.take(left, rows);
                    let to = &mut to[rows.start * panels.columns..][..rows.length * panels.columns];
                    product_by_pairs(simd, scaled, panels, panels.panels(), onto, to);
                }
            }
        }
    }
}

/// Rows of a left factor, to be multiplied with one panel after the other.
#[derive(Debug, Default)]
pub(in crate::kernels) struct LeftRows(ScaledRows);

impl LeftRows {
    /// Makes the rows ready for a right factor, in the place of those that were there.
    #[inline(always)]
    pub(in crate::kernels) fn take(&mut self, left: Rows<'_>, right: &RightFactor) {
        if let RightFactor::ByPairs(_) = right {
            self.0.take(left, Piece { start: 0, length: left.count() });
        }
    }

    /// The product of the rows, which were [made ready](Self::take), with some panels' columns, into `to`; the others of
    /// `to` remain as they are.
    #[inline(always)]
    pub(in crate::kernels) fn product_of<S: Simd>(
        &self,
        simd: S,
        left: Rows<'_>,
        right: &RightFactor,
        panels: Piece,
        to: &mut [f32],
    ) {
        match right {
            RightFactor::Plain(packed) => {
                product_of(simd, left, packed, panels, Onto::Nothing, to);
            }
            RightFactor::ByPairs(right) => {
                product_by_pairs(simd, &self.0, right, panels, Onto::Nothing, to);
            }
        }
    }
}
