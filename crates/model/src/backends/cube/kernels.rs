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

/// i, f, g and o of a hidden unit side by side: one load where four would be.
type Gates = Vector<f32, Const<4>>;

#[cube]
fn gates(i: f32, f: f32, g: f32, o: f32) -> Gates {
    let mut gates = Gates::empty();
    gates.insert(0usize, i);
    gates.insert(1usize, f);
    gates.insert(2usize, g);
    gates.insert(3usize, o);
    gates
}

#[cube]
fn activate(sums: Gates) -> Gates {
    gates(
        sigmoid(sums.extract(0usize)),
        sigmoid(sums.extract(1usize)),
        squash(sums.extract(2usize)),
        sigmoid(sums.extract(3usize)),
    )
}

/// The cell state behind a step.
#[cube]
fn next_cell(activated: Gates, cell: f32) -> f32 {
    activated.extract(1usize) * cell + activated.extract(0usize) * activated.extract(2usize)
}

/// The gradients of the gates' sums, from the activated gates, the cell states behind and before
/// the step and the gradients of h and c.
#[cube]
fn unit_backward(
    activated: Gates,
    cell: f32,
    earlier: f32,
    grad_h: f32,
    grad_c: f32,
) -> (Gates, f32) {
    let i = activated.extract(0usize);
    let f = activated.extract(1usize);
    let g = activated.extract(2usize);
    let o = activated.extract(3usize);
    let squashed = squash(cell);
    let grad = grad_c + grad_h * o * (1.0f32 - squashed * squashed);
    let of_sums = gates(
        grad * g * i * (1.0f32 - i),
        grad * earlier * f * (1.0f32 - f),
        grad * i * (1.0f32 - g * g),
        grad_h * squashed * o * (1.0f32 - o),
    );
    (of_sums, grad * f)
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
    /// Whether products are those of the vocabulary, a row for each token.
    pub(super) by_token: bool,
}

/// Where the products of a place stand.
#[cube]
fn row_of<I: Int>(tokens: &[I], place: usize, #[comptime] by_token: bool) -> usize {
    if comptime!(by_token) { usize::cast_from(tokens[place]) } else { place }
}

/// A layer's recurrence over a whole sequence. A cube owns some lanes, and its units meet once per
/// step to hand each other the hidden states.
///
/// products `[T, B, H]` of gates, or `[V, H]` with tokens `[T, B]`; weight `[H, H]` of gates, h and c
/// `[B, H]`; outputs `[T, B, H]`, kept `[T, B, H]` of gates behind their activations and cells `[T, B, H]`, or without `keep`
/// nothing and `[B, H]`.
#[cube(launch)]
pub(super) fn sequence_forward<I: Int>(
    tokens: &[I],
    products: &[Gates],
    weight: &[Gates],
    h: &[f32],
    c: &[f32],
    outputs: &mut [f32],
    kept: &mut [Gates],
    cells: &mut [f32],
    steps: usize,
    batch: usize,
    #[comptime] extent: Extent,
    #[define(I)] _token: ElemType,
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
            if u < hidden {
                #[unroll]
                for l in 0..lanes {
                    let lane = first_lane + l;
                    sums[own * lanes + l] = Gates::new(0.0f32);
                    if lane < batch {
                        let row = row_of::<I>(tokens, step * batch + lane, extent.by_token);
                        sums[own * lanes + l] = products[row * hidden + u];
                    }
                }
                for k in 0..hidden {
                    let w = weight[k * hidden + u];
                    #[unroll]
                    for l in 0..lanes {
                        sums[own * lanes + l] += w * Gates::new(states[read + l * hidden + k]);
                    }
                }
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
pub(super) fn sequence_backward(
    weight: &[Gates],
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
    let mut sums = Array::<Gates>::new(comptime!(lanes));

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
        for own in 0..of_unit {
            let u = own * units + unit;
            if u < hidden {
                #[unroll]
                for l in 0..lanes {
                    sums[l] = Gates::new(0.0f32);
                }
                if round > 0 {
                    for k in 0..hidden {
                        let w = weight[k * hidden + u];
                        #[unroll]
                        for l in 0..lanes {
                            sums[l] += w * later[read + l * hidden + k];
                        }
                    }
                }
                #[unroll]
                for l in 0..lanes {
                    let lane = first_lane + l;
                    let mut of_h = sums[l].extract(0usize)
                        + sums[l].extract(1usize)
                        + sums[l].extract(2usize)
                        + sums[l].extract(3usize);
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

/// A single step where the recurrent product was formed elsewhere: activations and the new state of
/// one hidden unit in one lane.
///
/// tokens, products and kept are those of all steps, recurrent is `[B, H]` of gates, earlier and cell are
/// the cell states before and behind the step, and state the hidden state behind it, `[B, H]`.
#[cube(launch)]
pub(super) fn step_forward<I: Int>(
    tokens: &[I],
    products: &[Gates],
    recurrent: &[Gates],
    earlier: &[f32],
    state: &mut [f32],
    cell: &mut [f32],
    outputs: &mut [f32],
    kept: &mut [Gates],
    step: usize,
    batch: usize,
    #[comptime] hidden: usize,
    #[comptime] keep: bool,
    #[comptime] by_token: bool,
    #[define(I)] _token: ElemType,
) {
    let own = ABSOLUTE_POS;
    let count = batch * hidden;
    if own < count {
        let at = step * count + own;
        let row = row_of::<I>(tokens, step * batch + own / hidden, by_token);
        let activated = activate(products[row * hidden + own % hidden] + recurrent[own]);
        let next = next_cell(activated, earlier[own]);
        let h = activated.extract(3usize) * squash(next);
        cell[own] = next;
        state[own] = h;
        outputs[at] = h;
        if comptime!(keep) {
            kept[at] = activated;
        }
    }
}

/// Back through [`step_forward`].
///
/// recurrent is what flows into the hidden state from the step behind, `[B, H]`; of_c the gradient
/// of the cell state, changed in place; grad_gates, `[B, H]` of gates, gets the gradients of the
/// gates' sums, as does their place in grad_products.
#[cube(launch)]
pub(super) fn step_backward(
    kept: &[Gates],
    cell: &[f32],
    earlier: &[f32],
    grad_outputs: &[f32],
    recurrent: &[f32],
    of_c: &mut [f32],
    grad_gates: &mut [Gates],
    grad_products: &mut [Gates],
    step: usize,
    count: usize,
) {
    let own = ABSOLUTE_POS;
    if own < count {
        let at = step * count + own;
        let of_h = grad_outputs[at] + recurrent[own];
        let (of_sums, before) = unit_backward(kept[at], cell[own], earlier[own], of_h, of_c[own]);
        of_c[own] = before;
        grad_gates[own] = of_sums;
        grad_products[at] = of_sums;
    }
}

/// The gradients of the vocabulary's products: for each token the sum over the places where it
/// stands, in their order. grad_products `[N, H]` of gates, tokens `[N]`, grad_table `[V, H]` of
/// gates.
#[cube(launch)]
pub(super) fn sum_by_token<I: Int>(
    tokens: &[I],
    grad_products: &[Gates],
    grad_table: &mut [Gates],
    places: usize,
    count: usize,
    #[comptime] hidden: usize,
    #[define(I)] _token: ElemType,
) {
    let own = ABSOLUTE_POS;
    if own < count {
        let token = own / hidden;
        let u = own % hidden;
        let mut sum = Gates::new(0.0f32);
        for place in 0..places {
            if usize::cast_from(tokens[place]) == token {
                sum += grad_products[place * hidden + u];
            }
        }
        grad_table[own] = sum;
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
