//! The right factor of a product, laid so that a tile reads it in one stream.

use super::parallel::Piece;

/// Columns of a panel.
pub(super) const WIDTH: usize = 32;
/// Rows that are packed side by side: few enough that a small cache keeps a line of each, even
/// where they lie a power of two apart.
pub(super) const STREAMS: usize = 8;
/// A matrix `[rows, columns]` in panels, whose rows lie one behind the other. The last panel is
/// filled up with zeros.
#[derive(Clone, Debug, Default)]
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
        packed.pack(matrix, columns);
        packed
    }

    /// As [`new`](Self::new), in the place of what was there.
    pub(super) fn pack(&mut self, matrix: &[f32], columns: usize) {
        self.pack_part(matrix, columns, columns);
    }

    /// As [`pack`](Self::pack), of rows that lie `stride` apart: their first `columns`.
    pub(super) fn pack_part(&mut self, matrix: &[f32], stride: usize, columns: usize) {
        let rows = matrix.len().div_ceil(stride);
        self.begin(rows, columns);
        for (index, from) in matrix.chunks(STREAMS * stride).enumerate() {
            for (panel, first) in
                self.panels.chunks_exact_mut(rows).zip((0..columns).step_by(WIDTH))
            {
                let width = WIDTH.min(columns - first);
                for (to, from) in panel[index * STREAMS..].iter_mut().zip(from.chunks(stride)) {
                    copy_first(&mut to.0, &from[first..][..width]);
                }
            }
        }
    }

    /// Packs the transpose of the first `depths` columns of rows that lie `stride` apart.
    pub(super) fn pack_transposed(&mut self, matrix: &[f32], stride: usize, depths: usize) {
        self.begin(depths, matrix.len().div_ceil(stride));
        self.fill_transposed(matrix, stride, Piece { start: 0, length: depths }, 0);
    }

    /// Packs the transpose of some units' columns of a weight `[R, 4H]`: `[4 · units, R]`.
    pub(super) fn transposed_units(weight: &[f32], hidden: usize, units: Piece) -> Self {
        let mut packed = Self::default();
        packed.begin(4 * units.length, weight.len() / (4 * hidden));
        for gate in 0..4 {
            let columns = Piece { start: gate * hidden + units.start, ..units };
            packed.fill_transposed(weight, 4 * hidden, columns, gate * units.length);
        }
        packed
    }

    /// Fills the depths from `depth` on with columns of a matrix whose rows lie `stride` apart.
    fn fill_transposed(&mut self, matrix: &[f32], stride: usize, columns: Piece, depth: usize) {
        let Piece { start, length } = columns;
        let panels = self.panels.chunks_exact_mut(self.rows);
        for (panel, rows) in panels.zip(matrix.chunks(WIDTH * stride)) {
            let panel = &mut panel[depth..][..length];
            for (index, rows) in rows.chunks(STREAMS * stride).enumerate() {
                let first = index * STREAMS;
                if rows.len() > (STREAMS - 1) * stride {
                    let rows: [&[f32]; STREAMS] =
                        std::array::from_fn(|row| &rows[row * stride + start..][..length]);
                    for (depth, to) in panel.iter_mut().enumerate() {
                        let numbers: [f32; STREAMS] = std::array::from_fn(|row| rows[row][depth]);
                        to.0[first..first + STREAMS].copy_from_slice(&numbers);
                    }
                } else {
                    for (offset, row) in rows.chunks(stride).enumerate() {
                        for (to, &from) in panel.iter_mut().zip(&row[start..]) {
                            to.0[first + offset] = from;
                        }
                    }
                }
            }
        }
    }

    /// All panels, by their indices.
    pub(super) fn panels(&self) -> Piece {
        Piece { start: 0, length: self.columns.div_ceil(WIDTH) }
    }

    /// The panel of this index, [`rows`](Self::rows) rows.
    pub(super) fn panel(&self, index: usize) -> &[PanelRow] {
        &self.panels[index * self.rows..][..self.rows]
    }

    fn begin(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        self.panels.clear();
        self.panels.resize(columns.div_ceil(WIDTH) * rows, PanelRow([0.0; WIDTH]));
    }
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
