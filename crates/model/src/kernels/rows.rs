//! Rows of numbers where they lie.

use super::parallel::Piece;

/// Rows of numbers in groups that are evenly spaced: those of some lanes of a sequence, one step
/// behind the other, or just a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    /// From the first row on, with all its columns.
    numbers: &'a [f32],
    /// Where the columns that count begin, in a row.
    first: usize,
    /// How many count.
    width: usize,
    /// From one row of a group to the next.
    pitch: usize,
    /// The rows of a group.
    group: usize,
    /// From one group to the next.
    stride: usize,
}

impl<'a> Rows<'a> {
    /// The rows of a matrix.
    pub(super) fn new(numbers: &'a [f32], width: usize) -> Self {
        let (group, stride) = (numbers.len() / width, numbers.len().max(1));
        Self { numbers, first: 0, width, pitch: width, group, stride }
    }

    /// The rows of some lanes of a sequence `[.., batch, width]`.
    pub(super) fn of_lanes(numbers: &'a [f32], width: usize, batch: usize, lanes: Piece) -> Self {
        let numbers = numbers.get(lanes.start * width..).unwrap_or(&[]);
        Self { numbers, first: 0, width, pitch: width, group: lanes.length, stride: batch * width }
    }

    /// Some columns of the rows.
    pub(super) fn columns(self, columns: Piece) -> Self {
        Self { first: self.first + columns.start, width: columns.length, ..self }
    }

    /// The numbers of a row.
    pub(super) fn width(self) -> usize {
        self.width
    }

    /// The row of this index.
    #[inline(always)]
    pub(super) fn row(self, index: usize) -> &'a [f32] {
        let (group, row) = (index / self.group, index % self.group);
        &self.numbers[group * self.stride + row * self.pitch + self.first..][..self.width]
    }

    /// The number of rows.
    pub(super) fn count(self) -> usize {
        self.numbers.len().div_ceil(self.stride) * self.group
    }
}
