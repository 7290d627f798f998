//! What runs on the device.
//!
//! All buffers are row major and contiguous. A unit of the device takes hidden units `UNIT_POS`,
//! `UNIT_POS + CUBE_DIM` and so on; `of_unit` counts them.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

/// 1 / (1 + e⁻ˣ). Beyond 80 it is 0 or 1 to the last bit, and the exponential may not be a number.
#[cube]
fn sigmoid(x: f32) -> f32 {
    let x = clamp_nan(x, -80.0f32, 80.0f32);
    1.0f32 / (1.0f32 + (-x).exp())
}

/// tanh. Some devices make no number of it where it is 1 to the last bit.
#[cube]
fn squash(x: f32) -> f32 {
    clamp_nan(x, -15.0f32, 15.0f32).tanh()
}

/// The extent of a sequence and how its work is divided: what the kernel is compiled for.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) struct Extent {
    /// H.
    pub(super) hidden: usize,
    /// Lanes of a cube.
    pub(super) lanes: usize,
    /// Hidden units of a unit of the device, at most.
    pub(super) of_unit: usize,
    /// Whether gates and cell states of all steps are kept.
    pub(super) keep: bool,
}

/// A layer's recurrence over a whole sequence. A cube owns some lanes, and its units meet once per
/// step to hand each other the hidden states.
///
/// products `[T, B, 4H]`, weight `[H, 4H]`, h and c `[B, H]`; outputs `[T, B, H]`, gates
/// `[T, B, 4H]` behind their activations and cells `[T, B, H]`, or without `keep` nothing and
/// `[B, H]`.
#[cube(launch)]
pub(super) fn sequence_forward(
    products: &[f32],
    weight: &[f32],
    h: &[f32],
    c: &[f32],
    outputs: &mut [f32],
    gates: &mut [f32],
    cells: &mut [f32],
    steps: usize,
    batch: usize,
    #[comptime] extent: Extent,
) {
    let hidden = comptime!(extent.hidden);
    let lanes = comptime!(extent.lanes);
    let of_unit = comptime!(extent.of_unit);
    let first_lane = CUBE_POS_X as usize * lanes;
    let unit = UNIT_POS_X as usize;
    let units = CUBE_DIM_X as usize;

    // Two copies in turns: one is read while the other is written.
    let mut states = Shared::new_slice(comptime!(2 * lanes * hidden));
    let mut cell = Array::<f32>::new(comptime!(of_unit * lanes));
    let mut sums = Array::<f32>::new(comptime!(of_unit * lanes * 4));

    #[unroll]
    for own in 0..of_unit {
        let u = own * units + unit;
        #[unroll]
        for l in 0..lanes {
            let lane = first_lane + l;
            if u < hidden && lane < batch {
                states[l * hidden + u] = h[lane * hidden + u];
                cell[own * lanes + l] = c[lane * hidden + u];
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
                if u < hidden && lane < batch {
                    #[unroll]
                    for gate in 0..4usize {
                        sums[(own * lanes + l) * 4 + gate] =
                            products[((step * batch + lane) * 4 + gate) * hidden + u];
                    }
                }
            }
        }
        for k in 0..hidden {
            #[unroll]
            for own in 0..of_unit {
                let u = own * units + unit;
                if u < hidden {
                    #[unroll]
                    for gate in 0..4usize {
                        let w = weight[(k * 4 + gate) * hidden + u];
                        #[unroll]
                        for l in 0..lanes {
                            sums[(own * lanes + l) * 4 + gate] += w * states[read + l * hidden + k];
                        }
                    }
                }
            }
        }
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                if u < hidden && lane < batch {
                    let at = (own * lanes + l) * 4;
                    let i = sigmoid(sums[at]);
                    let f = sigmoid(sums[at + 1]);
                    let g = squash(sums[at + 2]);
                    let o = sigmoid(sums[at + 3]);
                    let next = f * cell[own * lanes + l] + i * g;
                    cell[own * lanes + l] = next;
                    let state = o * squash(next);
                    states[write + l * hidden + u] = state;
                    let row = step * batch + lane;
                    outputs[row * hidden + u] = state;
                    if comptime!(extent.keep) {
                        gates[row * 4 * hidden + u] = i;
                        gates[(row * 4 + 1) * hidden + u] = f;
                        gates[(row * 4 + 2) * hidden + u] = g;
                        gates[(row * 4 + 3) * hidden + u] = o;
                        cells[row * hidden + u] = next;
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

/// The gradients of the gates' sums and of the cell state before the step: i, f, g, o, c. From the
/// activated gates, the cell states behind and before the step, and the gradients of h and c.
#[cube]
fn unit_backward(
    i: f32,
    f: f32,
    g: f32,
    o: f32,
    cell: f32,
    earlier: f32,
    grad_h: f32,
    grad_c: f32,
) -> (f32, f32, f32, f32, f32) {
    let squashed = squash(cell);
    let grad = grad_c + grad_h * o * (1.0f32 - squashed * squashed);
    (
        grad * g * i * (1.0f32 - i),
        grad * earlier * f * (1.0f32 - f),
        grad * i * (1.0f32 - g * g),
        grad_h * squashed * o * (1.0f32 - o),
        grad * f,
    )
}

/// Back through [`sequence_forward`], with the same division of the work.
///
/// weight is the transpose, `[4H, H]`; gates, cells and c are as there; grad_outputs `[T, B, H]`,
/// grad_last `[B, H]`, the gradient of the last cell states; the results are those of products,
/// h and c.
#[cube(launch)]
pub(super) fn sequence_backward(
    weight: &[f32],
    gates: &[f32],
    cells: &[f32],
    c: &[f32],
    grad_outputs: &[f32],
    grad_last: &[f32],
    grad_products: &mut [f32],
    grad_h: &mut [f32],
    grad_c: &mut [f32],
    steps: usize,
    batch: usize,
    #[comptime] extent: Extent,
) {
    let hidden = comptime!(extent.hidden);
    let lanes = comptime!(extent.lanes);
    let of_unit = comptime!(extent.of_unit);
    let first_lane = CUBE_POS_X as usize * lanes;
    let unit = UNIT_POS_X as usize;
    let units = CUBE_DIM_X as usize;
    let copy = comptime!(lanes * 4 * hidden);

    // The gradients of the gates' sums one step later; two copies in turns.
    let mut later = Shared::new_slice(comptime!(2 * lanes * 4 * hidden));
    let mut of_c = Array::<f32>::new(comptime!(of_unit * lanes));
    let mut of_h = Array::<f32>::new(comptime!(of_unit * lanes));

    #[unroll]
    for own in 0..of_unit {
        let u = own * units + unit;
        #[unroll]
        for l in 0..lanes {
            let lane = first_lane + l;
            if u < hidden && lane < batch {
                of_c[own * lanes + l] = grad_last[lane * hidden + u];
            }
        }
    }

    // One more round, for the gradient of the initial state.
    for round in 0..steps + 1 {
        let read = (round % 2) * copy;
        let write = copy - read;
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                of_h[own * lanes + l] = 0.0f32;
                if u < hidden && lane < batch && round < steps {
                    let row = (steps - 1 - round) * batch + lane;
                    of_h[own * lanes + l] = grad_outputs[row * hidden + u];
                }
            }
        }
        if round > 0 {
            for k in 0..4 * hidden {
                #[unroll]
                for own in 0..of_unit {
                    let u = own * units + unit;
                    if u < hidden {
                        let w = weight[k * hidden + u];
                        #[unroll]
                        for l in 0..lanes {
                            of_h[own * lanes + l] += w * later[read + l * 4 * hidden + k];
                        }
                    }
                }
            }
        }
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                if u < hidden && lane < batch {
                    if round < steps {
                        let step = steps - 1 - round;
                        let row = step * batch + lane;
                        let mut earlier = c[lane * hidden + u];
                        if step > 0 {
                            earlier = cells[(row - batch) * hidden + u];
                        }
                        let (of_i, of_f, of_g, of_o, before) = unit_backward(
                            gates[row * 4 * hidden + u],
                            gates[(row * 4 + 1) * hidden + u],
                            gates[(row * 4 + 2) * hidden + u],
                            gates[(row * 4 + 3) * hidden + u],
                            cells[row * hidden + u],
                            earlier,
                            of_h[own * lanes + l],
                            of_c[own * lanes + l],
                        );
                        of_c[own * lanes + l] = before;
                        let at = write + l * 4 * hidden + u;
                        later[at] = of_i;
                        later[at + hidden] = of_f;
                        later[at + 2 * hidden] = of_g;
                        later[at + 3 * hidden] = of_o;
                        grad_products[row * 4 * hidden + u] = of_i;
                        grad_products[(row * 4 + 1) * hidden + u] = of_f;
                        grad_products[(row * 4 + 2) * hidden + u] = of_g;
                        grad_products[(row * 4 + 3) * hidden + u] = of_o;
                    } else {
                        grad_h[lane * hidden + u] = of_h[own * lanes + l];
                        grad_c[lane * hidden + u] = of_c[own * lanes + l];
                    }
                }
            }
        }
        sync_cube();
    }
}

