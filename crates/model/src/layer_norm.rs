//! Layer normalisation of a layer's outputs.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

/// Keeps the division from being one by zero.
pub(crate) const EPSILON: f64 = 1e-5;

/// Layer normalisation (Ba, Kiros and Hinton 2016, <https://arxiv.org/abs/1607.06450>; PyTorch's
/// `nn.LayerNorm`) of the last dimension:
///
/// ```text
/// y = γ ⊙ (x − mean x) / √(var x + ε) + β
/// ```
///
/// It stands behind a layer and outside its recurrence, which stays one operation.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// γ, `[H]`.
    pub gain: Param<Tensor<1>>,
    /// β, `[H]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// One for outputs of width H, with γ = 1 and β = 0.
    pub fn new(d_hidden: usize, device: &Device) -> Self {
        Self {
            gain: Param::from_data(TensorData::new(vec![1f32; d_hidden], [d_hidden]), device),
            bias: Param::from_data(TensorData::new(vec![0f32; d_hidden], [d_hidden]), device),
        }
    }

    /// Normalises every row.
    ///
    /// # Shapes
    ///
    /// - input, output: `[T, B, H]`
    pub fn forward(&self, input: Tensor<3>) -> Tensor<3> {
        let centred = input.clone() - input.mean_dim(2);
        let deviation = (centred.clone().square().mean_dim(2) + EPSILON).sqrt();
        centred / deviation * self.gain.val().unsqueeze() + self.bias.val().unsqueeze()
    }
}
