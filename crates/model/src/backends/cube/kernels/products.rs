//! Matrix products in float32, and sums of columns.
//!
//! A GPU's own units for matrices would round the factors to ten bits.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

use super::Gates as Four;

/// How a product is divided: what the kernel is compiled for.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(in crate::backends::cube) struct Tiling {
    /// Rows of a cube's tile, and columns.
    pub(in crate::backends::cube) tile: usize,
    /// Numbers of each row and column that lie in shared memory at a time.
    pub(in crate::backends::cube) depth: usize,
    /// Rows, and columns, of a unit of the device.
    pub(in crate::backends::cube) each: usize,
    /// Whether left is `[K, M]` and not `[M, K]`.
    pub(in crate::backends::cube) left_by_depth: bool,
    /// Whether right is `[K, N]` and not `[N, K]`.
    pub(in crate::backends::cube) right_by_depth: bool,
    /// Whether a row is added to each of the result's.
    pub(in crate::backends::cube) with_bias: bool,
    /// Where the result's columns go.
    pub(in crate::backends::cube) columns: Columns,
}

/// Where the columns of a result go.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(in crate::backends::cube) enum Columns {
    /// Where they stand.
    Stay,
    /// From `[4, H]` to `[H, 4]`.
    SideBySide,
    /// From `[H, 4]` to `[4, H]`.
    InBlocks,
}

impl Tiling {
    const fn across(self) -> usize {
        self.tile / self.each
    }

    /// Units of the device of a cube.
    pub(in crate::backends::cube) const fn units(self) -> usize {
        self.across() * self.across()
    }

    /// Squares of 4 × 4 numbers that a cube fetches of either factor at a time.
    const fn squares(self) -> usize {
        (self.tile / 4) * (self.depth / 4)
    }

    /// A row in shared memory, by fours; one more, for units to write to other banks.
    const fn stride(self) -> usize {
        self.tile / 4 + 1
    }
}

/// left × right, `[M, N]`, of the part of the depth that is the cube's: results lie one behind the
/// other. Factors are read by `V` numbers, which lie next to each other.
#[cube(launch)]
pub(in crate::backends::cube) fn product<V: Size>(
    left: &[Vector<f32, V>],
    right: &[Vector<f32, V>],
    bias: &[f32],
    results: &mut [f32],
    rows: usize,
    columns: usize,
    depth: usize,
    part: usize,
    #[comptime] tiling: Tiling,
) {
    let stride = comptime!(tiling.stride());
    let fours = comptime!(tiling.each / 4);
    let squares = comptime!(tiling.squares());
    let turns = comptime!((2 * tiling.squares()).div_ceil(tiling.units()));
    let unit = UNIT_POS_X as usize;
    let (down, along) = (unit / comptime!(tiling.across()), unit % comptime!(tiling.across()));
    let first_row = CUBE_POS_Y as usize * tiling.tile;
    let first_column = CUBE_POS_X as usize * tiling.tile;
    let first = CUBE_POS_Z as usize * part;
    let last = min(first + part, depth);

    let mut lefts = Shared::<[Four]>::new_slice(comptime!(tiling.depth * tiling.stride()));
    let mut rights = Shared::<[Four]>::new_slice(comptime!(tiling.depth * tiling.stride()));
    let mut fetched = Array::<Four>::new(comptime!(4 * turns));
    let mut sums = Array::<Four>::new(comptime!(tiling.each * fours));
    #[unroll]
    for index in 0..tiling.each * fours {
        sums[index] = Four::new(0.0f32);
    }

    let mut at = first;
    while at < last {
        // All numbers are on their way before the first is needed.
        #[unroll]
        for turn in 0..turns {
            let square = comptime!(turn * tiling.units()) + unit;
            if square < squares {
                let (outer, inner) = corner(square, tiling.left_by_depth, tiling);
                fetch::<V>(
                    left,
                    &mut fetched,
                    comptime!(4 * turn),
                    first_row + outer,
                    at + inner,
                    rows,
                    last,
                    depth,
                    tiling.left_by_depth,
                );
            } else if square < comptime!(2 * tiling.squares()) {
                let (outer, inner) = corner(square - squares, tiling.right_by_depth, tiling);
                fetch::<V>(
                    right,
                    &mut fetched,
                    comptime!(4 * turn),
                    first_column + outer,
                    at + inner,
                    columns,
                    last,
                    depth,
                    tiling.right_by_depth,
                );
            }
        }
        sync_cube();
        #[unroll]
        for turn in 0..turns {
            let square = comptime!(turn * tiling.units()) + unit;
            if square < squares {
                let (outer, inner) = corner(square, tiling.left_by_depth, tiling);
                #[unroll]
                for k in 0..4 {
                    lefts[(inner + k) * stride + outer / 4] = fetched[comptime!(4 * turn) + k];
                }
            } else if square < comptime!(2 * tiling.squares()) {
                let (outer, inner) = corner(square - squares, tiling.right_by_depth, tiling);
                #[unroll]
                for k in 0..4 {
                    rights[(inner + k) * stride + outer / 4] = fetched[comptime!(4 * turn) + k];
                }
            }
        }
        sync_cube();
        for some in 0..comptime!(tiling.depth / 4) {
            #[unroll]
            for one in 0..4 {
                let k = some * 4 + one;
                let mut factors = Array::<Four>::new(fours);
                #[unroll]
                for four in 0..fours {
                    factors[four] = rights[k * stride + comptime!(four * tiling.across()) + along];
                }
                #[unroll]
                for four in 0..fours {
                    let column = lefts[k * stride + comptime!(four * tiling.across()) + down];
                    #[unroll]
                    for row in 0..4 {
                        let factor = Four::new(column.extract(row));
                        #[unroll]
                        for index in 0..fours {
                            sums[comptime!((four * 4 + row) * fours + index)] +=
                                factor * factors[index];
                        }
                    }
                }
            }
        }
        at += tiling.depth;
    }

    #[unroll]
    for four in 0..fours {
        #[unroll]
        for one in 0..4 {
            let row = first_row + (comptime!(four * tiling.across()) + down) * 4 + one;
            if row < rows {
                let result = (CUBE_POS_Z as usize * rows + row) * columns;
                #[unroll]
                for index in 0..fours {
                    let column = first_column + (comptime!(index * tiling.across()) + along) * 4;
                    let sum = sums[comptime!((four * 4 + one) * fours + index)];
                    #[unroll]
                    for k in 0..4 {
                        if column + k < columns {
                            let mut number = sum.extract(k);
                            if comptime!(tiling.with_bias) {
                                number += bias[column + k];
                            }
                            results[result + place_of(column + k, columns, tiling)] = number;
                        }
                    }
                }
            }
        }
    }
}

