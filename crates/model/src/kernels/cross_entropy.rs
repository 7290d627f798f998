//! A linear layer, softmax and negative log-likelihood in one.
//!
//! Where gradients are wanted they are formed on the way: nothing as wide as the vocabulary
//! outlives the call.

use pulp::{Arch, Simd, WithSimd};

use super::activation::exp;
use super::matrix::{Matrix, multiply};
use super::parallel::{for_each, piece_length};

/// What goes in.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a> {
    /// `[N, H]`.
    pub(crate) input: &'a [f32],
    /// `[H, V]`.
    pub(crate) weight: &'a [f32],
    /// `[V]`.
    pub(crate) bias: &'a [f32],
    /// `[N]`, each below V.
    pub(crate) targets: &'a [u32],
}

/// Gradients with respect to what went in.
#[derive(Clone, Debug)]
pub(crate) struct Gradients {
    /// `[N, H]`.
    pub(crate) input: Vec<f32>,
    /// `[H, V]`.
    pub(crate) weight: Vec<f32>,
    /// `[V]`.
    pub(crate) bias: Vec<f32>,
}

/// Rows whose logits exist at the same time.
const ROWS: usize = 4096;

/// The mean negative log-likelihood of the targets, in nats.
///
/// # Panics
///
/// Where a target is not below the vocabulary.
pub(crate) fn loss(arguments: Arguments<'_>) -> f32 {
    let Arguments { input, weight, bias, targets } = arguments;
    let hidden = input.len() / targets.len();
    let mut sum = 0.0;
    for (input, targets) in input.chunks(ROWS * hidden).zip(targets.chunks(ROWS)) {
        let mut logits = logits(input, weight, bias, targets.len());
        sum += soften(&mut logits, targets, bias.len(), None);
    }
    (sum / targets.len() as f64) as f32
}

/// The same and its gradients.
///
/// # Panics
///
/// Where a target is not below the vocabulary.
pub(crate) fn loss_and_gradients(arguments: Arguments<'_>) -> (f32, Gradients) {
    let Arguments { input, weight, bias, targets } = arguments;
    let (count, vocabulary) = (targets.len(), bias.len());
    let hidden = input.len() / count;
    let mut gradients = Gradients {
        input: vec![0.0; input.len()],
        weight: vec![0.0; weight.len()],
        bias: vec![0.0; vocabulary],
    };
    let mut sum = 0.0;
    let parts = input
        .chunks(ROWS * hidden)
        .zip(targets.chunks(ROWS))
        .zip(gradients.input.chunks_mut(ROWS * hidden));
    for ((input, targets), grad_input) in parts {
        let mut logits = logits(input, weight, bias, targets.len());
        sum += soften(&mut logits, targets, vocabulary, Some(1.0 / count as f32));
        for row in logits.chunks_exact(vocabulary) {
            for (sum, grad) in gradients.bias.iter_mut().zip(row) {
                *sum += grad;
            }
        }
        let logits = Matrix::new(&logits, vocabulary);
        multiply(grad_input, logits, Matrix::new(weight, vocabulary).transpose());
        let input = Matrix::new(input, hidden);
        multiply(&mut gradients.weight, input.transpose(), logits);
    }
    ((sum / count as f64) as f32, gradients)
}

fn logits(input: &[f32], weight: &[f32], bias: &[f32], count: usize) -> Vec<f32> {
    let mut logits = bias.repeat(count);
    let hidden = input.len() / count;
    multiply(&mut logits, Matrix::new(input, hidden), Matrix::new(weight, bias.len()));
    logits
}