/// A single step where the recurrent product was formed elsewhere: activations and the new state of
/// one hidden unit in one lane.
///
/// products and gates are those of all steps, recurrent is `[B, 4H]`, earlier and cell are the cell
/// states before and behind the step, and state the hidden state behind it, `[B, H]`.
#[cube(launch)]
pub(super) fn step_forward(
    products: &[f32],
    recurrent: &[f32],
    earlier: &[f32],
    state: &mut [f32],
    cell: &mut [f32],
    outputs: &mut [f32],
    gates: &mut [f32],
    step: usize,
    batch: usize,
    #[comptime] hidden: usize,
    #[comptime] keep: bool,
) {
    let at = ABSOLUTE_POS;
    if at < batch * hidden {
        let lane = at / hidden;
        let u = at % hidden;
        let row = (step * batch + lane) * 4 * hidden + u;
        let own = lane * 4 * hidden + u;
        let i = sigmoid(products[row] + recurrent[own]);
        let f = sigmoid(products[row + hidden] + recurrent[own + hidden]);
        let g = squash(products[row + 2 * hidden] + recurrent[own + 2 * hidden]);
        let o = sigmoid(products[row + 3 * hidden] + recurrent[own + 3 * hidden]);
        let next = f * earlier[at] + i * g;
        let h = o * squash(next);
        cell[at] = next;
        state[at] = h;
        outputs[step * batch * hidden + at] = h;
        if comptime!(keep) {
            gates[row] = i;
            gates[row + hidden] = f;
            gates[row + 2 * hidden] = g;
            gates[row + 3 * hidden] = o;
        }
    }
}

