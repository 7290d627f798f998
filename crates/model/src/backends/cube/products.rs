//! Matrix products.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::empty;
pub(super) use super::kernels::Columns;
use super::kernels::{self, MOST_ROUNDS, Tiling};
use super::layer::Limits;

/// A factor of a product, row by row in memory.
pub(super) struct Factor {
    matrix: CubeTensor,
    /// Whether the sums go along its columns, and not along its rows.
    by_depth: bool,
}

impl Factor {
    /// The sums go along the rows of `matrix`.
    pub(super) fn rows(matrix: CubeTensor) -> Self {
        Self { matrix: into_contiguous(matrix), by_depth: false }
    }

    /// The sums go along the columns of `matrix`.
    pub(super) fn columns(matrix: CubeTensor) -> Self {
        Self { matrix: into_contiguous(matrix), by_depth: true }
    }

    /// How many numbers of the result's rows or columns are this factor's, and of how many products
    /// each of them is the sum.
    fn extent(&self) -> [usize; 2] {
        let [rows, columns] = self.matrix.shape().dims();
        if self.by_depth { [columns, rows] } else { [rows, columns] }
    }

    fn is_by_fours(&self) -> bool {
        let [_, columns] = self.matrix.shape().dims::<2>();
        columns.is_multiple_of(4)
    }
}

/// The sums of the products of the left factor's numbers with the right one's, `[M, N]`, plus a row.
pub(super) fn product(factors: [Factor; 2], bias: Option<CubeTensor>) -> CubeTensor {
    product_to(Columns::Stay, factors, bias)
}

/// The same with the columns somewhere else.
pub(super) fn product_to(
    columns: Columns,
    factors: [Factor; 2],
    bias: Option<CubeTensor>,
) -> CubeTensor {
    let limits = Limits::of(&factors[0].matrix.client);
    let results = product_within(limits, columns, factors, bias);
    let [parts, rows, columns] = results.shape().dims();
    let flat = CubeBackend::float_reshape(results, Shape::new([parts, rows * columns]));
    let sum = if parts > 1 { sum_rows(flat) } else { flat };
    CubeBackend::float_reshape(sum, Shape::new([rows, columns]))
}

/// The same in parts, `[P, M, N]`, which are still to be added.
pub(super) fn product_in_parts(factors: [Factor; 2]) -> CubeTensor {
    product_within(Limits::of(&factors[0].matrix.client), Columns::Stay, factors, None)
}

/// The same within these limits; one part where there is a row to add.
pub(super) fn product_within(
    limits: Limits,
    to: Columns,
    [left, right]: [Factor; 2],
    bias: Option<CubeTensor>,
) -> CubeTensor {
    let ([rows, depth], [columns, also_depth]) = (left.extent(), right.extent());
    assert_eq!(depth, also_depth, "the depth of both factors");
    let client = left.matrix.client.clone();
    let most_parts = if bias.is_some() { 1 } else { usize::MAX };
    let (size, parts) = divide(limits, [rows, columns, depth], most_parts);
    let tiling = Tiling {
        left_by_depth: left.by_depth,
        right_by_depth: right.by_depth,
        with_bias: bias.is_some(),
        columns: to,
        ..size
    };
    let part = depth.div_ceil(parts).next_multiple_of(tiling.depth);
    let parts = depth.div_ceil(part);
    let results = empty(&left.matrix, [parts, rows, columns]);
    let width = if left.is_by_fours() && right.is_by_fours() { 4 } else { 1 };
    let bias = bias.map_or_else(|| empty(&results, [1]), into_contiguous);
    let tiles = [columns, rows].map(|count| count.div_ceil(tiling.tile) as u32);
    kernels::product::launch(
        &client,
        CubeCount::Static(tiles[0], tiles[1], parts as u32),
        CubeDim::new_1d(tiling.units() as u32),
        width,
        left.matrix.into_buffer_arg(),
        right.matrix.into_buffer_arg(),
        bias.into_buffer_arg(),
        results.clone().into_buffer_arg(),
        rows,
        columns,
        depth,
        part,
        tiling,
    );
    results
}

/// The tiles of a product, and into how many parts its depth is divided for every multiprocessor to
/// have some: large tiles read less, small ones are more.
pub(super) fn divide(
    limits: Limits,
    [rows, columns, depth]: [usize; 3],
    most_parts: usize,
) -> (Tiling, usize) {
    /// Units of the device of a cube, for all but the smallest tiles.
    const UNITS: usize = 256;
    /// Numbers of shared memory, likewise.
    const SHARED: usize = 5_000;
    let tiling = |tile, each, depth| Tiling {
        tile,
        depth,
        each,
        left_by_depth: false,
        right_by_depth: false,
        with_bias: false,
        columns: Columns::Stay,
    };
    /// Depth of a part, at the most: six rounds of loops for every sixteen.
    const MOST_OF_PART: usize = 2 * MOST_ROUNDS;
    let least_parts = depth.div_ceil(MOST_OF_PART).min(most_parts);
    let large = rows.div_ceil(128) * columns.div_ceil(128);
    let of_large = (limits.cubes / large).clamp(1, 16).min(depth / 256).min(most_parts).max(1);
    let is_large = limits.units >= UNITS && limits.shared >= SHARED;
    if is_large && rows.min(columns) >= 128 && 4 * large * of_large >= 3 * limits.cubes {
        return (tiling(128, 8, 16), of_large.max(least_parts));
    }
    let tile = if is_large { 64 } else { 32 };
    let tiles = rows.div_ceil(tile) * columns.div_ceil(tile);
    let parts = (2 * limits.cubes).div_ceil(tiles).min(depth / 64).min(most_parts).max(1);
    (tiling(tile, 4, 32), parts.max(least_parts))
}

/// The sum of the rows, `[W]` from `[N, W]`.
pub(super) fn sum_rows(numbers: CubeTensor) -> CubeTensor {
    /// Rows that one unit of the device adds up rather than leave some to others.
    const FEW: usize = 128;
    const UNITS: usize = 128;
    let mut numbers = into_contiguous(numbers);
    let [mut rows, width] = numbers.shape().dims();
    let client = numbers.client.clone();
    loop {
        let each = if rows <= FEW { rows } else { rows.isqrt() };
        let parts = rows.div_ceil(each);
        let sums = empty(&numbers, [parts, width]);
        let units = UNITS.min(Limits::of(&client).units);
        kernels::sum_rows::launch(
            &client,
            CubeCount::Static(width.div_ceil(units) as u32, parts as u32, 1),
            CubeDim::new_1d(units as u32),
            numbers.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            rows,
            width,
            each,
        );
        (numbers, rows) = (sums, parts);
        if parts == 1 {
            return CubeBackend::float_reshape(numbers, Shape::new([width]));
        }
    }
}
