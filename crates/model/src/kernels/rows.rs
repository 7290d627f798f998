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
    /// The rows of a group before these, which lie elsewhere.
    before: Option<&'a [f32]>,
}

impl<'a> Rows<'a> {
    /// The rows of a matrix.
    pub(super) fn new(numbers: &'a [f32], width: usize) -> Self {
        let (group, stride) = (numbers.len() / width, numbers.len().max(1));
        Self { numbers, first: 0, width, pitch: width, group, stride, before: None }
    }

    /// The rows of some lanes of a sequence `[.., batch, width]`.
    pub(super) fn of_lanes(numbers: &'a [f32], width: usize, batch: usize, lanes: Piece) -> Self {
        let numbers = numbers.get(lanes.start * width..).unwrap_or(&[]);
        let (group, stride) = (lanes.length, batch * width);
        Self { numbers, first: 0, width, pitch: width, group, stride, before: None }
    }

    /// Such rows behind a group of others, which begins with these numbers.
    pub(super) fn behind(self, before: &'a [f32]) -> Self {
        Self { before: Some(before), ..self }
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
        let (numbers, group) = match self.before {
            Some(before) if group == 0 => (before, 0),
            Some(_) => (self.numbers, group - 1),
            None => (self.numbers, group),
        };
        &numbers[group * self.stride + row * self.pitch + self.first..][..self.width]
    }

    /// The number of rows.
    pub(super) fn count(self) -> usize {
        let groups = self.numbers.len().div_ceil(self.stride) + usize::from(self.before.is_some());
        groups * self.group
    }
}
