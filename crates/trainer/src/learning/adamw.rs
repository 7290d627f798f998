//! AdamW in Burn's optimizer interface, each parameter in one pass.

use burn::optim::{AdamWState, AdaptiveMomentumState, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};
use poquelin_model::AdamWStep;

/// The AdamW optimizer; its equations stand at [`AdamWStep`]. Its records are those of Burn's.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// β₁.
    pub beta_1: f32,
    /// β₂.
    pub beta_2: f32,
    /// ε.
    pub epsilon: f32,
    /// λ.
    pub weight_decay: f32,
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let Self { beta_1, beta_2, epsilon, weight_decay } = *self;
        let (time, moments) = match state {
            Some(AdamWState { momentum }) => {
                (momentum.time, [momentum.moment_1, momentum.moment_2])
            }
            None => (0, [tensor.zeros_like(), tensor.zeros_like()]),
        };
        let time = time + 1;
        let step = AdamWStep { learning_rate, beta_1, beta_2, epsilon, weight_decay, time };
        let (tensor, [moment_1, moment_2]) = step.apply(tensor, grad, moments);
        let momentum = AdaptiveMomentumState::new(time, moment_1, moment_2);
        (tensor, Some(AdamWState::new(momentum)))
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamWState::new(state.momentum.to_device(device))
    }
}
