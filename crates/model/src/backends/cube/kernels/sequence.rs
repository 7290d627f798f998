//! A whole sequence in one launch.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

use super::{Gates, GatesOf, activate, next_cell, row_of, squash, unit_backward};

/// The extent of a sequence and how its work is divided: what the kernel is compiled for.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(in crate::backends::cube) struct Extent {
    /// H.
    pub(in crate::backends::cube) hidden: usize,
    /// Lanes of a cube.
    pub(in crate::backends::cube) lanes: usize,
    /// Hidden units of a unit of the device, at most.
    pub(in crate::backends::cube) of_unit: usize,
    /// Rows of the weight, the first ones, that a cube keeps in shared memory.
    pub(in crate::backends::cube) held: usize,
    /// Whether gates and cell states of all steps are kept.
    pub(in crate::backends::cube) keep: bool,
    /// Whether products are those of the vocabulary, a row for each token.
    pub(in crate::backends::cube) by_token: bool,
}

/// A layer's recurrence over a whole sequence. A cube owns some lanes, and its units meet once per
/// step to hand each other the hidden states.
///
/// products `[T, B, H]` of gates, or `[V, H]` with tokens `[T, B]`; weight `[H, H]` of gates, h and c
/// `[B, H]`; outputs `[T, B, H]`, kept `[T, B, H]` of gates behind their activations and cells `[T, B, H]`, or without `keep`
/// nothing and `[B, H]`.
#[cube(launch)]
pub(in crate::backends::cube) fn sequence_forward<I: Int, W: Float>(
    tokens: &[I],
    products: &[Gates],
    weight: &[GatesOf<W>],
    h: &[f32],
    c: &[f32],
    outputs: &mut [f32],
    kept: &mut [Gates],
    cells: &mut [f32],
    steps: usize,
    batch: usize,
    #[comptime] extent: Extent,
    #[define(I)] _token: ElemType,
    #[define(W)] _stored: ElemType,
) {
    let hidden = comptime!(extent.hidden);
    let lanes = comptime!(extent.lanes);
    let of_unit = comptime!(extent.of_unit);
    let first_lane = CUBE_POS_X as usize * lanes;
    let unit = UNIT_POS_X as usize;
    let units = CUBE_DIM_X as usize;

    // Two copies in turns: one is read while the other is written.
    let mut states = Shared::<[f32]>::new_slice(comptime!(2 * lanes * hidden));
    let mut cell = Array::<f32>::new(comptime!(of_unit * lanes));
    let mut sums = Array::<Gates>::new(comptime!(of_unit * lanes));

    let near = hold::<W>(weight, extent);
    let far = ComptimeOption::<Shared<[GatesOf<W>]>>::new_None();
    #[unroll]
    for own in 0..of_unit {
        let u = own * units + unit;
        #[unroll]
        for l in 0..lanes {
            let lane = first_lane + l;
            if u < hidden {
                // Lanes beyond the last go through the motions; what they read are numbers.
                let mut state = 0.0f32;
                let mut before = 0.0f32;
                if lane < batch {
                    state = h[lane * hidden + u];
                    before = c[lane * hidden + u];
                }
                states[l * hidden + u] = state;
                cell[own * lanes + l] = before;
            }
        }
    }
    sync_cube();

    for step in 0..steps {
        let read = (step % 2) * (lanes * hidden);
        let write = (lanes * hidden) - read;
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                sums[own * lanes + l] = Gates::new(0.0f32);
                if u < hidden && lane < batch {
                    let row = row_of::<I>(tokens, step * batch + lane, extent.by_token);
                    sums[own * lanes + l] = products[row * hidden + u];
                }
            }
        }
        for k in 0..extent.held {
            add_row::<W, f32>(&mut sums, &states, read, weight, &near, k, extent);
        }
        for k in extent.held..hidden {
            add_row::<W, f32>(&mut sums, &states, read, weight, &far, k, extent);
        }
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            if u < hidden {
                #[unroll]
                for l in 0..lanes {
                    let lane = first_lane + l;
                    let activated = activate(sums[own * lanes + l]);
                    let next = next_cell(activated, cell[own * lanes + l]);
                    cell[own * lanes + l] = next;
                    let state = activated.extract(3usize) * squash(next);
                    states[write + l * hidden + u] = state;
                    if lane < batch {
                        let at = (step * batch + lane) * hidden + u;
                        outputs[at] = state;
                        if comptime!(extent.keep) {
                            kept[at] = activated;
                            cells[at] = next;
                        }
                    }
                }
            }
        }
        sync_cube();
    }

    if comptime!(!extent.keep) {
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                if u < hidden && lane < batch {
                    cells[lane * hidden + u] = cell[own * lanes + l];
                }
            }
        }
    }
}

