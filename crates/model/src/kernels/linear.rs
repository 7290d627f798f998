//! A linear layer on rows.

use pulp::{Arch, Simd, WithSimd};

use super::matrix::{Matrix, multiply};
use super::packing::Packed;
use super::product::{Onto, product};
use super::rows::Rows;
use super::spare;

/// input × weight + bias: `[N, M]` from `[N, D]`, `[D, M]` and `[M]`.
pub(crate) fn forward(input: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let (d_input, width) = (weight.len() / bias.len(), bias.len());
    let mut output = spare::take(input.len() / d_input * width);
    let (input, weight) = (Matrix::new(input, d_input), Matrix::new(weight, width));
    multiply(&mut output, Some(bias), input, weight);
    output
}

/// The same with a packed weight, on this thread alone.
pub(super) fn forward_packed(input: &[f32], weight: &Packed, bias: &[f32]) -> Vec<f32> {
    let input = Rows::new(input, weight.rows);
    let mut output = spare::take(input.count() * bias.len());
    Arch::new().dispatch(Product { input, weight, bias, output: &mut output });
    output
}

/// What [`forward_packed`] does.
struct Product<'a> {
    input: Rows<'a>,
    weight: &'a Packed,
    bias: &'a [f32],
    output: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        product(simd, self.input, self.weight, Onto::Row(self.bias), self.output);
    }
}

/// The input's gradient, `[N, D]`, from the output's, `[N, M]`.
pub(crate) fn grad_input(weight: &[f32], grad: &[f32], width: usize) -> Vec<f32> {
    let d_input = weight.len() / width;
    let mut result = spare::take(grad.len() / width * d_input);
    let weight = Matrix::new(weight, width).transpose();
    multiply(&mut result, None, Matrix::new(grad, width), weight);
    result
}

/// The weight's gradient, `[D, M]`.
pub(crate) fn grad_weight(input: &[f32], grad: &[f32], width: usize) -> Vec<f32> {
    let d_input = input.len() / (grad.len() / width);
    let mut result = spare::take(d_input * width);
    let input = Matrix::new(input, d_input).transpose();
    multiply(&mut result, None, input, Matrix::new(grad, width));
    result
}

/// The bias's gradient, `[M]`.
pub(crate) fn grad_bias(grad: &[f32], width: usize) -> Vec<f32> {
    let mut result = vec![0.0; width];
    for row in grad.chunks_exact(width) {
        for (sum, grad) in result.iter_mut().zip(row) {
            *sum += grad;
        }
    }
    result
}
