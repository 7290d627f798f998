//! A linear layer, softmax and negative log-likelihood in one.
//!
//! Where gradients are wanted they are formed on the way: nothing as wide as the vocabulary
//! outlives the call.

use pulp::{Arch, Simd, WithSimd};

use super::activation::exp;
use super::cell::{load, store};
use super::outer::outer;
use super::packing::Packed;
use super::parallel::{Piece, for_each, piece_length};
use super::product::{Onto, product};
use super::rows::Rows;
use super::spare;

/// Rows that are taken through at a time.
const ROWS: usize = 128;
/// Pieces for each thread, where there are rows enough.
const PIECES: usize = 4;

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

/// The mean negative log-likelihood of the targets, in nats.
///
/// # Panics
///
/// Where a target is not below the vocabulary.
pub(crate) fn loss(arguments: Arguments<'_>) -> f32 {
    let head = Packed::new(arguments.weight, arguments.bias.len());
    let parts = arguments.parts(&head, None, &mut []);
    let losses: Vec<Vec<f32>> = run(parts).into_iter().map(|part| part.losses).collect();
    mean(&losses)
}

/// The same and its gradients.
///
/// # Panics
///
/// Where a target is not below the vocabulary.
pub(crate) fn loss_and_gradients(arguments: Arguments<'_>) -> (f32, Gradients) {
    let Arguments { input, weight, bias, .. } = arguments;
    let head = Packed::new(weight, bias.len());
    let mut way_back = Packed::default();
    way_back.pack_transposed(weight, bias.len(), bias.len());
    let mut grad_input = spare::take(input.len());
    let mut parts = run(arguments.parts(&head, Some(&way_back), &mut grad_input));
    let losses: Vec<Vec<f32>> =
        parts.iter_mut().map(|part| std::mem::take(&mut part.losses)).collect();
    let mut parts = parts.into_iter().map(|part| (part.grad_weight, part.grad_bias));
    let (mut weight, mut bias) = parts.next().expect("there are rows");
    for (of_weight, of_bias) in parts {
        weight.iter_mut().zip(&of_weight).for_each(|(sum, grad)| *sum += grad);
        bias.iter_mut().zip(of_bias).for_each(|(sum, grad)| *sum += grad);
        spare::give(of_weight);
    }
    (mean(&losses), Gradients { input: grad_input, weight, bias })
}

/// The mean of the losses of all rows, added in their order: its bits do not depend on the threads.
fn mean(losses: &[Vec<f32>]) -> f32 {
    let count: usize = losses.iter().map(Vec::len).sum();
    let sum: f64 = losses.iter().flatten().map(|&loss| f64::from(loss)).sum();
    (sum / count as f64) as f32
}

fn run(parts: (Vec<Part<'_>>, usize)) -> Vec<Part<'_>> {
    let arch = Arch::new();
    let (parts, work) = parts;
    for_each(parts, work, |mut part| {
        arch.dispatch(All(&mut part));
        part
    })
}

impl<'a> Arguments<'a> {
    /// Divides the rows over the threads; with the work to be done. With a way back, the gradients
    /// of the input have their places in `grad_input`.
    fn parts(
        self,
        head: &'a Packed,
        way_back: Option<&'a Packed>,
        grad_input: &'a mut [f32],
    ) -> (Vec<Part<'a>>, usize) {
        let Self { input, weight, bias, targets } = self;
        for &target in targets {
            assert!(
                (target as usize) < bias.len(),
                "target {target} is not below the vocabulary's {}",
                bias.len()
            );
        }
        let (count, hidden) = (targets.len(), input.len() / targets.len());
        // An exponential is worth some twenty elementary operations.
        let products = if way_back.is_some() { 3 } else { 1 };
        let work = count * bias.len() * (20 + products * hidden);
        let rows = piece_length(count, work);
        // A thread that is faster takes more of them.
        let rows = if rows < count && rows >= PIECES * ROWS { rows.div_ceil(PIECES) } else { rows };
        let mut grad_inputs = grad_input.chunks_mut(rows * hidden);
        let part = |(targets, input): (&'a [u32], &'a [f32])| Part {
            head,
            bias,
            input,
            targets,
            way_back: way_back.zip(grad_inputs.next()).map(|(weight, grad_input)| WayBack {
                weight,
                grad_input,
                scale: 1.0 / count as f32,
            }),
            losses: Vec::with_capacity(targets.len()),
            grad_weight: way_back.map_or_else(Vec::new, |_| spare::take(weight.len())),
            grad_bias: vec![0.0; bias.len()],
        };
        (targets.chunks(rows).zip(input.chunks(rows * hidden)).map(part).collect(), work)
    }
}

/// Some rows.
struct Part<'a> {
    head: &'a Packed,
    bias: &'a [f32],
    input: &'a [f32],
    targets: &'a [u32],
    way_back: Option<WayBack<'a>>,
    losses: Vec<f32>,
    /// What these rows contribute.
    grad_weight: Vec<f32>,
    grad_bias: Vec<f32>,
}

/// What the gradients of some rows need.
struct WayBack<'a> {
    /// The transposed weight, `[V, H]`.
    weight: &'a Packed,
    grad_input: &'a mut [f32],
    /// What a row's loss counts in the mean.
    scale: f32,
}

