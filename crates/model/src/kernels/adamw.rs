//! One step of AdamW in one pass over its numbers.

use pulp::{Arch, Simd, WithSimd};

use super::parallel::{for_each, piece_length};
use super::prefetch::prefetch_behind;
use crate::AdamWStep;

/// What a number's step is worth in elementary operations: it waits for the memory.
const WORK: usize = 16;

/// Moves a parameter and its moments.
///
/// # Panics
///
/// Where the lengths differ.
pub(crate) fn update(
    step: &AdamWStep,
    parameter: &mut [f32],
    gradient: &[f32],
    moments: [&mut [f32]; 2],
) {
    /// Numbers that are moved while the next ones are on their way.
    const NEAR: usize = 256;
    let length = check(parameter.len(), gradient, &moments);
    let [moment_1, moment_2] = moments;
    let factors = Factors::new(step);
    let pieces: Vec<_> = parameter
        .chunks_mut(length)
        .zip(gradient.chunks(length))
        .zip(moment_1.chunks_mut(length).zip(moment_2.chunks_mut(length)))
        .collect();
    let arch = Arch::new();
    for_each(pieces, WORK * gradient.len(), |((parameter, gradient), (moment_1, moment_2))| {
        for ((parameter, gradient), (moment_1, moment_2)) in parameter
            .chunks_mut(NEAR)
            .zip(gradient.chunks(NEAR))
            .zip(moment_1.chunks_mut(NEAR).zip(moment_2.chunks_mut(NEAR)))
        {
            prefetch_behind(parameter);
            arch.dispatch(Update { factors, parameter, gradient, moment_1, moment_2 });
        }
    });
}

/// The same of a parameter that others hold: it stays, and this returns what becomes of it.
///
/// # Panics
///
/// Where the lengths differ.
pub(crate) fn updated(
    step: &AdamWStep,
    parameter: &[f32],
    gradient: &[f32],
    moments: [&mut [f32]; 2],
) -> Vec<f32> {
    /// Numbers that are copied and moved before the next ones are: they stay in a small cache.
    const NEAR: usize = 1024;
    let count = parameter.len();
    let length = check(count, gradient, &moments);
    let [moment_1, moment_2] = moments;
    let factors = Factors::new(step);
    let mut result: Vec<f32> = Vec::with_capacity(count);
    let pieces: Vec<_> = result.spare_capacity_mut()[..count]
        .chunks_mut(length)
        .zip(parameter.chunks(length).zip(gradient.chunks(length)))
        .zip(moment_1.chunks_mut(length).zip(moment_2.chunks_mut(length)))
        .collect();
    let arch = Arch::new();
    for_each(pieces, WORK * count, |((room, (parameter, gradient)), (moment_1, moment_2))| {
        for ((room, (parameter, gradient)), (moment_1, moment_2)) in room
            .chunks_mut(NEAR)
            .zip(parameter.chunks(NEAR).zip(gradient.chunks(NEAR)))
            .zip(moment_1.chunks_mut(NEAR).zip(moment_2.chunks_mut(NEAR)))
        {
            let parameter = room.write_copy_of_slice(parameter);
            arch.dispatch(Update { factors, parameter, gradient, moment_1, moment_2 });
        }
    });
    // SAFETY: all five slices have `count` numbers and are cut alike, so that the pieces cover the first
    // `count` places, and each is written in full; had one panicked, `for_each` would not have
    // returned.
    unsafe { result.set_len(count) };
    result
}

/// The length of the pieces, when the others' lengths are the parameter's.
fn check(count: usize, gradient: &[f32], [moment_1, moment_2]: &[&mut [f32]; 2]) -> usize {
    let lengths = [gradient.len(), moment_1.len(), moment_2.len()];
    assert_eq!(lengths, [count; 3], "the lengths of a parameter's gradient and moments");
    piece_length(count, WORK * count).next_multiple_of(16)
}

/// What all numbers are multiplied by.
#[derive(Clone, Copy)]
struct Factors {
    beta_1: f32,
    beta_2: f32,
    /// 1 / √(1 − β₂ᵗ).
    correction: f32,
    epsilon: f32,
    /// 1 − η λ.
    decay: f32,
    /// −η / (1 − β₁ᵗ).
    rate: f32,
}

