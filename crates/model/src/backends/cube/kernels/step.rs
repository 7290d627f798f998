//! One step in one launch.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

use super::{Gates, activate, next_cell, row_of, squash, unit_backward};

/// A single step where the recurrent product was formed elsewhere: activations and the new state of
/// one hidden unit in one lane.
///
/// tokens, products and kept are those of all steps, recurrent is `[P, B, H]` of gates in parts to be
/// added, earlier and cell are the cell states before and behind the step, and state the hidden state
/// behind it, `[B, H]`.
#[cube(launch)]
pub(in crate::backends::cube) fn step_forward<I: Int>(
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
    #[comptime] parts: usize,
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
        let mut sum = products[row * hidden + own % hidden];
        #[unroll]
        for part in 0..parts {
            sum += recurrent[part * count + own];
        }
        let activated = activate(sum);
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
/// recurrent is what flows into the hidden state from the step behind, `[P, B, H]` in parts to be added;
/// of_c the gradient of the cell state, changed in place; grad_gates, `[B, H]` of gates, gets the
/// gradients of the gates' sums, as does their place in grad_products.
#[cube(launch)]
pub(in crate::backends::cube) fn step_backward(
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
    #[comptime] parts: usize,
) {
    let own = ABSOLUTE_POS;
    if own < count {
        let at = step * count + own;
        let mut of_h = grad_outputs[at];
        #[unroll]
        for part in 0..parts {
            of_h += recurrent[part * count + own];
        }
        let (of_sums, before) = unit_backward(kept[at], cell[own], earlier[own], of_h, of_c[own]);
        of_c[own] = before;
        grad_gates[own] = of_sums;
        grad_products[at] = of_sums;
    }
}