/// Takes all rows of a part through, a few at a time, whose logits stay near.
struct All<'a, 'b>(&'a mut Part<'b>);

impl WithSimd for All<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Part { head, bias, input, targets, way_back, losses, grad_weight, grad_bias } = self.0;
        let (vocabulary, hidden) = (bias.len(), input.len() / targets.len());
        let mut buffer = spare::take(ROWS.min(targets.len()) * vocabulary);
        for rows in Piece::all(targets.len(), ROWS) {
            let input = &input[rows.start * hidden..][..rows.length * hidden];
            let input = Rows::new(input, hidden);
            let logits = &mut buffer[..rows.length * vocabulary];
            product(simd, input, head, Onto::Row(bias), logits);
            let scale = way_back.as_ref().map(|way_back| way_back.scale);
            let targets = &targets[rows.start..][..rows.length];
            for (row, &target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
                losses.push(soften_row(simd, row, target as usize, scale));
            }
            if let Some(WayBack { weight, grad_input, .. }) = way_back {
                for row in logits.chunks_exact(vocabulary) {
                    grad_bias.iter_mut().zip(row).for_each(|(sum, grad)| *sum += grad);
                }
                let grads = Rows::new(logits, vocabulary);
                let grad_input = &mut grad_input[rows.start * hidden..][..rows.length * hidden];
                product(simd, grads, weight, Onto::Nothing, grad_input);
                let onto = if rows.start == 0 { Onto::Nothing } else { Onto::Present };
                outer(simd, input, grads, onto, grad_weight);
            }
        }
        spare::give(buffer);
    }
}

/// e to the power of every logit's distance from the highest over the temperature; returns the sum.
pub(crate) fn softmax_weights(logits: &[f32], temperature: f32, weights: &mut Vec<f32>) -> f32 {
    weights.resize(logits.len(), 0.0);
    Arch::new().dispatch(Weigh { logits, temperature, weights })
}

struct Weigh<'a> {
    logits: &'a [f32],
    temperature: f32,
    weights: &'a mut [f32],
}

impl WithSimd for Weigh<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let Self { logits, temperature, weights } = self;
        let highest = simd.splat_f32s(highest(simd, logits));
        // Of a tiny temperature the inverse may be infinite, and times zero no number.
        let factor = simd.splat_f32s((1.0 / temperature).min(f32::MAX));
        let mut total = simd.splat_f32s(0.0);
        for (to, logits) in weights.chunks_mut(S::F32_LANES).zip(logits.chunks(S::F32_LANES)) {
            let distance = simd.sub_f32s(load(simd, logits), highest);
            let weight = exponential(simd, simd.mul_f32s(distance, factor));
            let weight = match to.len() < S::F32_LANES {
                true => first_of(simd, to.len(), weight, 0.0),
                false => weight,
            };
            store(simd, to, weight);
            total = simd.add_f32s(total, weight);
        }
        simd.reduce_sum_f32s(total)
    }
}

/// The loss of a row. With a scale, its logits turn into their gradients times that.
#[inline(always)]
fn soften_row<S: Simd>(simd: S, row: &mut [f32], target: usize, scale: Option<f32>) -> f32 {
    let highest = highest(simd, row);
    let of_target = row[target] - highest;
    let total = exponentials(simd, row, highest);
    if let Some(scale) = scale {
        let factor = simd.splat_f32s(scale / total);
        let (vectors, tail) = S::as_mut_simd_f32s(row);
        vectors.iter_mut().for_each(|vector| *vector = simd.mul_f32s(*vector, factor));
        if !tail.is_empty() {
            let last = simd.mul_f32s(simd.partial_load_f32s(tail), factor);
            simd.partial_store_f32s(tail, last);
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
    if !tail.is_empty() {
        let last = simd.partial_load_f32s(tail);
        highest = simd.max_f32s(highest, first_of(simd, tail.len(), last, f32::NEG_INFINITY));
    }
    simd.reduce_max_f32s(highest)
}

/// The first numbers of a vector, and behind them others.
#[inline(always)]
fn first_of<S: Simd>(simd: S, count: usize, vector: S::f32s, behind: f32) -> S::f32s {
    let is_first = simd.mask_between_m32s(0, count as u32).mask();
    simd.select_f32s(is_first, vector, simd.splat_f32s(behind))
}

/// Replaces every number by e to the power of its distance from the highest; returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(simd: S, row: &mut [f32], highest: f32) -> f32 {
    let highest = simd.splat_f32s(highest);
    let mut total = simd.splat_f32s(0.0);
    let (vectors, tail) = S::as_mut_simd_f32s(row);
    for vector in vectors {
        *vector = exponential(simd, simd.sub_f32s(*vector, highest));
        total = simd.add_f32s(total, *vector);
    }
    if !tail.is_empty() {
        let last = exponential(simd, simd.sub_f32s(simd.partial_load_f32s(tail), highest));
        let last = first_of(simd, tail.len(), last, 0.0);
        simd.partial_store_f32s(tail, last);
        total = simd.add_f32s(total, last);
    }
    simd.reduce_sum_f32s(total)
}

/// e to the power of what is at most 0, of −87 where it is less.
#[inline(always)]
fn exponential<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let low = simd.splat_f32s(-87.0);
    // By a comparison, which lets what is not a number pass.
    exp(simd, simd.select_f32s(simd.less_than_f32s(x, low), low, x))
}