/// Back through [`sequence_forward`], with the same division of the work.
///
/// weight `[H, H]` has rows and columns changed places; kept, cells and c are as there;
/// grad_outputs `[T, B, H]`, grad_last `[B, H]`, the gradient of the last cell states; the results
/// are those of products, h and c.
#[cube(launch)]
pub(in crate::backends::cube) fn sequence_backward<W: Float>(
    weight: &[GatesOf<W>],
    kept: &[Gates],
    cells: &[f32],
    c: &[f32],
    grad_outputs: &[f32],
    grad_last: &[f32],
    grad_products: &mut [Gates],
    grad_h: &mut [f32],
    grad_c: &mut [f32],
    steps: usize,
    batch: usize,
    #[comptime] extent: Extent,
    #[define(W)] _stored: ElemType,
) {
    let hidden = comptime!(extent.hidden);
    let lanes = comptime!(extent.lanes);
    let of_unit = comptime!(extent.of_unit);
    let first_lane = CUBE_POS_X as usize * lanes;
    let unit = UNIT_POS_X as usize;
    let units = CUBE_DIM_X as usize;

    // The gradients of the gates' sums one step later; two copies in turns.
    let mut later = Shared::<[Gates]>::new_slice(comptime!(2 * lanes * hidden));
    let mut of_c = Array::<f32>::new(comptime!(of_unit * lanes));
    let mut sums = Array::<Gates>::new(comptime!(of_unit * lanes));

    let near = hold::<W>(weight, extent);
    let far = ComptimeOption::<Shared<[GatesOf<W>]>>::new_None();
    #[unroll]
    for own in 0..of_unit {
        let u = own * units + unit;
        #[unroll]
        for l in 0..lanes {
            let lane = first_lane + l;
            of_c[own * lanes + l] = 0.0f32;
            if u < hidden && lane < batch {
                of_c[own * lanes + l] = grad_last[lane * hidden + u];
            }
        }
    }

    // One more round, for the gradient of the initial state.
    for round in 0..steps + 1 {
        let read = (round % 2) * (lanes * hidden);
        let write = (lanes * hidden) - read;
        #[unroll]
        for index in 0..of_unit * lanes {
            sums[index] = Gates::new(0.0f32);
        }
        if round > 0 {
            for k in 0..extent.held {
                add_row::<W, Gates>(&mut sums, &later, read, weight, &near, k, extent);
            }
            for k in extent.held..hidden {
                add_row::<W, Gates>(&mut sums, &later, read, weight, &far, k, extent);
            }
        }
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            if u < hidden {
                #[unroll]
                for l in 0..lanes {
                    let lane = first_lane + l;
                    let sum = sums[own * lanes + l];
                    let mut of_h = sum.extract(0usize)
                        + sum.extract(1usize)
                        + sum.extract(2usize)
                        + sum.extract(3usize);
                    if lane < batch {
                        if round < steps {
                            let step = steps - 1 - round;
                            let at = (step * batch + lane) * hidden + u;
                            of_h += grad_outputs[at];
                            let mut earlier = c[lane * hidden + u];
                            if step > 0 {
                                earlier = cells[at - batch * hidden];
                            }
                            let (of_sums, before) = unit_backward(
                                kept[at],
                                cells[at],
                                earlier,
                                of_h,
                                of_c[own * lanes + l],
                            );
                            of_c[own * lanes + l] = before;
                            later[write + l * hidden + u] = of_sums;
                            grad_products[at] = of_sums;
                        } else {
                            grad_h[lane * hidden + u] = of_h;
                            grad_c[lane * hidden + u] = of_c[own * lanes + l];
                        }
                    } else {
                        later[write + l * hidden + u] = Gates::new(0.0f32);
                    }
                }
            }
        }
        sync_cube();
    }
}

/// Each unit keeps its own hidden units' columns of the first rows of the weight near: nobody else reads
/// them, and nobody has to wait for them.
#[cube]
fn hold<W: Float>(
    weight: &[GatesOf<W>],
    #[comptime] extent: Extent,
) -> ComptimeOption<Shared<[GatesOf<W>]>> {
    if comptime!(extent.held == 0) {
        ComptimeOption::new_None()
    } else {
        let mut near = Shared::<[GatesOf<W>]>::new_slice(comptime!(extent.held * extent.hidden));
        for k in 0..extent.held {
            #[unroll]
            for own in 0..extent.of_unit {
                let u = own * CUBE_DIM_X as usize + UNIT_POS_X as usize;
                if u < extent.hidden {
                    near[k * extent.hidden + u] = weight[k * extent.hidden + u];
                }
            }
        }
        ComptimeOption::new_Some(near)
    }
}

/// The weight at a place, from shared memory where it is kept there.
#[cube]
fn weight_at<W: Float>(
    weight: &[GatesOf<W>],
    near: &ComptimeOption<Shared<[GatesOf<W>]>>,
    place: usize,
) -> Gates {
    #[comptime]
    #[comptime]
    match near {
        ComptimeOption::Some(near) => Gates::cast_from(near[place]),
        ComptimeOption::None => Gates::cast_from(weight[place]),
    }
}

/// Adds the products of the lanes' numbers k, which begin at `first`, with row k of the weight: of
/// hidden states, with all four gates, or of the gates' gradients, gate by gate.
#[cube]
fn add_row<W: Float, N: CubePrimitive>(
    sums: &mut Array<Gates>,
    numbers: &Shared<[N]>,
    first: usize,
    weight: &[GatesOf<W>],
    near: &ComptimeOption<Shared<[GatesOf<W>]>>,
    k: usize,
    #[comptime] extent: Extent,
) {
    let mut factors = Array::<Gates>::new(extent.lanes);
    #[unroll]
    for l in 0..extent.lanes {
        factors[l] = Gates::cast_from(numbers[first + l * extent.hidden + k]);
    }
    #[unroll]
    for own in 0..extent.of_unit {
        let u = own * CUBE_DIM_X as usize + UNIT_POS_X as usize;
        if u < extent.hidden {
            let w = weight_at::<W>(weight, near, k * extent.hidden + u);
            #[unroll]
            for l in 0..extent.lanes {
                sums[own * extent.lanes + l] += w * factors[l];
            }
        }
    }
}
