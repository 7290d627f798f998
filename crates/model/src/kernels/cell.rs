//! One time step of one lane: the gates' activations and their derivatives.

use pulp::Simd;

use super::activation::{sigmoid, tanh};

/// Activates the gates of a lane and makes its next state.
#[inline(always)]
pub(super) fn step_forward<S: Simd>(
    simd: S,
    gates: &mut [f32],
    c: &[f32],
    h_next: &mut [f32],
    c_next: &mut [f32],
) {
    let [i, f, g, o] = four(gates);
    let ((i, i_tail), (f, f_tail)) = (S::as_mut_simd_f32s(i), S::as_mut_simd_f32s(f));
    let ((g, g_tail), (o, o_tail)) = (S::as_mut_simd_f32s(g), S::as_mut_simd_f32s(o));
    let (c, c_tail) = S::as_simd_f32s(c);
    let (h_next, h_tail) = S::as_mut_simd_f32s(h_next);
    let (c_next, c_next_tail) = S::as_mut_simd_f32s(c_next);
    let units = i.iter_mut().zip(f).zip(g).zip(o).zip(c).zip(h_next).zip(c_next);
    for ((((((i, f), g), o), c), h_next), c_next) in units {
        [*i, *f, *g, *o, *h_next, *c_next] = unit_forward(simd, [*i, *f, *g, *o], *c);
    }
    if !c_tail.is_empty() {
        let gates = load_all(simd, [&*i_tail, &*f_tail, &*g_tail, &*o_tail]);
        let results = unit_forward(simd, gates, simd.partial_load_f32s(c_tail));
        let slices = [i_tail, f_tail, g_tail, o_tail, h_tail, c_next_tail];
        for (slice, values) in slices.into_iter().zip(results) {
            simd.partial_store_f32s(slice, values);
        }
    }
}

/// The activated gates, then the next h and c.
#[inline(always)]
fn unit_forward<S: Simd>(simd: S, [i, f, g, o]: [S::f32s; 4], c: S::f32s) -> [S::f32s; 6] {
    let (i, f) = (sigmoid(simd, i), sigmoid(simd, f));
    let (g, o) = (tanh(simd, g), sigmoid(simd, o));
    let c = simd.mul_add_e_f32s(f, c, simd.mul_f32s(i, g));
    let h = simd.mul_f32s(o, tanh(simd, c));
    [i, f, g, o, h, c]
}

/// What does not fill vectors.
#[inline(always)]
fn load_all<S: Simd>(simd: S, [a, b, c, d]: [&[f32]; 4]) -> [S::f32s; 4] {
    [
        simd.partial_load_f32s(a),
        simd.partial_load_f32s(b),
        simd.partial_load_f32s(c),
        simd.partial_load_f32s(d),
    ]
}

/// The blocks of i, f, g and o.
#[inline(always)]
fn four(gates: &mut [f32]) -> [&mut [f32]; 4] {
    let hidden = gates.len() / 4;
    let (i, rest) = gates.split_at_mut(hidden);
    let (f, rest) = rest.split_at_mut(hidden);
    let (g, o) = rest.split_at_mut(hidden);
    [i, f, g, o]
}

/// Turns the gates of a lane into their gradients, and moves the cell's gradient a step back.
#[inline(always)]
pub(super) fn step_backward<S: Simd>(
    simd: S,
    gates: &mut [f32],
    cells: &[f32],
    earlier: &[f32],
    grad_h: &[f32],
    grad_c: &mut [f32],
) {
    let [i, f, g, o] = four(gates);
    let ((i, i_tail), (f, f_tail)) = (S::as_mut_simd_f32s(i), S::as_mut_simd_f32s(f));
    let ((g, g_tail), (o, o_tail)) = (S::as_mut_simd_f32s(g), S::as_mut_simd_f32s(o));
    let (cells, cells_tail) = S::as_simd_f32s(cells);
    let (earlier, earlier_tail) = S::as_simd_f32s(earlier);
    let (grad_h, grad_h_tail) = S::as_simd_f32s(grad_h);
    let (grad_c, grad_c_tail) = S::as_mut_simd_f32s(grad_c);
    let units = i.iter_mut().zip(f).zip(g).zip(o).zip(cells).zip(earlier).zip(grad_h).zip(grad_c);
    for (((((((i, f), g), o), cells), earlier), grad_h), grad_c) in units {
        let states = [*cells, *earlier, *grad_h, *grad_c];
        [*i, *f, *g, *o, *grad_c] = unit_backward(simd, [*i, *f, *g, *o], states);
    }
    if !cells_tail.is_empty() {
        let gates = load_all(simd, [&*i_tail, &*f_tail, &*g_tail, &*o_tail]);
        let states = load_all(simd, [cells_tail, earlier_tail, grad_h_tail, &*grad_c_tail]);
        let results = unit_backward(simd, gates, states);
        let slices = [i_tail, f_tail, g_tail, o_tail, grad_c_tail];
        for (slice, values) in slices.into_iter().zip(results) {
            simd.partial_store_f32s(slice, values);
        }
    }
}

/// The gradients of the gates' products, then of the cell state before the step; from the
/// activated gates, the cell states behind and before the step, and the gradients of h and c
/// behind it.
#[inline(always)]
fn unit_backward<S: Simd>(
    simd: S,
    [i, f, g, o]: [S::f32s; 4],
    [cell, earlier, grad_h, grad_c]: [S::f32s; 4],
) -> [S::f32s; 5] {
    let times = |a: S::f32s, b: S::f32s| simd.mul_f32s(a, b);
    let one = simd.splat_f32s(1.0);
    // The derivatives: σ' = σ (1 − σ), tanh' = 1 − tanh².
    let slope = |s: S::f32s| times(s, simd.sub_f32s(one, s));
    let slope_of_tanh = |t: S::f32s| simd.sub_f32s(one, times(t, t));
    let squashed = tanh(simd, cell);
    let through_h = times(times(grad_h, o), slope_of_tanh(squashed));
    let grad = simd.add_f32s(grad_c, through_h);
    [
        times(times(grad, g), slope(i)),
        times(times(grad, earlier), slope(f)),
        times(times(grad, i), slope_of_tanh(g)),
        times(times(grad_h, squashed), slope(o)),
        times(grad, f),
    ]
}
