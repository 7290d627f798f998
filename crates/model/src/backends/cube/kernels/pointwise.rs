//! What is done to each row or number by itself.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

use super::Gates;

/// The gradients of the vocabulary's products: for each token the sum over the places where it
/// stands, in their order. A unit of the device takes `each` hidden units of a token.
///
/// grad_products `[N, H]` of gates, tokens `[N]`, grad_table `[V, H]` of gates.
#[cube(launch)]
pub(in crate::backends::cube) fn sum_by_token<I: Int>(
    tokens: &[I],
    grad_products: &[Gates],
    grad_table: &mut [Gates],
    places: usize,
    vocabulary: usize,
    #[comptime] hidden: usize,
    #[comptime] each: usize,
    #[define(I)] _token: ElemType,
) {
    let groups = comptime!(hidden.div_ceil(each));
    let token = ABSOLUTE_POS / groups;
    let group = ABSOLUTE_POS % groups;
    if token < vocabulary {
        let mut sums = Array::<Gates>::new(each);
        #[unroll]
        for own in 0..each {
            sums[own] = Gates::new(0.0f32);
        }
        for place in 0..places {
            if usize::cast_from(tokens[place]) == token {
                #[unroll]
                for own in 0..each {
                    let u = own * groups + group;
                    if u < hidden {
                        sums[own] += grad_products[place * hidden + u];
                    }
                }
            }
        }
        #[unroll]
        for own in 0..each {
            let u = own * groups + group;
            if u < hidden {
                grad_table[token * hidden + u] = sums[own];
            }
        }
    }
}

/// The losses of rows and, in place of their logits, the gradients of their mean. A unit of the
/// device takes a row of `[N, V]`.
#[cube(launch)]
pub(in crate::backends::cube) fn softmax_loss<I: Int>(
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

/// One step of AdamW on each number that has a gradient. `decayed` is 1 − learning rate × weight decay, `rate` the
/// learning rate over the first moment's correction, `correction` 1 over the second one's.
#[cube(launch)]
pub(in crate::backends::cube) fn adamw(
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
        let mut m = moment_1[at];
        let mut v = moment_2[at];
        let mut w = parameter[at];
        if !g.is_nan() {
            m = beta_1 * m + (1.0f32 - beta_1) * g;
            v = beta_2 * v + (1.0f32 - beta_2) * g * g;
            w = decayed * w - rate * m / ((v * correction).sqrt() + epsilon);
        }
        new_moment_1[at] = m;
        new_moment_2[at] = v;
        new_parameter[at] = w;
    }
}
