//! One step of the AdamW optimizer.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::ops::{LstmOps, assert_alike, has_ops};

/// The numbers of one step of AdamW (Loshchilov and Hutter 2019,
/// <https://arxiv.org/abs/1711.05101>; PyTorch's `torch.optim.AdamW`):
///
/// ```text
/// m = β₁ m + (1 − β₁) g          v = β₂ v + (1 − β₂) g²
/// w = (1 − η λ) w − η / (1 − β₁ᵗ) · m / (√(v / (1 − β₂ᵗ)) + ε)
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// η.
    pub learning_rate: f64,
    /// β₁.
    pub beta_1: f32,
    /// β₂.
    pub beta_2: f32,
    /// ε.
    pub epsilon: f32,
    /// λ.
    pub weight_decay: f32,
    /// t, 1 in the first step.
    pub time: usize,
}

impl AdamWStep {
    /// The parameter and its two moments behind this step; in one pass where the backend has the
    /// operation, in plain tensor operations elsewhere. Moments begin as zeros. Where the gradient
    /// is no number (NaN), all three stay as they are. No gradient flows through it.
    ///
    /// # Shapes
    ///
    /// All of one shape.
    ///
    /// # Panics
    ///
    /// Where they are not, or `time` is 0.
    pub fn apply<const D: usize>(
        self,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        [moment_1, moment_2]: [Tensor<D>; 2],
    ) -> (Tensor<D>, [Tensor<D>; 2]) {
        assert!(self.time > 0, "the first step of AdamW is step 1");
        assert_alike([&parameter, &gradient, &moment_1, &moment_2]);
        if !has_ops(&parameter) {
            return self.reference(parameter, gradient, [moment_1, moment_2]);
        }
        let (parameter, moment_1, moment_2) = <Dispatch as LstmOps>::adamw(
            self,
            parameter.into_dispatch(),
            gradient.into_dispatch(),
            moment_1.into_dispatch(),
            moment_2.into_dispatch(),
        );
        let moments = [moment_1, moment_2].map(Tensor::from_dispatch);
        (Tensor::from_dispatch(parameter), moments)
    }

    /// 1 − β₁ᵗ and 1 − β₂ᵗ.
    pub(crate) fn corrections(&self) -> [f64; 2] {
        let time = i32::try_from(self.time).unwrap_or(i32::MAX);
        [self.beta_1, self.beta_2].map(|beta| 1.0 - f64::from(beta).powi(time))
    }

    fn reference<const D: usize>(
        self,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        [moment_1, moment_2]: [Tensor<D>; 2],
    ) -> (Tensor<D>, [Tensor<D>; 2]) {
        let [parameter, gradient] = [parameter, gradient].map(Tensor::detach);
        let [moment_1, moment_2] = [moment_1, moment_2].map(Tensor::detach);
        let Self { learning_rate, beta_1, beta_2, epsilon, weight_decay, .. } = self;
        let [correction_1, correction_2] = self.corrections();
        let is_none = gradient.clone().is_nan();
        let new_1 = moment_1.clone() * beta_1 + gradient.clone() * (1.0 - beta_1);
        let new_2 = moment_2.clone() * beta_2 + gradient.square() * (1.0 - beta_2);
        let scale = (new_2.clone() / correction_2).sqrt() + epsilon;
        let kept = parameter.clone() * (1.0 - learning_rate * f64::from(weight_decay));
        let moved = kept - new_1.clone() / scale * (learning_rate / correction_1);
        let moments = [
            new_1.mask_where(is_none.clone(), moment_1),
            new_2.mask_where(is_none.clone(), moment_2),
        ];
        (moved.mask_where(is_none, parameter), moments)
    }
}
