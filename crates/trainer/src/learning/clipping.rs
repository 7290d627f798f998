//! Gradient clipping by the global norm (PyTorch's `clip_grad_norm_`).
//!
//! Burn clips each tensor by its own norm, which changes the gradient's direction.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use poquelin_model::sum_of_squares;

/// The norm over all gradients of a module, `[1]`, not read back; and the gradients, scaled to
/// `limit` where their norm exceeds it (Pascanu et al. 2013, <https://arxiv.org/abs/1211.5063>).
///
/// # Panics
///
/// Where no parameter has a gradient.
pub fn clip<M: Module>(
    module: &M,
    gradients: GradientsParams,
    limit: Option<f64>,
) -> (GradientsParams, Tensor<1>) {
    let norm = global_norm(module, &gradients);
    match limit {
        Some(limit) => (scaled(module, gradients, clip_factor(norm.clone(), limit)), norm),
        None => (gradients, norm),
    }
}

/// The norm over all gradients of a module, `[1]`.
///
/// # Panics
///
/// Where no parameter has a gradient.
pub fn global_norm<M: Module>(module: &M, gradients: &GradientsParams) -> Tensor<1> {
    let mut squares = Squares { gradients, sums: Vec::new() };
    module.visit(&mut squares);
    Tensor::cat(squares.sums, 0).sum().sqrt()
}

/// What gradients of this norm are multiplied by so that it does not exceed `limit`, `[1]`.
pub fn clip_factor(norm: Tensor<1>, limit: f64) -> Tensor<1> {
    // PyTorch's own guard against dividing by zero.
    (norm + 1e-6).recip().mul_scalar(limit).clamp_max(1.0)
}

/// The gradients of a module times a number, `[1]`.
pub fn scaled<M: Module>(
    module: &M,
    mut gradients: GradientsParams,
    factor: Tensor<1>,
) -> GradientsParams {
    module.visit(&mut Scaling { gradients: &mut gradients, factor });
    gradients
}

/// Whether a factor changes what it multiplies: a look at it, for devices that have it at hand.
pub fn changes(factor: &Tensor<1>) -> bool {
    factor.clone().into_scalar::<f32>() != 1.0
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.sums.push(sum_of_squares(gradient));
        }
    }
}

struct Scaling<'a> {
    gradients: &'a mut GradientsParams,
    factor: Tensor<1>,
}

impl ModuleVisitor for Scaling<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient * self.factor.clone().unsqueeze());
        }
    }
}