impl Factors {
    fn new(step: &AdamWStep) -> Self {
        let AdamWStep { learning_rate, beta_1, beta_2, epsilon, weight_decay, .. } = *step;
        let [correction_1, correction_2] = step.corrections();
        Self {
            beta_1,
            beta_2,
            correction: (1.0 / correction_2.sqrt()) as f32,
            epsilon,
            decay: (1.0 - learning_rate * f64::from(weight_decay)) as f32,
            rate: (-learning_rate / correction_1) as f32,
        }
    }
}

/// Numbers, and what moves them.
struct Update<'a> {
    factors: Factors,
    parameter: &'a mut [f32],
    gradient: &'a [f32],
    moment_1: &'a mut [f32],
    moment_2: &'a mut [f32],
}

impl WithSimd for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Factors { beta_1, beta_2, correction, epsilon, decay, rate } = self.factors;
        let splat = |value: f32| simd.splat_f32s(value);
        let (b1, b2) = (splat(beta_1), splat(beta_2));
        let (rest_1, rest_2) = (splat(1.0 - beta_1), splat(1.0 - beta_2));
        let (correction, epsilon) = (splat(correction), splat(epsilon));
        let (decay, rate) = (splat(decay), splat(rate));
        let factors = [b1, rest_1, b2, rest_2, correction, epsilon, decay, rate];
        let (parameter, parameter_tail) = S::as_mut_simd_f32s(self.parameter);
        let (gradient, gradient_tail) = S::as_simd_f32s(self.gradient);
        let (moment_1, tail_1) = S::as_mut_simd_f32s(self.moment_1);
        let (moment_2, tail_2) = S::as_mut_simd_f32s(self.moment_2);
        for (((w, gradient), m), v) in
            parameter.iter_mut().zip(gradient).zip(moment_1).zip(moment_2)
        {
            [*m, *v, *w] = move_weight(simd, factors, [*w, *gradient, *m, *v]);
        }
        if !parameter_tail.is_empty() {
            let load = |slice: &[f32]| simd.partial_load_f32s(slice);
            let numbers = [load(parameter_tail), load(gradient_tail), load(tail_1), load(tail_2)];
            let results = move_weight(simd, factors, numbers);
            for (slice, values) in [tail_1, tail_2, parameter_tail].into_iter().zip(results) {
                simd.partial_store_f32s(slice, values);
            }
        }
    }
}

/// The moments and the weight behind the step; as they were where the gradient is no number.
#[inline(always)]
fn move_weight<S: Simd>(
    simd: S,
    [b1, rest_1, b2, rest_2, correction, epsilon, decay, rate]: [S::f32s; 8],
    [from, g, m, v]: [S::f32s; 4],
) -> [S::f32s; 3] {
    let new_m = simd.mul_add_e_f32s(g, rest_1, simd.mul_f32s(m, b1));
    let new_v = simd.mul_add_e_f32s(simd.mul_f32s(g, g), rest_2, simd.mul_f32s(v, b2));
    let scale = simd.mul_add_e_f32s(simd.sqrt_f32s(new_v), correction, epsilon);
    let to = simd.mul_add_e_f32s(simd.div_f32s(new_m, scale), rate, simd.mul_f32s(from, decay));
    let is_number = simd.equal_f32s(g, g);
    let select = |new: S::f32s, old: S::f32s| simd.select_f32s(is_number, new, old);
    [select(new_m, m), select(new_v, v), select(to, from)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_stays_and_one_that_does_not_become_the_same() {
        let step = AdamWStep {
            learning_rate: 0.01,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            time: 3,
        };
        for count in [0, 1, 17, 1_023, 1_024, 1_025, 70_001] {
            let numbers = |n: usize| -> Vec<f32> {
                (0..count).map(|k| ((k * n) as f32 * 0.37 + n as f32).sin()).collect()
            };
            let (parameter, mut gradient) = (numbers(1), numbers(2));
            gradient.iter_mut().step_by(7).for_each(|number| *number = f32::NAN);
            let moments = || [numbers(3), numbers(4).into_iter().map(f32::abs).collect()];
            let [mut first, mut second]: [Vec<f32>; 2] = moments();
            let mut expected = parameter.clone();
            update(&step, &mut expected, &gradient, [&mut first, &mut second]);
            let [mut to_first, mut to_second]: [Vec<f32>; 2] = moments();
            let got = updated(&step, &parameter, &gradient, [&mut to_first, &mut to_second]);
            assert_eq!([got, to_first, to_second], [expected, first, second], "{count}");
        }
    }
}
