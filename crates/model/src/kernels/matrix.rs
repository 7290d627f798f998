//! General matrix products over threads.
//!
//! A product is cut over threads by its rows or columns, never by its depth: its bits do not depend on
//! their number.

use pulp::{Arch, Simd, WithSimd};

use super::columns::Columns;
use super::outer::outer;
use super::packing::{Packed, WIDTH};
use super::parallel::{Piece, for_each, piece_length, threads};
use super::product::{DEPTH, Onto, product};
use super::rows::Rows;
use super::spare;

/// A matrix to be read, row major or as the transpose of one.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    numbers: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix of so many columns.
    pub(super) fn new(numbers: &'a [f32], columns: usize) -> Self {
        assert_eq!(numbers.len() % columns, 0, "a matrix of {columns} columns has whole rows");
        Self { numbers, rows: numbers.len() / columns, columns, transposed: false }
    }

    /// Its transpose, without a copy.
    pub(super) fn transpose(self) -> Self {
        let Self { numbers, rows, columns, transposed } = self;
        Self { numbers, rows: columns, columns: rows, transposed: !transposed }
    }
}

/// left × right, onto a row, if one is given, into row-major `to`. One of the two at most is a
/// transpose.
pub(super) fn multiply(to: &mut [f32], row: Option<&[f32]>, left: Matrix<'_>, right: Matrix<'_>) {
    let (m, k, n) = (left.rows, left.columns, right.columns);
    assert_eq!(right.rows, k, "the depth of a product");
    assert!(!(left.transposed && right.transposed), "the transpose of a product");
    assert_eq!(to.len(), m * n, "the extent of a product");
    let (arch, work) = (Arch::new(), m * k * n);
    // The longer side is cut: what every thread must pack by itself is the shorter one. Of outer
    // products it lays the right factor ready a panel at a time, which is little beside a copy of
    // what comes out.
    if m >= n || left.transposed && m >= 8 * threads() {
        let onto = row.map_or(Onto::Nothing, Onto::Row);
        let rows = piece_length(m, work).next_multiple_of(8);
        let pieces = to
            .chunks_mut(rows * n)
            .enumerate()
            .map(|(index, to)| {
                let rows = Piece { start: index * rows, length: to.len() / n };
                let columns = Piece { start: 0, length: n };
                Multiply { left, right, rows, columns, onto, to }
            })
            .collect();
        for_each(pieces, work, |piece| arch.dispatch(piece));
        return;
    }
    let rows = Piece { start: 0, length: m };
    let pieces: Vec<Piece> = Piece::all(n, piece_length(n, work).next_multiple_of(WIDTH)).collect();
    let places = Columns::divide(to, n, &pieces);
    for_each(pieces.into_iter().zip(places).collect(), work, |(columns, mut places)| {
        let mut to = spare::take(m * columns.length);
        let onto = row.map_or(Onto::Nothing, |row| Onto::Row(&row[columns.start..]));
        arch.dispatch(Multiply { left, right, rows, columns, onto, to: &mut to });
        for (row, from) in to.chunks_exact(columns.length).enumerate() {
            places.row(row).copy_from_slice(from);
        }
        spare::give(to);
    });
}

/// Some rows and columns of a product.
struct Multiply<'a> {
    left: Matrix<'a>,
    right: Matrix<'a>,
    rows: Piece,
    columns: Piece,
    onto: Onto<'a>,
    to: &'a mut [f32],
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { left, right, rows, columns, onto, to } = self;
        let (k, m, n) = (left.columns, left.rows, right.columns);
        if left.transposed {
            let left = Rows::new(left.numbers, m).columns(rows);
            return outer(simd, left, Rows::new(right.numbers, n).columns(columns), onto, to);
        }
        let left = Rows::new(&left.numbers[rows.start * k..], k);
        let mut packed = Packed::default();
        for depths in Piece::all(k, DEPTH) {
            let depth = depths.start;
            match right.transposed {
                false => {
                    let end = (depth + depths.length) * n;
                    let part = &right.numbers[depth * n + columns.start..end];
                    packed.pack_part(part, n, columns.length);
                }
                true => {
                    let end = (columns.start + columns.length) * k;
                    let part = &right.numbers[columns.start * k + depth..end];
                    packed.pack_transposed(part, k, depths.length);
                }
            }
            let onto = if depth == 0 { onto } else { Onto::Present };
            product(simd, left.columns(depths), &packed, onto, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_transposes_are_the_naive_ones() {
        let number = |k: usize| (k as f32 * 0.37 + 0.1).sin();
        for (m, k, n) in [(1, 1, 1), (3, 1, 5), (1, 7, 2), (17, 33, 65), (64, 1030, 31)] {
            let left: Vec<f32> = (0..m * k).map(number).collect();
            let right: Vec<f32> = (0..k * n).map(|i| number(i + 5)).collect();
            let flip = |from: &[f32], columns: usize| -> Vec<f32> {
                let rows = from.len() / columns;
                (0..from.len()).map(|i| from[(i % rows) * columns + i / rows]).collect()
            };
            let (left_flipped, right_flipped) = (flip(&left, k), flip(&right, n));
            for (left, right) in [
                (Matrix::new(&left, k), Matrix::new(&right, n)),
                (Matrix::new(&left_flipped, m).transpose(), Matrix::new(&right, n)),
                (Matrix::new(&left, k), Matrix::new(&right_flipped, k).transpose()),
            ] {
                let row: Vec<f32> = (0..n).map(|column| number(column + 9)).collect();
                for row in [None, Some(row.as_slice())] {
                    let mut to = vec![f32::NAN; m * n];
                    multiply(&mut to, row, left, right);
                    for (index, got) in to.iter().enumerate() {
                        let (at, column) = (index / n, index % n);
                        let product: f32 =
                            (0..k).map(|d| number(at * k + d) * number(d * n + column + 5)).sum();
                        let expected = product + row.map_or(0.0, |row| row[column]);
                        assert!((got - expected).abs() < 1e-3, "{m} {k} {n}");
                    }
                }
            }
        }
    }
}