/// Back through [`step_forward`].
///
/// recurrent is what flows into the hidden state from the step behind, `[B, H]`; of_c the gradient
/// of the cell state, changed in place; grad_gates `[B, 4H]` gets the gradients of the gates' sums,
/// as does their place in grad_products.
#[cube(launch)]
pub(super) fn step_backward(
    gates: &[f32],
    cell: &[f32],
    earlier: &[f32],
    grad_outputs: &[f32],
    recurrent: &[f32],
    of_c: &mut [f32],
    grad_gates: &mut [f32],
    grad_products: &mut [f32],
    step: usize,
    batch: usize,
    #[comptime] hidden: usize,
) {
    let at = ABSOLUTE_POS;
    if at < batch * hidden {
        let lane = at / hidden;
        let u = at % hidden;
        let row = (step * batch + lane) * 4 * hidden + u;
        let own = lane * 4 * hidden + u;
        let of_h = grad_outputs[step * batch * hidden + at] + recurrent[at];
        let (of_i, of_f, of_g, of_o, before) = unit_backward(
            gates[row],
            gates[row + hidden],
            gates[row + 2 * hidden],
            gates[row + 3 * hidden],
            cell[at],
            earlier[at],
            of_h,
            of_c[at],
        );
        of_c[at] = before;
        grad_gates[own] = of_i;
        grad_gates[own + hidden] = of_f;
        grad_gates[own + 2 * hidden] = of_g;
        grad_gates[own + 3 * hidden] = of_o;
        grad_products[row] = of_i;
        grad_products[row + hidden] = of_f;
        grad_products[row + 2 * hidden] = of_g;
        grad_products[row + 3 * hidden] = of_o;
    }
}

/// The losses of rows and, in place of their logits, the gradients of their mean. A unit of the
/// device takes a row of `[N, V]`.
#[cube(launch)]
pub(super) fn softmax_loss<I: Int>(
    logits: &mut [f32],
    targets: &[I],
    losses: &mut [f32],
    rows: usize,
    scale: f32,
    #[comptime] vocabulary: usize,
    #[define(I)] _index: ElemType,
) {
    let row = ABSOLUTE_POS;
    if row < rows {
        let first = row * vocabulary;
        let mut highest = logits[first];
        for column in 1..vocabulary {
            highest = max(highest, logits[first + column]);
        }
        let mut total = 0.0f32;
        for column in 0..vocabulary {
            total += (logits[first + column] - highest).exp();
        }
        let target = usize::cast_from(targets[row]);
        losses[row] = (total.ln() - (logits[first + target] - highest)) * scale;
        let share = scale / total;
        for column in 0..vocabulary {
            logits[first + column] = (logits[first + column] - highest).exp() * share;
        }
        logits[first + target] -= scale;
    }
}

/// One step of AdamW on each number. `decayed` is 1 − learning rate × weight decay, `rate` the
/// learning rate over the first moment's correction, `correction` 1 over the second one's.
#[cube(launch)]
pub(super) fn adamw(
    parameter: &[f32],
    gradient: &[f32],
    moment_1: &[f32],
    moment_2: &[f32],
    new_parameter: &mut [f32],
    new_moment_1: &mut [f32],
    new_moment_2: &mut [f32],
    count: usize,
    decayed: f32,
    rate: f32,
    correction: f32,
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
) {
    let at = ABSOLUTE_POS;
    if at < count {
        let g = gradient[at];
        let m = beta_1 * moment_1[at] + (1.0f32 - beta_1) * g;
        let v = beta_2 * moment_2[at] + (1.0f32 - beta_2) * g * g;
        new_moment_1[at] = m;
        new_moment_2[at] = v;
        new_parameter[at] =
            decayed * parameter[at] - rate * m / ((v * correction).sqrt() + epsilon);
    }
}
