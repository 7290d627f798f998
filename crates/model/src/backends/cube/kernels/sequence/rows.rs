//! The weight's rows: where they lie, and their products.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

use super::{Extent, Gates, GatesOf};

/// Rows that are read before they are multiplied.
pub(super) const AT_ONCE: usize = 8;

/// The column of the weight that is a unit's, in a row of its part; zeros beyond the last row.
#[cube]
fn own_weight<W: Float>(
    weight: &[GatesOf<W>],
    part: usize,
    row: usize,
    u: usize,
    #[comptime] extent: Extent,
) -> GatesOf<W> {
    let k = part * comptime!(extent.rows()) + row;
    let mut own = GatesOf::<W>::new(W::from_int(0));
    if u < extent.hidden && (comptime!(extent.is_even()) || k < extent.hidden) {
        own = weight[k * extent.hidden + u];
    }
    own
}

/// Each unit keeps its own hidden units' columns of its part's first rows.
#[cube]
pub(super) fn into_registers<W: Float>(
    weight: &[GatesOf<W>],
    part: usize,
    unit: usize,
    #[comptime] extent: Extent,
) -> Array<Gates> {
    // An array has a number at the least.
    let size =
        comptime!(if extent.in_registers == 0 { 1 } else { extent.in_registers * extent.of_unit });
    let mut own = Array::<Gates>::new(size);
    #[unroll]
    for row in 0..extent.in_registers {
        #[unroll]
        for index in 0..extent.of_unit {
            let u = comptime!(index * extent.units()) + unit;
            own[row * extent.of_unit + index] =
                Gates::cast_from(own_weight::<W>(weight, part, row, u, extent));
        }
    }
    own
}

/// Each unit keeps its own hidden units' columns of its part's next rows near: nobody else reads them,
/// and nobody has to wait for them.
#[cube]
pub(super) fn hold<W: Float>(
    weight: &[GatesOf<W>],
    part: usize,
    unit: usize,
    #[comptime] extent: Extent,
) -> ComptimeOption<Shared<[GatesOf<W>]>> {
    if comptime!(extent.held == 0) {
        ComptimeOption::new_None()
    } else {
        let mut near = Shared::<[GatesOf<W>]>::new_slice(comptime!(
            extent.parts * extent.held * extent.hidden
        ));
        for row in 0..extent.held {
            #[unroll]
            for index in 0..extent.of_unit {
                let u = comptime!(index * extent.units()) + unit;
                if u < extent.hidden {
                    near[(part * extent.held + row) * extent.hidden + u] = own_weight::<W>(
                        weight,
                        part,
                        comptime!(extent.in_registers) + row,
                        u,
                        extent,
                    );
                }
            }
        }
        ComptimeOption::new_Some(near)
    }
}

/// Adds the products of the lanes' numbers, which begin at `first`, with the rows of the own part:
/// of hidden states, with all four gates, or of the gates' gradients, gate by gate.
#[cube]
pub(super) fn add_rows<W: Float, N: CubePrimitive>(
    sums: &mut Array<Gates>,
    numbers: &Shared<[N]>,
    first: usize,
    weight: &[GatesOf<W>],
    own_weights: &Array<Gates>,
    near: &ComptimeOption<Shared<[GatesOf<W>]>>,
    part: usize,
    unit: usize,
    #[comptime] extent: Extent,
) {
    let first = first + part * comptime!(extent.rows());
    #[unroll]
    for row in 0..extent.in_registers {
        #[unroll]
        for l in 0..extent.lanes {
            let factor = Gates::cast_from(numbers[first + comptime!(l * extent.padded()) + row]);
            #[unroll]
            for own in 0..extent.of_unit {
                sums[own * extent.lanes + l] += own_weights[row * extent.of_unit + own] * factor;
            }
        }
    }
    #[comptime]
    match near {
        ComptimeOption::Some(near) => {
            for some in 0..comptime!(extent.held / AT_ONCE) {
                #[unroll]
                for one in 0..AT_ONCE {
                    let row = some * AT_ONCE + one;
                    add_near::<W, N>(sums, numbers, first, near, part, row, unit, extent);
                }
            }
            for row in comptime!(extent.held / AT_ONCE * AT_ONCE)..extent.held {
                add_near::<W, N>(sums, numbers, first, near, part, row, unit, extent);
            }
        }
        ComptimeOption::None => {}
    }
    let begun = comptime!(extent.in_registers + extent.held);
    let rest = comptime!(extent.rows() - begun);
    for some in 0..comptime!(rest / AT_ONCE) {
        #[unroll]
        for one in 0..AT_ONCE {
            let row = begun + some * AT_ONCE + one;
            add_far::<W, N>(sums, numbers, first, weight, part, row, unit, extent);
        }
    }
    for row in comptime!(begun + rest / AT_ONCE * AT_ONCE)..comptime!(extent.rows()) {
        add_far::<W, N>(sums, numbers, first, weight, part, row, unit, extent);
    }
}