/// The sum of the negative log-likelihoods of the targets. With a scale, the logits turn into
/// their gradients times that.
fn soften(logits: &mut [f32], targets: &[u32], vocabulary: usize, scale: Option<f32>) -> f64 {
    for &target in targets {
        assert!(
            (target as usize) < vocabulary,
            "target {target} is not below the vocabulary's {vocabulary}"
        );
    }
    // An exponential is worth some twenty elementary operations.
    let work = 20 * logits.len();
    let rows = piece_length(targets.len(), work);
    let pieces = logits
        .chunks_mut(rows * vocabulary)
        .zip(targets.chunks(rows))
        .map(|(logits, targets)| Softmax { logits, targets, vocabulary, scale })
        .collect();
    let arch = Arch::new();
    // The sums of the rows are added in their order: the bits do not depend on the threads.
    let losses: Vec<Vec<f32>> = for_each(pieces, work, |piece| arch.dispatch(piece));
    losses.iter().flatten().map(|&loss| f64::from(loss)).sum()
}

/// e to the power of every logit's distance from the highest over the temperature; returns the sum.
pub(crate) fn softmax_weights(logits: &[f32], temperature: f32, weights: &mut Vec<f32>) -> f32 {
    weights.clear();
    weights.extend_from_slice(logits);
    Arch::new().dispatch(Weigh { logits: weights, temperature })
}

struct Weigh<'a> {
    logits: &'a mut [f32],
    temperature: f32,
}

impl WithSimd for Weigh<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let highest = highest(simd, self.logits);
        // Of a tiny temperature the inverse may be infinite, and times zero no number.
        self.logits.iter_mut().for_each(|logit| *logit = (*logit - highest) / self.temperature);
        exponentials(simd, self.logits, 0.0)
    }
}

struct Softmax<'a> {
    logits: &'a mut [f32],
    targets: &'a [u32],
    vocabulary: usize,
    scale: Option<f32>,
}

impl WithSimd for Softmax<'_> {
    /// The loss of every row.
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let mut losses = Vec::with_capacity(self.targets.len());
        for (row, &target) in self.logits.chunks_exact_mut(self.vocabulary).zip(self.targets) {
            losses.push(soften_row(simd, row, target as usize, self.scale));
        }
        losses
    }
}

#[inline(always)]
fn soften_row<S: Simd>(simd: S, row: &mut [f32], target: usize, scale: Option<f32>) -> f32 {
    let highest = highest(simd, row);
    let of_target = row[target] - highest;
    let total = exponentials(simd, row, highest);
    if let Some(scale) = scale {
        let factor = simd.splat_f32s(scale / total);
        for part in row.chunks_mut(S::F32_LANES) {
            let scaled = simd.mul_f32s(simd.partial_load_f32s(part), factor);
            simd.partial_store_f32s(part, scaled);
        }
        row[target] -= scale;
    }
    total.ln() - of_target
}

/// The largest number of a row.
#[inline(always)]
fn highest<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let (vectors, tail) = S::as_simd_f32s(row);
    let mut highest = simd.splat_f32s(f32::NEG_INFINITY);
    for &vector in vectors {
        highest = simd.max_f32s(highest, vector);
    }
    tail.iter().fold(simd.reduce_max_f32s(highest), |highest, &value| highest.max(value))
}

/// Replaces every number by e to the power of its distance from the highest; returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(simd: S, row: &mut [f32], highest: f32) -> f32 {
    let (highest, low) = (simd.splat_f32s(highest), simd.splat_f32s(-87.0));
    let mut total = simd.splat_f32s(0.0);
    let (vectors, tail) = S::as_mut_simd_f32s(row);
    for vector in vectors {
        let x = simd.sub_f32s(*vector, highest);
        // By a comparison, which lets what is not a number pass.
        let x = simd.select_f32s(simd.less_than_f32s(x, low), low, x);
        *vector = exp(simd, x);
        total = simd.add_f32s(total, *vector);
    }
    let mut total = simd.reduce_sum_f32s(total);
    if !tail.is_empty() {
        let x = simd.sub_f32s(simd.partial_load_f32s(tail), highest);
        let x = simd.select_f32s(simd.less_than_f32s(x, low), low, x);
        simd.partial_store_f32s(tail, exp(simd, x));
        total += tail.iter().sum::<f32>();
    }
    total
}
