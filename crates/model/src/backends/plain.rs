//! The operations in a backend's own primitive operations, with a way back by hand: what a backend
//! without kernels would do, and the tests compare kernels with.
//!
//! The equations are those of [`LstmCell`](crate::LstmCell); back-propagation through time is that
//! of Werbos 1990, <https://doi.org/10.1109/5.58337>.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::{IndexingUpdateOp, Shape, Slice};

use super::{Layer, LayerInput, Recurrence, WayBack};
use crate::AdamWStep;

/// As [`Kernels::layer`](super::Kernels::layer).
pub(super) fn layer<B: Backend>(
    input: LayerInput<B>,
    recurrence: Recurrence<B>,
    with_back: bool,
) -> Layer<B> {
    let products = products::<B>(&input);
    let [steps, batch, width] = dims::<B, 3>(&products);
    let hidden = width / 4;
    let Recurrence { weight, mut h, mut c, .. } = recurrence.clone();
    let mut outputs = Vec::with_capacity(steps);
    let mut kept = Vec::with_capacity(steps);
    for step in 0..steps {
        let product = rows::<B>(products.clone(), step);
        let gates = B::float_add(product, B::float_matmul(h, weight.clone()));
        let gate = |index: usize| columns::<B>(gates.clone(), index * hidden, hidden);
        let (i, f, o) = (B::sigmoid(gate(0)), B::sigmoid(gate(1)), B::sigmoid(gate(3)));
        let g = B::float_tanh(gate(2));
        let earlier = c;
        c = B::float_add(
            B::float_mul(f.clone(), earlier.clone()),
            B::float_mul(i.clone(), g.clone()),
        );
        let squashed = B::float_tanh(c.clone());
        h = B::float_mul(o.clone(), squashed.clone());
        outputs.push(B::float_reshape(h.clone(), Shape::new([1, batch, hidden])));
        if with_back {
            kept.push(KeptStep::<B> { gates: [i, f, g, o], squashed, earlier });
        }
    }
    let outputs = B::float_cat(outputs, 0);
    let back = with_back.then(|| {
        let outputs = outputs.clone();
        WayBack::new(move |grad_outputs, grad_c| {
            go_back::<B>(input, recurrence, outputs, kept, grad_outputs, grad_c)
        })
    });
    Layer { outputs, c, back }
}

/// What the way back needs of a step.
struct KeptStep<B: Backend> {
    /// i, f, g and o behind their activations, `[B, H]` each, as those below.
    gates: [FloatTensor<B>; 4],
    /// tanh of the cell state behind the step.
    squashed: FloatTensor<B>,
    /// The cell state before it.
    earlier: FloatTensor<B>,
}

/// The input's share of the gates, `[T, B, 4H]`.
fn products<B: Backend>(input: &LayerInput<B>) -> FloatTensor<B> {
    products_by(input, linear::<B>)
}

