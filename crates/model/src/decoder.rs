//! Reading and writing one token at a time, on the CPU.

use burn::tensor::Tensor;
use pulp::Arch;

use crate::CharLstm;
use crate::kernels::decoding::{Head, Layer, Weights};
use crate::kernels::linear;

/// A [`CharLstm`] that makes one step after the other, for some lanes at once, on the CPU:
/// without gradients, without dropout, and without an allocation per step.
///
/// The weights are read once, from whatever device they are on. The first layer's input products
/// are formed once too, for every token of the vocabulary.
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
#[derive(Clone, Debug)]
pub struct Decoder {
    arch: Arch,
    layers: Vec<Layer>,
    head: Head,
    /// `[B, V]`.
    logits: Vec<f32>,
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
        let vocabulary = network.vocabulary();
        let layers = network.lstm.layers.iter().enumerate().map(|(index, cell)| {
            let hidden = cell.d_hidden();
            let bias = cell.bias().map_or_else(|| vec![0.0; 4 * hidden], numbers);
            let (input, recurrent) =
                (numbers(cell.weight_input.val()), numbers(cell.weight_recurrent.val()));
            let weights = match index {
                0 => {
                    let table = linear::forward(&numbers(network.embedding.val()), &input, &bias);
                    return Layer::new(
                        &Weights { start: &table, input: None, recurrent: &recurrent },
                        hidden,
                        lanes,
                    );
                }
                _ => Weights { start: &bias, input: Some(&input), recurrent: &recurrent },
            };
            Layer::new(&weights, hidden, lanes)
        });
        Self {
            arch: Arch::new(),
            layers: layers.collect(),
            head: Head::new(
                &numbers(network.head_weight()),
                &numbers(network.head_bias.val()),
                lanes,
            ),
            logits: vec![0.0; lanes * vocabulary],
            lanes,
            vocabulary,
        }
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
        let Self { arch, layers, head, logits, lanes, vocabulary } = self;
        assert_eq!(tokens.len(), *lanes, "a token for every lane");
        for &token in tokens {
            assert!(
                (token as usize) < *vocabulary,
                "token {token} is not below the vocabulary's {vocabulary}"
            );
        }
        let (first, others) = layers.split_first_mut().expect("an LSTM has at least one layer");
        first.step(*arch, Some(tokens), &[]);
        let mut below = first.h();
        for layer in others {
            layer.step(*arch, None, below);
            below = layer.h();
        }
        head.apply(*arch, below, logits);
        logits
    }

    /// Sets the states of all lanes back to zeros.
    pub fn reset(&mut self) {
        self.layers.iter_mut().for_each(Layer::reset);
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

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("the network computes in float32")
}
