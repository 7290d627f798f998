//! The right factor of a product, laid so that a tile reads it in one stream.

use std::sync::Mutex;

use pulp::{Arch, Simd, WithSimd};

use super::cell::{load, store};
use super::parallel::{Piece, for_each};
use super::spare::{self, Numbers, Spare};
use super::transpose::{self, transpose};

/// Columns of a panel.
pub(super) const WIDTH: usize = 32;
/// What a packed number is worth in elementary operations: it waits for the memory.
pub(super) const WORK: usize = 16;

/// A matrix `[rows, columns]` in panels, whose rows lie one behind the other. The last panel is
/// filled up with zeros.
#[derive(Debug, Default)]
pub(super) struct Packed {
    panels: Vec<PanelRow>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// A row of a panel. On lines of the cache of its own: a vector that lies on two costs twice.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct PanelRow(pub(super) [f32; WIDTH]);

impl Packed {
    /// Packs a row-major matrix of so many columns.
    pub(super) fn new(matrix: &[f32], columns: usize) -> Self {
        let mut packed = Self::default();
        packed.pack_part(matrix, columns, columns);
        packed
    }

    /// Packs, in the place of what was there, the first `columns` of rows that lie `stride` apart.
    pub(super) fn pack_part(&mut self, matrix: &[f32], stride: usize, columns: usize) {
        self.begin(matrix.len().div_ceil(stride), columns);
        self.fill(matrix, stride, &[Piece { start: 0, length: columns }]);
    }

    /// Packs some units' columns of a weight `[R, 4H]`: `[R, 4 · units]`.
    pub(super) fn units(weight: &[f32], hidden: usize, units: Piece) -> Self {
        let mut packed = Self::default();
        packed.begin(weight.len() / (4 * hidden), 4 * units.length);
        packed.fill(weight, 4 * hidden, &columns_of_units(hidden, units));
        packed
    }

    /// Packs the transpose of the first `depths` columns of rows that lie `stride` apart.
    pub(super) fn pack_transposed(&mut self, matrix: &[f32], stride: usize, depths: usize) {
        self.begin(depths, matrix.len().div_ceil(stride));
        self.fill_transposed(matrix, stride, &[Piece { start: 0, length: depths }]);
    }

    /// Packs the transpose of some units' columns of a weight `[R, 4H]`: `[4 · units, R]`.
    pub(super) fn transposed_units(weight: &[f32], hidden: usize, units: Piece) -> Self {
        let mut packed = Self::default();
        packed.begin(4 * units.length, weight.len() / (4 * hidden));
        packed.fill_transposed(weight, 4 * hidden, &columns_of_units(hidden, units));
        packed
    }

    /// Fills all columns with those of the pieces of rows that lie `stride` apart.
    fn fill(&mut self, matrix: &[f32], stride: usize, pieces: &[Piece]) {
        let work = WORK * self.panels.len() * WIDTH;
        let panels = self.panels.chunks_exact_mut(self.rows.max(1)).enumerate().collect();
        for_each(panels, work, |(index, panel): (usize, &mut [PanelRow])| {
            let (mut column, place) = (0, Piece { start: index * WIDTH, length: WIDTH });
            for piece in pieces {
                let first = place.start.max(column);
                let end = (place.start + place.length).min(column + piece.length);
                if first < end {
                    let (from, offset) = (piece.start + first - column, first - place.start);
                    for (to, row) in panel.iter_mut().zip(matrix.chunks(stride)) {
                        let from = &row[from..][..end - first];
                        match offset {
                            0 => copy_first(&mut to.0, from),
                            _ => to.0[offset..][..from.len()].copy_from_slice(from),
                        }
                    }
                }
                column += piece.length;
            }
        });
    }

    /// Fills all depths with those columns of rows that lie `stride` apart which the pieces have.
    fn fill_transposed(&mut self, matrix: &[f32], stride: usize, pieces: &[Piece]) {
        let work = WORK * self.panels.len() * WIDTH;
        let panels = self.panels.chunks_exact_mut(self.rows.max(1));
        let panels = panels.zip(matrix.chunks(WIDTH * stride)).collect();
        let arch = Arch::new();
        for_each(panels, work, |(mut panel, rows): (&mut [PanelRow], &[f32])| {
            for piece in pieces {
                let (part, behind) = panel.split_at_mut(piece.length);
                arch.dispatch(FillTransposed { panel: part, rows, stride, first: piece.start });
                panel = behind;
            }
        });
    }

    /// All panels, by their indices.
    pub(super) fn panels(&self) -> Piece {
        Piece { start: 0, length: self.columns.div_ceil(WIDTH) }
    }

    /// The panel of this index, [`rows`](Self::rows) rows.
    pub(super) fn panel(&self, index: usize) -> &[PanelRow] {
        &self.panels[index * self.rows..][..self.rows]
    }