/// The same with another product of input and weight.
pub(super) fn products_by<B: Backend>(
    input: &LayerInput<B>,
    linear: impl FnOnce(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<B> {
    let ([steps, batch], flat, weight, bias) = match input {
        LayerInput::Products(products) => return products.clone(),
        LayerInput::Dense { x, weight, bias } => {
            let [steps, batch, _] = dims::<B, 3>(x);
            ([steps, batch], flat::<B>(x.clone()), weight, bias)
        }
        LayerInput::Tokens { tokens, embedding, weight, bias } => {
            let extent = TensorMetadata::shape(tokens).dims();
            let rows = B::float_select(embedding.clone(), 0, flat_tokens::<B>(tokens));
            (extent, rows, weight, bias)
        }
    };
    let [_, width] = dims::<B, 2>(weight);
    let products = linear(flat, weight.clone(), bias.clone());
    B::float_reshape(products, Shape::new([steps, batch, width]))
}

/// The gradients in the order of [`WayBack`].
fn go_back<B: Backend>(
    input: LayerInput<B>,
    Recurrence { weight, h, .. }: Recurrence<B>,
    outputs: FloatTensor<B>,
    kept: Vec<KeptStep<B>>,
    grad_outputs: FloatTensor<B>,
    grad_c: Option<FloatTensor<B>>,
) -> Vec<FloatTensor<B>> {
    let [steps, batch, hidden] = dims::<B, 3>(&outputs);
    let width = 4 * hidden;
    let transposed = B::float_transpose(weight);
    let (mut grad_h, mut grad_c) = (None, grad_c);
    let mut grads = Vec::with_capacity(steps);
    for (step, KeptStep { gates: [i, f, g, o], squashed, earlier }) in
        kept.into_iter().enumerate().rev()
    {
        let of_output = rows::<B>(grad_outputs.clone(), step);
        let of_h = match grad_h {
            Some(later) => B::float_add(of_output, later),
            None => of_output,
        };
        let through_h = B::float_mul(
            B::float_mul(of_h.clone(), o.clone()),
            slope_of_tanh::<B>(squashed.clone()),
        );
        let of_c = match grad_c {
            Some(later) => B::float_add(later, through_h),
            None => through_h,
        };
        let grad = B::float_cat(
            vec![
                B::float_mul(B::float_mul(of_c.clone(), g.clone()), slope::<B>(i.clone())),
                B::float_mul(B::float_mul(of_c.clone(), earlier), slope::<B>(f.clone())),
                B::float_mul(B::float_mul(of_c.clone(), i), slope_of_tanh::<B>(g)),
                B::float_mul(B::float_mul(of_h, squashed), slope::<B>(o)),
            ],
            1,
        );
        grad_h = Some(B::float_matmul(grad.clone(), transposed.clone()));
        grad_c = Some(B::float_mul(of_c, f));
        grads.push(B::float_reshape(grad, Shape::new([1, batch, width])));
    }
    grads.reverse();
    let states = [grad_h, grad_c].map(|grad| grad.expect("a sequence has at least one step"));
    gradients::<B>(input, h, outputs, B::float_cat(grads, 0), states)
}

/// The gradients in the order of [`WayBack`], from those of the gates' sums, `[T, B, 4H]`, and of
/// the initial state.
fn gradients<B: Backend>(
    input: LayerInput<B>,
    h: FloatTensor<B>,
    outputs: FloatTensor<B>,
    grad_products: FloatTensor<B>,
    grad_states: [FloatTensor<B>; 2],
) -> Vec<FloatTensor<B>> {
    let of_weight = recurrent_gradient::<B>(read_by_steps::<B>(h, outputs), grad_products.clone());
    let mut results = input_gradients::<B>(input, grad_products);
    results.push(of_weight);
    results.extend(grad_states);
    results
}

/// What each step read, `[T, B, H]`: the initial state, then all outputs but the last.
pub(super) fn read_by_steps<B: Backend>(
    h: FloatTensor<B>,
    outputs: FloatTensor<B>,
) -> FloatTensor<B> {
    let [steps, batch, hidden] = dims::<B, 3>(&outputs);
    let first = B::float_reshape(h, Shape::new([1, batch, hidden]));
    match steps {
        1 => first,
        _ => {
            let others = B::float_slice(outputs, &[Slice::from(0..steps - 1)]);
            B::float_cat(vec![first, others], 0)
        }
    }
}

/// The gradient of the recurrent weight, from what each step read.
fn recurrent_gradient<B: Backend>(
    read: FloatTensor<B>,
    grad_products: FloatTensor<B>,
) -> FloatTensor<B> {
    B::float_matmul(B::float_transpose(flat::<B>(read)), flat::<B>(grad_products))
}

/// The gradients of an input's float tensors, in their order.
fn input_gradients<B: Backend>(
    input: LayerInput<B>,
    grad_products: FloatTensor<B>,
) -> Vec<FloatTensor<B>> {
    input_gradients_by(input, grad_products, linear_back::<B>)
}

/// The same with another way back through the product of input and weight.
pub(super) fn input_gradients_by<B: Backend>(
    input: LayerInput<B>,
    grad_products: FloatTensor<B>,
    linear_back: impl FnOnce(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) -> [FloatTensor<B>; 3],
) -> Vec<FloatTensor<B>> {
    let flat_grads = flat::<B>(grad_products.clone());
    match input {
        LayerInput::Products(_) => vec![grad_products],
        LayerInput::Dense { x, weight, .. } => {
            let shape = TensorMetadata::shape(&x);
            let [of_x, of_weight, of_bias] = linear_back(flat::<B>(x), weight, flat_grads);
            vec![B::float_reshape(of_x, shape), of_weight, of_bias]
        }
        LayerInput::Tokens { tokens, embedding, weight, .. } => {
            let tokens = flat_tokens::<B>(&tokens);
            let rows = B::float_select(embedding.clone(), 0, tokens.clone());
            let [of_rows, of_weight, of_bias] = linear_back(rows, weight, flat_grads);
            let zeros = zeros_like::<B>(&embedding);
            let of_embedding =
                B::float_select_assign(zeros, 0, tokens, of_rows, IndexingUpdateOp::Add);
            vec![of_embedding, of_weight, of_bias]
        }
    }
}

/// input × weight + bias.
pub(super) fn linear<B: Backend>(
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    let [width] = dims::<B, 1>(&bias);
    let product = B::float_matmul(input, weight);
    B::float_add(product, B::float_reshape(bias, Shape::new([1, width])))
}

/// As [`Kernels::linear_back`](super::Kernels::linear_back).
pub(super) fn linear_back<B: Backend>(
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let [_, width] = dims::<B, 2>(&grad);
    [
        B::float_matmul(grad.clone(), B::float_transpose(weight)),
        B::float_matmul(B::float_transpose(input), grad.clone()),
        B::float_reshape(B::float_sum_dim(grad, 0), Shape::new([width])),
    ]
}

/// As [`Kernels::linear_cross_entropy`](super::Kernels::linear_cross_entropy).
pub(super) fn linear_cross_entropy<B: Backend>(
    input: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    targets: IntTensor<B>,
    with_gradients: bool,
) -> (FloatTensor<B>, Option<[FloatTensor<B>; 3]>) {
    let head = [input, weight, bias];
    linear_cross_entropy_by::<B>(head, targets, with_gradients, linear::<B>, linear_back::<B>)
}

/// The same with another product of input and weight, and another way back through it.
pub(super) fn linear_cross_entropy_by<B: Backend>(
    [input, weight, bias]: [FloatTensor<B>; 3],
    targets: IntTensor<B>,
    with_gradients: bool,
    linear: impl FnOnce(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
    linear_back: impl FnOnce(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) -> [FloatTensor<B>; 3],
) -> (FloatTensor<B>, Option<[FloatTensor<B>; 3]>) {
    let [rows, _] = dims::<B, 2>(&input);
    let share = 1.0 / rows as f32;
    let logits = linear(input.clone(), weight.clone(), bias);
    let log_probabilities = B::log_softmax(logits, 1);
    let targets = B::int_reshape(targets, Shape::new([rows, 1]));
    let chosen = B::float_gather(1, log_probabilities.clone(), targets.clone());
    let loss = B::float_mul_scalar(B::float_sum(chosen.clone()), (-share).into());
    let loss = B::float_reshape(loss, Shape::new([1]));
    let gradients = with_gradients.then(|| {
        let probabilities = B::float_exp(log_probabilities);
        let minus_one = B::float_add_scalar(zeros_like::<B>(&chosen), (-1.0).into());
        let differences =
            B::float_scatter(1, probabilities, targets, minus_one, IndexingUpdateOp::Add);
        linear_back(input, weight, B::float_mul_scalar(differences, share.into()))
    });
    (loss, gradients)
}

/// The sum of the squares of all numbers, `[1]`.
pub(super) fn sum_of_squares<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    B::float_reshape(B::float_sum(B::float_mul(tensor.clone(), tensor)), Shape::new([1]))
}

/// As [`Kernels::lerp`](super::Kernels::lerp).
pub(super) fn lerp<B: Backend>(
    from: FloatTensor<B>,
    to: FloatTensor<B>,
    share: f32,
) -> FloatTensor<B> {
    let way = B::float_sub(to, from.clone());
    B::float_add(from, B::float_mul_scalar(way, share.into()))
}

/// As [`Kernels::adapt`](super::Kernels::adapt).
pub(super) fn adapt<B: Backend>(
    weights: FloatTensor<B>,
    [gradient, rates, trained, pull]: [FloatTensor<B>; 4],
) -> FloatTensor<B> {
    let back = B::float_mul(B::float_sub(trained, weights.clone()), pull);
    let moved = B::float_sub(weights, B::float_mul(gradient, rates));
    B::float_add(moved, back)
}

/// A tensor times a number, given as `[1]`.
pub(super) fn scaled<B: Backend>(
    tensor: FloatTensor<B>,
    factor: &FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = TensorMetadata::shape(&tensor);
    let factor = B::float_reshape(factor.clone(), Shape::from(vec![1; shape.num_dims()]));
    B::float_mul(tensor, factor)
}

/// As [`Kernels::adamw`](super::Kernels::adamw).
pub(super) fn adamw<B: Backend>(
    step: AdamWStep,
    parameter: FloatTensor<B>,
    gradient: FloatTensor<B>,
    [moment_1, moment_2]: [FloatTensor<B>; 2],
) -> (FloatTensor<B>, [FloatTensor<B>; 2]) {
    let AdamWStep { learning_rate, beta_1, beta_2, epsilon, weight_decay, .. } = step;
    let [correction_1, correction_2] = step.corrections();
    let times = |tensor: FloatTensor<B>, factor: f64| B::float_mul_scalar(tensor, factor.into());
    let mix = |old: FloatTensor<B>, new: FloatTensor<B>, beta: f32| {
        B::float_add(times(old, beta.into()), times(new, (1.0 - beta).into()))
    };
    let new_1 = mix(moment_1.clone(), gradient.clone(), beta_1);
    let new_2 = mix(moment_2.clone(), B::float_mul(gradient.clone(), gradient.clone()), beta_2);
    let scale = B::float_sqrt(times(new_2.clone(), 1.0 / correction_2));
    let scale = B::float_add_scalar(scale, epsilon.into());
    let kept = times(parameter.clone(), 1.0 - learning_rate * f64::from(weight_decay));
    let direction = B::float_div(new_1.clone(), scale);
    let moved = B::float_sub(kept, times(direction, learning_rate / correction_1));
    let bools = get_device_settings::<B>(&gradient.device()).bool_dtype;
    let is_none = B::float_is_nan(gradient, bools);
    let or_old = |new, old| B::float_mask_where(new, is_none.clone(), old);
    (or_old(moved, parameter), [or_old(new_1, moment_1), or_old(new_2, moment_2)])
}

/// σ' from σ: σ (1 − σ).
fn slope<B: Backend>(value: FloatTensor<B>) -> FloatTensor<B> {
    let rest = B::float_add_scalar(B::float_neg(value.clone()), 1.0.into());
    B::float_mul(value, rest)
}

/// tanh' from tanh: 1 − tanh².
fn slope_of_tanh<B: Backend>(value: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add_scalar(B::float_neg(B::float_mul(value.clone(), value)), 1.0.into())
}

fn dims<B: Backend, const D: usize>(tensor: &FloatTensor<B>) -> [usize; D] {
    TensorMetadata::shape(tensor).dims()
}

fn zeros_like<B: Backend>(tensor: &FloatTensor<B>) -> FloatTensor<B> {
    B::float_zeros(tensor.shape(), &tensor.device(), tensor.dtype().into())
}

/// `[T, B, W]` as `[T · B, W]`.
fn flat<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let [steps, batch, width] = dims::<B, 3>(&tensor);
    B::float_reshape(tensor, Shape::new([steps * batch, width]))
}

/// `[T, B]` as `[T · B]`.
fn flat_tokens<B: Backend>(tokens: &IntTensor<B>) -> IntTensor<B> {
    let count = TensorMetadata::shape(tokens).num_elements();
    B::int_reshape(tokens.clone(), Shape::new([count]))
}

/// A step of `[T, B, W]`, as `[B, W]`.
fn rows<B: Backend>(tensor: FloatTensor<B>, step: usize) -> FloatTensor<B> {
    let [_, batch, width] = dims::<B, 3>(&tensor);
    let step = B::float_slice(tensor, &[Slice::from(step..step + 1)]);
    B::float_reshape(step, Shape::new([batch, width]))
}

/// Some columns of `[B, W]`.
fn columns<B: Backend>(tensor: FloatTensor<B>, first: usize, count: usize) -> FloatTensor<B> {
    let [batch, _] = dims::<B, 2>(&tensor);
    B::float_slice(tensor, &[Slice::from(0..batch), Slice::from(first..first + count)])
}

#[cfg(all(test, feature = "ndarray"))]
#[expect(deprecated, reason = "Burn prefers flex; this project offers both, and tests both")]
mod tests;
