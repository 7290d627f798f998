//! What is done to each row or number by itself.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

use super::Gates;

/// The gradients of the vocabulary's products, of some places: for each token the sum over those of
/// them where it stands, in their order. A unit of the device takes a hidden unit, and nobody else its sums.
///
/// grad_products `[N, H]` of gates, tokens `[N]`, grad_tables `[S, V, 4, H]`.
#[cube(launch)]
pub(in crate::backends::cube) fn sum_by_token<I: Int>(
    tokens: &[I],
    grad_products: &[Gates],
    grad_tables: &mut [f32],
    places: usize,
    each: usize,
    #[comptime] vocabulary: usize,
    #[comptime] hidden: usize,
    #[comptime] units: usize,
    #[define(I)] _token: ElemType,
) {
    /// Places that are read before they are added.
    const AT_ONCE: usize = 8;
    let unit = UNIT_POS_X as usize;
    let u = CUBE_POS_X as usize * units + unit;
    let first = CUBE_POS_Y as usize * each;
    let last = min(first + each, places);
    let mut sums = Shared::<[Gates]>::new_slice(comptime!(vocabulary * units));
    for token in 0..vocabulary {
        sums[token * units + unit] = Gates::new(0.0f32);
    }
    if u < hidden {
        let mut place = first;
        while place < last {
            let mut some = Array::<Gates>::new(AT_ONCE);
            #[unroll]
            for k in 0..AT_ONCE {
                some[k] = Gates::new(0.0f32);
                if place + k < last {
                    some[k] = grad_products[(place + k) * hidden + u];
                }
            }
            #[unroll]
            for k in 0..AT_ONCE {
                if place + k < last {
                    // What is no token is taken for the last one: nobody checks this memory.
                    let token = min(usize::cast_from(tokens[place + k]), comptime!(vocabulary - 1));
                    sums[token * units + unit] += some[k];
                }
            }
            place += AT_ONCE;
        }
        for token in 0..vocabulary {
            let sum = sums[token * units + unit];
            #[unroll]
            for gate in 0..4 {
                let row = (CUBE_POS_Y as usize * vocabulary + token) * 4 + gate;
                grad_tables[row * hidden + u] = sum.extract(gate);
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
        // What is no token is taken for the last one, so that no other row is touched.
        let target = min(usize::cast_from(targets[row]), comptime!(vocabulary - 1));
        losses[row] = (total.ln() - (logits[first + target] - highest)) * scale;
        let share = scale / total;
        for column in 0..vocabulary {
            logits[first + column] = (logits[first + column] - highest).exp() * share;
        }
        logits[first + target] -= scale;
    }
}

/// One step of AdamW on each number that has a gradient. `decayed` is 1 − learning rate × weight decay,
/// `rate` the learning rate over the first moment's correction, `correction` 1 over the second one's.
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
