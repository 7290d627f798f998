//! A whole sequence in one launch, whose cubes do not meet.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

mod rows;

use cubecl::prelude::*;

use self::rows::{AT_ONCE, add_rows, hold, into_registers, join_parts, partial_sums};
use super::{Gates, GatesOf, MOST_ROUNDS, activate, next_cell, row_of, squash, unit_backward};

/// The extent of a sequence and how its work is divided: what the kernel is compiled for.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(in crate::backends::cube) struct Extent {
    /// H.
    pub(in crate::backends::cube) hidden: usize,
    /// Lanes of a cube.
    pub(in crate::backends::cube) lanes: usize,
    /// Hidden units of a unit of the device, at most.
    pub(in crate::backends::cube) of_unit: usize,
    /// Groups of units of the device, each with rows of the weight of its own.
    pub(in crate::backends::cube) parts: usize,
    /// Rows of a part that its units keep in registers, the first ones.
    pub(in crate::backends::cube) in_registers: usize,
    /// Rows of a part that the cube keeps in shared memory, the next ones.
    pub(in crate::backends::cube) held: usize,
    /// Whether gates and cell states of all steps are kept.
    pub(in crate::backends::cube) keep: bool,
    /// Whether products are those of the vocabulary, a row for each token.
    pub(in crate::backends::cube) by_token: bool,
}

impl Extent {
    /// Rows of the weight that are a part's.
    pub(in crate::backends::cube) const fn rows(self) -> usize {
        self.hidden.div_ceil(self.parts)
    }

    /// Units of the device of a part.
    pub(in crate::backends::cube) const fn units(self) -> usize {
        self.hidden.div_ceil(self.of_unit)
    }

    /// The numbers of a lane, one for each row of every part.
    const fn padded(self) -> usize {
        self.rows() * self.parts
    }

    const fn is_even(self) -> bool {
        self.hidden.is_multiple_of(self.parts)
    }
}

/// Steps that may be one launch, where units read so many rows from shared memory and so many from afar.
pub(in crate::backends::cube) const fn most_steps(held: usize, far: usize) -> usize {
    // Four loops, one behind the other.
    let of_rows = held / AT_ONCE + held % AT_ONCE + far / AT_ONCE + far % AT_ONCE + 4;
    MOST_ROUNDS / (1 + of_rows)
}

