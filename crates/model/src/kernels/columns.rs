//! A matrix of which every thread writes some columns.

use std::marker::PhantomData;

use super::parallel::Piece;

/// Some columns of all rows of a matrix; nobody else has them meanwhile.
#[derive(Debug)]
pub(super) struct Columns<'a, T> {
    /// Where those of the first row begin.
    first: *mut T,
    rows: usize,
    width: usize,
    /// From one row to the next.
    stride: usize,
    matrix: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for the `&mut [T]` of its rows, which may go to another thread where `T` may.
unsafe impl<T: Send> Send for Columns<'_, T> {}

impl<'a, T> Columns<'a, T> {
    /// Divides the rows, `stride` numbers each, into pieces that stand one behind the other.
    ///
    /// # Panics
    ///
    /// Where the last row is not whole, a piece begins before the end of the one before, or the last
    /// ends behind the row.
    pub(super) fn divide(matrix: &'a mut [T], stride: usize, pieces: &[Piece]) -> Vec<Self> {
        let rows = matrix.len() / stride.max(1);
        assert_eq!(matrix.len(), rows * stride, "a matrix has whole rows");
        let first = matrix.as_mut_ptr();
        let mut end = 0;
        let columns = pieces.iter().map(|piece| {
            assert!(piece.start >= end, "pieces of a row have no number in common");
            let fits = piece.start <= stride && piece.length <= stride - piece.start;
            assert!(fits, "a piece of a row does not go beyond it");
            end = piece.start + piece.length;
            let first = first.wrapping_add(piece.start);
            Self { first, rows, width: piece.length, stride, matrix: PhantomData }
        });
        columns.collect()
    }

    /// The number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The columns of a row.
    ///
    /// # Panics
    ///
    /// Where there is no such row.
    #[inline(always)]
    pub(super) fn row(&mut self, index: usize) -> &mut [T] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: the matrix is borrowed mutably as long as this lives, and it has this row, and the row
        // these columns: `divide` has seen that. What it made beside this has other columns, and the
        // slice borrows this, so that no second one of its columns is there meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(index * self.stride), self.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_written_side_by_side() {
        let pieces = [(0, 2), (2, 3), (6, 1)].map(|(start, length)| Piece { start, length });
        let mut matrix = vec![0; 4 * 7];
        std::thread::scope(|scope| {
            for (mark, mut columns) in
                Columns::divide(&mut matrix, 7, &pieces).into_iter().enumerate()
            {
                scope.spawn(move || {
                    for index in 0..columns.rows() {
                        columns.row(index).fill(10 * index + mark + 1);
                    }
                });
            }
        });
        for (index, row) in matrix.chunks_exact(7).enumerate() {
            assert_eq!(
                row,
                [1, 1, 2, 2, 2, 0, 3].map(|mark| if mark > 0 { 10 * index + mark } else { 0 })
            );
        }
    }

    #[test]
    #[should_panic(expected = "in common")]
    fn pieces_that_overlap_are_refused() {
        let pieces = [(0, 2), (1, 3)].map(|(start, length)| Piece { start, length });
        Columns::divide(&mut [0; 8], 4, &pieces);
    }

    #[test]
    #[should_panic(expected = "beyond it")]
    fn a_piece_beyond_the_row_is_refused() {
        Columns::divide(&mut [0; 8], 4, &[Piece { start: 3, length: 2 }]);
    }
}