    /// Takes room, to be filled; what the last panel has too much is filled with zeros.
    fn begin(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        let count = columns.div_ceil(WIDTH) * rows;
        if self.panels.len() != count {
            spare::give(std::mem::replace(&mut self.panels, spare::take(count)));
        }
        if !columns.is_multiple_of(WIDTH) {
            self.panels[count - rows..].fill(PanelRow::all(0.0));
        }
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        spare::give(std::mem::take(&mut self.panels));
    }
}

impl Numbers for PanelRow {
    fn all(number: f32) -> Self {
        Self([number; WIDTH])
    }

    fn spare() -> &'static Mutex<Spare<Self>> {
        static SPARE: Mutex<Spare<PanelRow>> = Mutex::new(Spare::NOTHING);
        &SPARE
    }
}

/// Fills some depths of a panel with the columns from `first` on of rows that lie `stride` apart.
struct FillTransposed<'a> {
    panel: &'a mut [PanelRow],
    rows: &'a [f32],
    stride: usize,
    first: usize,
}

impl WithSimd for FillTransposed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { panel, rows, stride, first } = self;
        let lanes = S::F32_LANES;
        let columns = panel.len();
        for (rows, place) in rows.chunks(lanes * stride).zip((0..WIDTH).step_by(lanes)) {
            for (index, panel) in panel.chunks_mut(lanes).enumerate() {
                let start = index * lanes;
                let width = lanes.min(columns - start);
                let mut block = [simd.splat_f32s(0.0); transpose::MOST];
                for (to, row) in block.iter_mut().zip(rows.chunks(stride)) {
                    *to = load(simd, &row[first + start..][..width]);
                }
                let block = transpose(simd, block);
                for (to, from) in panel.iter_mut().zip(block) {
                    store(simd, &mut to.0[place..][..lanes], from);
                }
            }
        }
    }
}

/// The columns of some units in each of the four blocks of a weight `[R, 4H]`.
fn columns_of_units(hidden: usize, units: Piece) -> [Piece; 4] {
    std::array::from_fn(|gate| Piece { start: gate * hidden + units.start, ..units })
}

/// Copies the first numbers, or what there is of them. All of them in a few instructions: a call would
/// cost as much again.
#[inline(always)]
pub(super) fn copy_first<const N: usize>(to: &mut [f32; N], from: &[f32]) {
    match from.first_chunk::<N>() {
        Some(from) => *to = *from,
        None => to[..from.len()].copy_from_slice(from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::sequence::gather_units;

    #[test]
    fn what_was_there_before_is_not_seen() {
        let matrix = vec![1.0; 40 * 40];
        let mut packed = Packed::default();
        let check = |packed: &Packed, rows: usize, columns: usize| {
            assert_eq!([packed.rows, packed.columns], [rows, columns]);
            for column in 0..packed.panels().length * WIDTH {
                let expected = if column < columns { 1.0 } else { 0.0 };
                for row in packed.panel(column / WIDTH) {
                    assert_eq!(row.0[column % WIDTH], expected, "{rows} × {columns}, {column}");
                }
            }
        };
        // Of these all have eight rows of panels but the last.
        for (rows, columns) in [(8, 32), (4, 40), (8, 20), (4, 64), (2, 100), (9, 33)] {
            packed.pack_part(&matrix[..rows * columns], columns, columns);
            check(&packed, rows, columns);
            packed.pack_transposed(&matrix[..rows * columns], rows, rows);
            check(&packed, rows, columns);
        }
    }

    #[test]
    fn units_are_packed_where_they_lie() {
        for (rows, hidden, start, length) in [(1, 1, 0, 1), (5, 16, 0, 16), (9, 40, 16, 24)]
            .into_iter()
            .chain([(33, 129, 80, 49), (70, 129, 0, 80), (17, 96, 32, 64)])
        {
            let units = Piece { start, length };
            let weight: Vec<f32> = (0..rows * 4 * hidden).map(|number| number as f32).collect();
            let gathered = gather_units(&weight, hidden, units);
            let columns = 4 * length;
            let number = |packed: &Packed, row: usize, column: usize| {
                packed.panel(column / WIDTH)[row].0[column % WIDTH]
            };
            let packed = Packed::units(&weight, hidden, units);
            let transposed = Packed::transposed_units(&weight, hidden, units);
            assert_eq!([packed.rows, packed.columns], [rows, columns]);
            assert_eq!([transposed.rows, transposed.columns], [columns, rows]);
            for (index, &expected) in gathered.iter().enumerate() {
                let (row, column) = (index / columns, index % columns);
                assert_eq!(number(&packed, row, column), expected);
                assert_eq!(number(&transposed, column, row), expected);
            }
            // What a last panel is filled up with.
            let all_columns = packed.panels().length * WIDTH;
            for column in columns..all_columns {
                assert!((0..rows).all(|row| number(&packed, row, column) == 0.0));
            }
            for row in rows..transposed.panels().length * WIDTH {
                assert!((0..columns).all(|column| number(&transposed, column, row) == 0.0));
            }
        }
    }
}