/// The steps from `first` to `last` of a layer's recurrence. A cube owns some lanes, and its units meet
/// at every step to hand each other sums and hidden states.
///
/// products `[T, B, H]` of gates, or `[V, H]` with tokens `[T, B]`; weight `[H, H]` of gates, h and c
/// `[B, H]`; states `[T + 1, B, H]`, the first one h; kept `[T, B, H]` of gates behind their activations
/// and cells `[T, B, H]`, or without `keep` nothing and `[B, H]`.
#[cube(launch)]
pub(in crate::backends::cube) fn sequence_forward<I: Int, W: Float>(
    tokens: &[I],
    products: &[Gates],
    weight: &[GatesOf<W>],
    h: &[f32],
    c: &[f32],
    states: &mut [f32],
    kept: &mut [Gates],
    cells: &mut [f32],
    first: usize,
    last: usize,
    batch: usize,
    #[comptime] extent: Extent,
    #[define(I)] _token: ElemType,
    #[define(W)] _stored: ElemType,
) {
    let hidden = comptime!(extent.hidden);
    let lanes = comptime!(extent.lanes);
    let of_unit = comptime!(extent.of_unit);
    let units = comptime!(extent.units());
    let first_lane = CUBE_POS_X as usize * lanes;
    let part = UNIT_POS_X as usize / units;
    let unit = UNIT_POS_X as usize % units;

    // Two copies in turns: one is read while the other is written.
    let mut near_states = Shared::<[f32]>::new_slice(comptime!(2 * lanes * extent.padded()));
    let mut partial = partial_sums(extent);
    let mut cell = Array::<f32>::new(comptime!(of_unit * lanes));
    let mut sums = Array::<Gates>::new(comptime!(of_unit * lanes));

    let own_weights = into_registers::<W>(weight, part, unit, extent);
    let near = hold::<W>(weight, part, unit, extent);
    let mut place = UNIT_POS_X as usize;
    while place < comptime!(2 * lanes * extent.padded()) {
        near_states[place] = 0.0f32;
        place += comptime!(extent.units() * extent.parts);
    }
    sync_cube();
    let read = (first % 2) * comptime!(lanes * extent.padded());
    #[unroll]
    for own in 0..of_unit {
        let u = own * units + unit;
        #[unroll]
        for l in 0..lanes {
            let lane = first_lane + l;
            cell[own * lanes + l] = 0.0f32;
            // Lanes beyond the last go through the motions; what they read are numbers.
            if part == 0 && u < hidden && lane < batch {
                let at = lane * hidden + u;
                if first == 0 {
                    states[at] = h[at];
                    cell[own * lanes + l] = c[at];
                } else {
                    if comptime!(extent.keep) {
                        cell[own * lanes + l] = cells[(first - 1) * batch * hidden + at];
                    } else {
                        cell[own * lanes + l] = cells[at];
                    }
                }
                near_states[read + comptime!(l * extent.padded()) + u] =
                    states[first * batch * hidden + at];
            }
        }
    }
    sync_cube();

    for step in first..last {
        let read = (step % 2) * comptime!(lanes * extent.padded());
        let write = comptime!(lanes * extent.padded()) - read;
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                sums[own * lanes + l] = Gates::new(0.0f32);
                if part == 0 && u < hidden && lane < batch {
                    let row = row_of::<I>(tokens, step * batch + lane, extent.by_token);
                    sums[own * lanes + l] = products[row * hidden + u];
                }
            }
        }
        add_rows::<W, f32>(
            &mut sums,
            &near_states,
            read,
            weight,
            &own_weights,
            &near,
            part,
            unit,
            extent,
        );
        join_parts(&mut sums, &mut partial, part, unit, extent);
        if part == 0 {
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
                        near_states[write + comptime!(l * extent.padded()) + u] = state;
                        if lane < batch {
                            let at = (step * batch + lane) * hidden + u;
                            states[at + batch * hidden] = state;
                            if comptime!(extent.keep) {
                                kept[at] = activated;
                                cells[at] = next;
                            }
                        }
                    }
                }
            }
        }
        sync_cube();
    }

    if comptime!(!extent.keep) && part == 0 {
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

/// Back through [`sequence_forward`], with the same division of the work: the rounds from `first` to
/// `last`, of which round 0 goes through the last step and round `steps` is for the gradient of h.
///
/// weight `[H, H]` has rows and columns changed places; kept, cells and c are as there;
/// grad_outputs `[T, B, H]`; grad_last `[B, H]`, the gradient of the cell states behind the first round's
/// step, if there is one; the results are those of products, h and the cell states before the last round's.
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
    first: usize,
    last: usize,
    steps: usize,
    batch: usize,
    #[comptime] has_last: bool,
    #[comptime] extent: Extent,
    #[define(W)] _stored: ElemType,
) {
    let hidden = comptime!(extent.hidden);
    let lanes = comptime!(extent.lanes);
    let of_unit = comptime!(extent.of_unit);
    let units = comptime!(extent.units());
    let first_lane = CUBE_POS_X as usize * lanes;
    let part = UNIT_POS_X as usize / units;
    let unit = UNIT_POS_X as usize % units;

    // The gradients of the gates' sums one step later; two copies in turns.
    let mut later = Shared::<[Gates]>::new_slice(comptime!(2 * lanes * extent.padded()));
    let mut partial = partial_sums(extent);
    let mut of_c = Array::<f32>::new(comptime!(of_unit * lanes));
    let mut sums = Array::<Gates>::new(comptime!(of_unit * lanes));
    let mut activated = Array::<Gates>::new(comptime!(of_unit * lanes));
    // The cell states behind and before the step, and the gradients of the outputs.
    let mut cell = Array::<f32>::new(comptime!(of_unit * lanes));
    let mut earlier = Array::<f32>::new(comptime!(of_unit * lanes));
    let mut of_output = Array::<f32>::new(comptime!(of_unit * lanes));

    let own_weights = into_registers::<W>(weight, part, unit, extent);
    let near = hold::<W>(weight, part, unit, extent);
    let mut place = UNIT_POS_X as usize;
    while place < comptime!(2 * lanes * extent.padded()) {
        later[place] = Gates::new(0.0f32);
        place += comptime!(extent.units() * extent.parts);
    }
    sync_cube();
    let read = (first % 2) * comptime!(lanes * extent.padded());
    #[unroll]
    for own in 0..of_unit {
        let u = own * units + unit;
        #[unroll]
        for l in 0..lanes {
            let lane = first_lane + l;
            of_c[own * lanes + l] = 0.0f32;
            if part == 0 && u < hidden && lane < batch {
                if comptime!(has_last) {
                    of_c[own * lanes + l] = grad_last[lane * hidden + u];
                }
                if first > 0 {
                    later[read + comptime!(l * extent.padded()) + u] =
                        grad_products[((steps - first) * batch + lane) * hidden + u];
                }
            }
        }
    }
    sync_cube();

    for round in first..last {
        let read = (round % 2) * comptime!(lanes * extent.padded());
        let write = comptime!(lanes * extent.padded()) - read;
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                let index = own * lanes + l;
                sums[index] = Gates::new(0.0f32);
                activated[index] = Gates::new(0.0f32);
                cell[index] = 0.0f32;
                earlier[index] = 0.0f32;
                of_output[index] = 0.0f32;
                // On their way before the products are formed.
                if part == 0 && round < steps && u < hidden && lane < batch {
                    let step = steps - 1 - round;
                    let at = (step * batch + lane) * hidden + u;
                    activated[index] = kept[at];
                    cell[index] = cells[at];
                    of_output[index] = grad_outputs[at];
                    if step > 0 {
                        earlier[index] = cells[at - batch * hidden];
                    } else {
                        earlier[index] = c[lane * hidden + u];
                    }
                }
            }
        }
        if round > 0 {
            add_rows::<W, Gates>(
                &mut sums,
                &later,
                read,
                weight,
                &own_weights,
                &near,
                part,
                unit,
                extent,
            );
        }
        join_parts(&mut sums, &mut partial, part, unit, extent);
        if part == 0 {
            #[unroll]
            for own in 0..of_unit {
                let u = own * units + unit;
                if u < hidden {
                    #[unroll]
                    for l in 0..lanes {
                        let lane = first_lane + l;
                        let index = own * lanes + l;
                        let sum = sums[index];
                        let of_h = of_output[index]
                            + sum.extract(0usize)
                            + sum.extract(1usize)
                            + sum.extract(2usize)
                            + sum.extract(3usize);
                        if lane < batch {
                            if round < steps {
                                let step = steps - 1 - round;
                                let at = (step * batch + lane) * hidden + u;
                                let (of_sums, before) = unit_backward(
                                    activated[index],
                                    cell[index],
                                    earlier[index],
                                    of_h,
                                    of_c[index],
                                );
                                of_c[index] = before;
                                later[write + comptime!(l * extent.padded()) + u] = of_sums;
                                grad_products[at] = of_sums;
                            } else {
                                grad_h[lane * hidden + u] = of_h;
                            }
                        }
                    }
                }
            }
        }
        sync_cube();
    }

    if part == 0 {
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                if u < hidden && lane < batch {
                    grad_c[lane * hidden + u] = of_c[own * lanes + l];
                }
            }
        }
    }
}
