//! The arithmetic of one unit of a cell, on vectors of units.

use pulp::Simd;

use super::activation::{sigmoid, tanh};

/// A vector, or what there is of one.
#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, numbers: &[f32]) -> S::f32s {
    match S::as_simd_f32s(numbers) {
        ([vector], []) => *vector,
        _ => simd.partial_load_f32s(numbers),
    }
}

/// Puts a vector down, or the first of its numbers.
#[inline(always)]
pub(super) fn store<S: Simd>(simd: S, to: &mut [f32], vector: S::f32s) {
    match S::as_mut_simd_f32s(to) {
        ([to], []) => *to = vector,
        _ => simd.partial_store_f32s(to, vector),
    }
}

/// The activated gates and c behind the step; from the gates' sums and c before it.
#[inline(always)]
pub(super) fn unit_forward<S: Simd>(
    simd: S,
    [i, f, g, o]: [S::f32s; 4],
    c: S::f32s,
) -> ([S::f32s; 4], S::f32s) {
    let (i, f) = (sigmoid(simd, i), sigmoid(simd, f));
    let (g, o) = (tanh(simd, g), sigmoid(simd, o));
    let c = simd.mul_add_e_f32s(f, c, simd.mul_f32s(i, g));
    ([i, f, g, o], c)
}

/// h behind the step, from o and c.
#[inline(always)]
pub(super) fn unit_output<S: Simd>(simd: S, o: S::f32s, c: S::f32s) -> S::f32s {
    simd.mul_f32s(o, tanh(simd, c))
}

/// The gradients of the gates' sums, then of the cell state before the step; from the activated
/// gates, the cell states behind and before the step, and the gradients of h and c behind it.
#[inline(always)]
pub(super) fn unit_backward<S: Simd>(
    simd: S,
    [i, f, g, o]: [S::f32s; 4],
    [cell, earlier, grad_h, grad_c]: [S::f32s; 4],
) -> [S::f32s; 5] {
    let times = |a: S::f32s, b: S::f32s| simd.mul_f32s(a, b);
    let one = simd.splat_f32s(1.0);
    let squashed = tanh(simd, cell);
    // The derivatives: σ' = σ (1 − σ), tanh' = 1 − tanh².
    let through_h = times(times(grad_h, o), simd.negate_mul_add_e_f32s(squashed, squashed, one));
    let grad = simd.add_f32s(grad_c, through_h);
    [
        times(times(grad, g), times(i, simd.sub_f32s(one, i))),
        times(times(grad, earlier), times(f, simd.sub_f32s(one, f))),
        times(times(grad, i), simd.negate_mul_add_e_f32s(g, g, one)),
        times(times(grad_h, squashed), times(o, simd.sub_f32s(one, o))),
        times(grad, f),
    ]
}