/// A row that lies in shared memory.
#[cube]
fn add_near<W: Float, N: CubePrimitive>(
    sums: &mut Array<Gates>,
    numbers: &Shared<[N]>,
    first: usize,
    near: &Shared<[GatesOf<W>]>,
    part: usize,
    row: usize,
    unit: usize,
    #[comptime] extent: Extent,
) {
    #[unroll]
    for own in 0..extent.of_unit {
        let u = comptime!(own * extent.units()) + unit;
        if u < extent.hidden {
            let w = Gates::cast_from(near[(part * extent.held + row) * extent.hidden + u]);
            add_product::<N>(sums, numbers, first + extent.in_registers + row, w, own, extent);
        }
    }
}

/// A row that does not.
#[cube]
fn add_far<W: Float, N: CubePrimitive>(
    sums: &mut Array<Gates>,
    numbers: &Shared<[N]>,
    first: usize,
    weight: &[GatesOf<W>],
    part: usize,
    row: usize,
    unit: usize,
    #[comptime] extent: Extent,
) {
    #[unroll]
    for own in 0..extent.of_unit {
        let u = comptime!(own * extent.units()) + unit;
        let w = Gates::cast_from(own_weight::<W>(weight, part, row, u, extent));
        add_product::<N>(sums, numbers, first + row, w, own, extent);
    }
}

#[cube]
fn add_product<N: CubePrimitive>(
    sums: &mut Array<Gates>,
    numbers: &Shared<[N]>,
    at: usize,
    w: Gates,
    #[comptime] own: usize,
    #[comptime] extent: Extent,
) {
    #[unroll]
    for l in 0..extent.lanes {
        let factor = Gates::cast_from(numbers[at + comptime!(l * extent.padded())]);
        sums[own * extent.lanes + l] += w * factor;
    }
}

/// Where the parts but the first leave their sums.
#[cube]
pub(super) fn partial_sums(#[comptime] extent: Extent) -> ComptimeOption<Shared<[Gates]>> {
    if comptime!(extent.parts == 1) {
        ComptimeOption::new_None()
    } else {
        ComptimeOption::new_Some(Shared::<[Gates]>::new_slice(comptime!(
            (extent.parts - 1) * extent.lanes * extent.units() * extent.of_unit
        )))
    }
}

/// Adds the other parts' sums to the first one's, in their order.
#[cube]
pub(super) fn join_parts(
    sums: &mut Array<Gates>,
    partial: &mut ComptimeOption<Shared<[Gates]>>,
    part: usize,
    unit: usize,
    #[comptime] extent: Extent,
) {
    let count = comptime!(extent.lanes * extent.of_unit);
    let units = comptime!(extent.units());
    #[comptime]
    match partial {
        ComptimeOption::Some(partial) => {
            if part > 0 {
                #[unroll]
                for index in 0..count {
                    partial[((part - 1) * count + index) * units + unit] = sums[index];
                }
            }
            sync_cube();
            if part == 0 {
                #[unroll]
                for index in 0..count {
                    #[unroll]
                    for other in 0..comptime!(extent.parts - 1) {
                        sums[index] += partial[comptime!((other * count + index) * units) + unit];
                    }
                }
            }
        }
        ComptimeOption::None => {}
    }
}