/// Where a column goes.
#[cube]
fn place_of(column: usize, columns: usize, #[comptime] tiling: Tiling) -> usize {
    let hidden = columns / 4;
    if comptime!(tiling.columns == Columns::SideBySide) {
        column % hidden * 4 + column / hidden
    } else if comptime!(tiling.columns == Columns::InBlocks) {
        column % 4 * hidden + column / 4
    } else {
        column
    }
}

/// The first row and depth of a square of a tile: units next to each other take numbers that are.
#[cube]
fn corner(square: usize, #[comptime] by_depth: bool, #[comptime] tiling: Tiling) -> (usize, usize) {
    let wide = comptime!(if by_depth { tiling.tile / 4 } else { tiling.depth / 4 });
    let (slow, fast) = (square / wide * 4, square % wide * 4);
    if comptime!(by_depth) { (fast, slow) } else { (slow, fast) }
}

/// A square of a factor: a four of outer numbers for each of four depths.
#[cube]
fn fetch<V: Size>(
    factor: &[Vector<f32, V>],
    fetched: &mut Array<Four>,
    #[comptime] place: usize,
    outer: usize,
    inner: usize,
    outers: usize,
    last: usize,
    depth: usize,
    #[comptime] by_depth: bool,
) {
    #[unroll]
    for k in 0..4 {
        fetched[place + k] = Four::new(0.0f32);
    }
    if comptime!(by_depth) {
        #[unroll]
        for k in 0..4 {
            if inner + k < last {
                fetched[place + k] = row_of_four::<V>(factor, (inner + k) * outers, outer, outers);
            }
        }
    } else {
        let mut rows = Array::<Four>::new(4usize);
        #[unroll]
        for o in 0..4 {
            rows[o] = Four::new(0.0f32);
            if outer + o < outers {
                rows[o] = row_of_four::<V>(factor, (outer + o) * depth, inner, last);
            }
        }
        #[unroll]
        for k in 0..4 {
            let mut four = Four::empty();
            #[unroll]
            for o in 0..4 {
                four.insert(o, rows[o].extract(k));
            }
            fetched[place + k] = four;
        }
    }
}

/// Four numbers of a row from a place on, and zeros beyond its end.
#[cube]
fn row_of_four<V: Size>(factor: &[Vector<f32, V>], row: usize, place: usize, end: usize) -> Four {
    let width = V::value().comptime();
    let mut four = Four::new(0.0f32);
    if comptime!(width == 4) {
        if place < end {
            four = Four::cast_from(factor[(row + place) / 4]);
        }
    } else {
        #[unroll]
        for k in 0..4 {
            if place + k < end {
                four.insert(k, factor[row + place + k].extract(0usize));
            }
        }
    }
    four
}

/// The sums of some rows' columns, `[N, W]`: those of as many rows as are a cube's, in their order;
/// results lie one behind the other.
#[cube(launch)]
pub(in crate::backends::cube) fn sum_rows(
    numbers: &[f32],
    sums: &mut [f32],
    rows: usize,
    width: usize,
    each: usize,
) {
    let column = ABSOLUTE_POS_X as usize;
    let first = CUBE_POS_Y as usize * each;
    let last = min(first + each, rows);
    if column < width {
        let mut sum = 0.0f32;
        let mut row = first;
        // Some at a time, which need not wait for one another.
        while row + 8 <= last {
            let mut some = Array::<f32>::new(8usize);
            #[unroll]
            for k in 0..8 {
                some[k] = numbers[(row + k) * width + column];
            }
            #[unroll]
            for k in 0..8 {
                sum += some[k];
            }
            row += 8;
        }
        while row < last {
            sum += numbers[row * width + column];
            row += 1;
        }
        sums[CUBE_POS_Y as usize * width + column] = sum;
    }
}
