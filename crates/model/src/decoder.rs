//! Reading and writing one token at a time, on the CPU.

use burn::tensor::Tensor;

use crate::kernels::decoding::{Between, HeadWeights, LayerWeights, NetworkWeights, Stack};
use crate::kernels::linear;
use crate::{CharLstm, LayerNorm};

/// A [`CharLstm`] that makes one step after the other, for some lanes at once, on the CPU:
/// without gradients, without dropout, and without an allocation per step.
///
/// The weights are read once, from whatever device they are on. The first layer's input products
/// are formed once too, for every token of the vocabulary. Where the network is large enough, other
/// threads have a share in it, no more in all than rayon's pool has; they sleep when no step comes
/// for a while, and end with the decoder.
///
/// ```
/// use poquelin_model::{CharLstmConfig, Decoder, Seed};
///
/// # #[cfg(feature = "ndarray")] {
/// let device = poquelin_model::devices::ndarray();
/// let network = CharLstmConfig::new(30, 16).init(Seed::new(1), &device);
/// let mut decoder = Decoder::new(&network, 2);
/// let logits = decoder.step(&[3, 29]);
/// assert_eq!(logits.len(), 2 * 30);
/// # }
/// ```
#[derive(Debug)]
pub struct Decoder {
    stack: Stack,
    lanes: usize,
    vocabulary: usize,
}

impl Decoder {
    /// Packs the weights for so many lanes, whose states begin as zeros.
    ///
    /// # Panics
    ///
    /// Where there is no lane, or the network does not compute in float32.
    pub fn new(network: &CharLstm, lanes: usize) -> Self {
        assert!(lanes > 0, "a decoder has at least one lane");
        let weights = read_weights(network);
        Self { stack: Stack::new(&weights, lanes), lanes, vocabulary: network.vocabulary() }
    }

    /// Reads one token in every lane; returns the scores of the tokens that may follow.
    ///
    /// # Shapes
    ///
    /// - tokens: `[B]`, each below V
    /// - logits: `[B, V]`
    ///
    /// # Panics
    ///
    /// Where there are not as many tokens as lanes, or one is not below V.
    pub fn step(&mut self, tokens: &[u32]) -> &[f32] {
        let Self { stack, lanes, vocabulary } = self;
        assert_eq!(tokens.len(), *lanes, "a token for every lane");
        for &token in tokens {
            assert!(
                (token as usize) < *vocabulary,
                "token {token} is not below the vocabulary's {vocabulary}"
            );
        }
        stack.step(tokens)
    }

    /// Sets the states of all lanes back to zeros.
    pub fn reset(&mut self) {
        self.stack.reset();
    }

    /// B.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// V.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// Brings a network's weights to the host, as steps without gradients want them: with what stands in
/// front of a linear map put into it where that can be.
///
/// # Panics
///
/// Where the network does not compute in float32.
pub(crate) fn read_weights(network: &CharLstm) -> NetworkWeights {
    let norms = &network.lstm.norms;
    let layers = network.lstm.layers.iter().enumerate().map(|(index, cell)| {
        let hidden = cell.d_hidden();
        let bias = cell
            .bias()
            .unwrap_or_else(|| Tensor::zeros([4 * hidden], &cell.weight_input.val().device()));
        let below = index.checked_sub(1).and_then(|below| norms.get(below));
        let (input, bias) = behind(below, cell.weight_input.val(), bias);
        let (input, bias) = (numbers(input), numbers(bias));
        let recurrent = numbers(cell.weight_recurrent.val());
        match index {
            0 => {
                let embedding = numbers(network.embedding.val());
                let start = linear::forward(&embedding, &input, &bias);
                LayerWeights { hidden, start, input: None, recurrent }
            }
            _ => LayerWeights { hidden, start: bias, input: Some(input), recurrent },
        }
    });
    let layers: Vec<LayerWeights> = layers.collect();
    let (weight, bias) = behind(norms.last(), network.head_weight(), network.head_bias.val());
    let head = HeadWeights { weight: numbers(weight), bias: numbers(bias) };
    let between = match (norms.is_empty(), network.lstm.residual) {
        (false, _) => Between::Normalised,
        (true, true) => Between::Added,
        (true, false) => Between::Nothing,
    };
    NetworkWeights { layers, head, between }
}

/// A linear map behind what normalises its input, as one behind an input of mean 0 and deviation 1.
fn behind(norm: Option<&LayerNorm>, weight: Tensor<2>, bias: Tensor<1>) -> (Tensor<2>, Tensor<1>) {
    let Some(norm) = norm else { return (weight, bias) };
    let offset = norm.bias.val().unsqueeze::<2>().matmul(weight.clone()).squeeze_dim(0);
    (weight * norm.gain.val().unsqueeze_dim(1), bias + offset)
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("the network computes in float32")
}
