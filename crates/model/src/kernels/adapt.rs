//! One step of dynamic evaluation in one pass over its numbers.

use pulp::{Arch, Simd, WithSimd};

use super::parallel::{for_each, piece_length};

/// What a number's step is worth in elementary operations: it waits for the memory.
const WORK: usize = 16;

/// What a step moves numbers by.
#[derive(Clone, Copy)]
pub(crate) struct Forces<'a> {
    /// The gradient.
    pub(crate) gradient: &'a [f32],
    /// How far a number goes against it.
    pub(crate) rates: &'a [f32],
    /// Where the numbers began.
    pub(crate) trained: &'a [f32],
    /// What share of the way back there a number goes.
    pub(crate) pull: &'a [f32],
}

impl<'a> Forces<'a> {
    fn all(self) -> [&'a [f32]; 4] {
        [self.gradient, self.rates, self.trained, self.pull]
    }
}

/// Moves all numbers.
///
/// # Panics
///
/// Where the lengths differ.
pub(crate) fn adapt(weights: &mut [f32], forces: Forces<'_>) {
    let count = weights.len();
    let lengths = forces.all().map(<[f32]>::len);
    assert_eq!(lengths, [count; 4], "the lengths of what moves the weights");
    let length = piece_length(count, WORK * count).next_multiple_of(16);
    let pieces = weights.chunks_mut(length).enumerate().map(|(index, weights)| {
        let piece = index * length..index * length + weights.len();
        Adapt { weights, forces: forces.all().map(|numbers| &numbers[piece.clone()]) }
    });
    let arch = Arch::new();
    for_each(pieces.collect(), WORK * count, |piece| arch.dispatch(piece));
}

struct Adapt<'a> {
    weights: &'a mut [f32],
    /// Gradient, rates, trained, pull.
    forces: [&'a [f32]; 4],
}

impl WithSimd for Adapt<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let moved = |w, [gradient, rate, trained, pull]: [S::f32s; 4]| {
            let back = simd.mul_add_e_f32s(simd.sub_f32s(trained, w), pull, w);
            simd.sub_f32s(back, simd.mul_f32s(gradient, rate))
        };
        let (weights, weights_tail) = S::as_mut_simd_f32s(self.weights);
        let split = self.forces.map(|numbers| S::as_simd_f32s(numbers));
        for (index, w) in weights.iter_mut().enumerate() {
            *w = moved(*w, split.map(|(numbers, _)| numbers[index]));
        }
        let tails = split.map(|(_, tail)| simd.partial_load_f32s(tail));
        let last = moved(simd.partial_load_f32s(weights_tail), tails);
        simd.partial_store_f32s(weights_tail, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_its_equation() {
        for count in [0, 1, 15, 16, 17, 100, 100_003] {
            let numbers =
                |speed: f32| -> Vec<f32> { (0..count).map(|k| (k as f32 * speed).sin()).collect() };
            let [weights, gradient, rates, trained, pull] =
                [0.37, 0.73, 0.11, 0.53, 0.29].map(numbers);
            let mut got = weights.clone();
            let forces =
                Forces { gradient: &gradient, rates: &rates, trained: &trained, pull: &pull };
            adapt(&mut got, forces);
            for k in 0..count {
                let back = (trained[k] - weights[k]) * pull[k];
                let expected = weights[k] - rates[k] * gradient[k] + back;
                assert!((got[k] - expected).abs() < 1e-6);
            }
        }
    }
}
