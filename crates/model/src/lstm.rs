//! The stacked LSTM.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::dropout::{dropout, dropout_sequence};
use crate::{CellState, Initializer, LayerNorm, LstmCell, LstmState, Seed, SequenceInput};

/// How the recurrence of a layer is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Implementation {
    /// As one operation with a backward pass of its own, in float32 on ndarray, flex and CubeCL's
    /// backends; as the reference elsewhere. The CPU backends have kernels for it.
    #[default]
    Fused,
    /// As `Fused`, but a GPU reads the recurrent weights as 16-bit numbers, float16 or else bfloat16,
    /// where it can (see [`devices::has_half`](crate::devices::has_half)): half as many bytes, and a
    /// layer twice as large in one launch. Weights, sums and gradients stay float32.
    Half,
    /// In plain tensor operations: the specification.
    Reference,
}

/// Configuration of an [`Lstm`].
#[derive(Config, Debug, Copy)]
pub struct LstmConfig {
    /// D, the width of the input.
    pub d_input: usize,
    /// H, the width of every layer's hidden state.
    pub d_hidden: usize,
    /// L, the number of stacked layers; each reads the outputs of the one below.
    #[config(default = 1)]
    pub layers: usize,
    /// Whether the gates have biases.
    #[config(default = true)]
    pub bias: bool,
    /// The probability of dropping an element between two layers, in
    /// [`Lstm::forward_with_dropout`].
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Whether the same elements of a lane are dropped at every step of a sequence (Gal and
    /// Ghahramani 2016, <https://arxiv.org/abs/1512.05287>).
    #[config(default = false)]
    pub locked: bool,
    /// The probability of dropping an element of the recurrent weights for a whole sequence, there
    /// too: DropConnect (Merity et al. 2018, <https://arxiv.org/abs/1708.02182>).
    #[config(default = 0.0)]
    pub dropconnect: f64,
    /// Whether the outputs of every layer are normalised; see [`LayerNorm`].
    #[config(default = false)]
    pub layer_norm: bool,
    /// Whether every layer but the lowest adds what it reads to its outputs (He et al. 2016,
    /// <https://arxiv.org/abs/1512.03385>).
    #[config(default = false)]
    pub residual: bool,
    /// How each gate's block of the input weights is drawn.
    #[config(default = "Initializer::XavierUniform")]
    pub input_initializer: Initializer,
    /// How each gate's block of the recurrent weights is drawn.
    #[config(default = "Initializer::Orthogonal")]
    pub recurrent_initializer: Initializer,
    /// How the biases are drawn.
    #[config(default = "Initializer::Zeros")]
    pub bias_initializer: Initializer,
    /// What the two biases of the forget gate add up to at first, whatever `bias_initializer`
    /// draws; `None` leaves what was drawn. A cell that begins by remembering learns long
    /// dependencies sooner (Jozefowicz et al. 2015,
    /// <https://proceedings.mlr.press/v37/jozefowicz15.html>).
    #[config(default = "Some(1.0)")]
    pub forget_bias: Option<f64>,
    /// How the recurrence is computed.
    #[config(default = "Implementation::Fused")]
    pub implementation: Implementation,
}

impl LstmConfig {
    /// The initialisation of PyTorch's `nn.LSTM`: everything from U(−1/√H, 1/√H).
    pub fn pytorch(self) -> Self {
        let uniform = Initializer::Uniform { bound: 1.0 / (self.d_hidden as f64).sqrt() };
        Self {
            input_initializer: uniform,
            recurrent_initializer: uniform,
            bias_initializer: uniform,
            forget_bias: None,
            ..self
        }
    }

    /// Draws the weights of a stack.
    ///
    /// # Panics
    ///
    /// Where a width or the number of layers is 0, `dropout` or `dropconnect` is not in [0, 1), or
    /// outputs are to be both normalised and added to.
    pub fn init(&self, seed: Seed, device: &Device) -> Lstm {
        let Self { layers, dropout, locked, dropconnect, residual, implementation, .. } = *self;
        assert!(layers > 0, "an LSTM has at least one layer");
        assert!(!(self.layer_norm && residual), "residual: not beside layer_norm");
        assert!((0.0..1.0).contains(&dropout), "dropout: expected [0, 1), got {dropout}");
        assert!(
            (0.0..1.0).contains(&dropconnect),
            "dropconnect: expected [0, 1), got {dropconnect}"
        );
        let layer = |index: usize| {
            let d_input = if index == 0 { self.d_input } else { self.d_hidden };
            Self { d_input, ..*self }.init_cell(seed.derive("layer", index as u64), device)
        };
        let norms = if self.layer_norm { layers } else { 0 };
        Lstm {
            layers: (0..layers).map(layer).collect(),
            norms: (0..norms).map(|_| LayerNorm::new(self.d_hidden, device)).collect(),
            dropout,
            locked,
            dropconnect,
            residual,
            implementation,
        }
    }

    /// Draws the weights of one cell, whatever `layers` says.
    ///
    /// # Panics
    ///
    /// Where a width is 0.
    pub fn init_cell(&self, seed: Seed, device: &Device) -> LstmCell {
        let Self { d_input, d_hidden, .. } = *self;
        assert!(
            d_input > 0 && d_hidden > 0,
            "widths of an LSTM are at least 1, got d_input {d_input} and d_hidden {d_hidden}"
        );
        let weight = |initializer: Initializer, rows: usize, purpose: &str| {
            let data = initializer.draw([rows, d_hidden], 4, seed.derive(purpose, 0));
            Param::from_data(data, device)
        };
        let bias = |purpose: &str, forget: Option<f64>| {
            self.bias
                .then(|| Param::from_data(self.draw_bias(seed.derive(purpose, 0), forget), device))
        };
        LstmCell {
            weight_input: weight(self.input_initializer, d_input, "weight_input"),
            weight_recurrent: weight(self.recurrent_initializer, d_hidden, "weight_recurrent"),
            bias_input: bias("bias_input", self.forget_bias),
            bias_recurrent: bias("bias_recurrent", self.forget_bias.map(|_| 0.0)),
        }
    }

    fn draw_bias(&self, seed: Seed, forget: Option<f64>) -> TensorData {
        let h = self.d_hidden;
        let mut values = self.bias_initializer.draw_vector(h, 4, seed);
        if let Some(forget) = forget {
            values[h..2 * h].fill(forget as f32);
        }
        TensorData::new(values, [4 * h])
    }
}

/// Stacked LSTM layers over whole sequences (PyTorch's `nn.LSTM` with `batch_first=True`).
///
/// The equations stand at [`LstmCell`]. Configured by [`LstmConfig`].
#[derive(Module, Debug)]
pub struct Lstm {
    /// The layers, the lowest first.
    pub layers: Vec<LstmCell>,
    /// What normalises the outputs of each of them; nothing where there are none.
    pub norms: Vec<LayerNorm>,
    /// The probability of dropping an element between two layers.
    pub dropout: f64,
    /// Whether the same elements of a lane are dropped at every step.
    pub locked: bool,
    /// The probability of dropping an element of the recurrent weights.
    pub dropconnect: f64,
    /// Whether every layer but the lowest adds what it reads to its outputs.
    pub residual: bool,
    /// How the recurrence is computed.
    #[module(skip)]
    pub implementation: Implementation,
}

impl Lstm {
    /// Runs the stack over a sequence, **without** dropout, on a device with gradients too: Burn's own modules drop
    /// where there are some, this one where it is asked, by [`forward_with_dropout`](Self::forward_with_dropout).
    ///
    /// # Shapes
    ///
    /// - input: `[B, T, D]`, B and T at least 1
    /// - state: `[L, B, H]`; zeros where `None`
    /// - output: `[B, T, H]`, the hidden states of the highest layer, normalised or added to what it
    ///   reads where that is asked
    /// - final state: `[L, B, H]`
    ///
    /// # Panics
    ///
    /// Where a shape is not the one expected.
    pub fn forward(&self, input: Tensor<3>, state: Option<LstmState>) -> (Tensor<3>, LstmState) {
        let input = SequenceInput::Dense(input.swap_dims(0, 1));
        let (output, state) = self.forward_sequence(input, state, None);
        (output.swap_dims(0, 1), state)
    }

    /// As [`forward`](Self::forward), with dropout of the outputs of every layer but the last,
    /// as PyTorch does in training, and DropConnect. The masks follow from `seed`: give each step its
    /// own.
    pub fn forward_with_dropout(
        &self,
        input: Tensor<3>,
        state: Option<LstmState>,
        seed: Seed,
    ) -> (Tensor<3>, LstmState) {
        let input = SequenceInput::Dense(input.swap_dims(0, 1));
        let (output, state) = self.forward_sequence(input, state, Some(seed));
        (output.swap_dims(0, 1), state)
    }

    /// Runs the stack **time first**, which saves the copies that batch first costs; with dropout
    /// between the layers and DropConnect where there is a seed for it.
    ///
    /// # Shapes
    ///
    /// - input: T and B at least 1
    /// - state: `[L, B, H]`; zeros where `None`
    /// - output: `[T, B, H]`, the hidden states of the highest layer
    /// - final state: `[L, B, H]`
    ///
    /// # Panics
    ///
    /// Where a shape is not the one expected.
    pub fn forward_sequence(
        &self,
        input: SequenceInput,
        state: Option<LstmState>,
        dropout_seed: Option<Seed>,
    ) -> (Tensor<3>, LstmState) {
        let ([_, batch], device) = (input.dims(), input.device());
        let state = state.unwrap_or_else(|| self.zero_state(batch, &device));
        let layers = self.layers.len();
        let expected = [layers, batch, self.d_hidden()];
        assert_eq!(state.dims(), expected, "the shape [L, B, H] of the initial state");

        let mut finals: Vec<CellState> = Vec::with_capacity(layers);
        let mut initials = self.layers.iter().zip(state.into_layers()).enumerate();
        let (_, (cell, initial)) = initials.next().expect("an LSTM has at least one layer");
        let run = |index: usize, cell: &LstmCell, input: SequenceInput, initial: CellState| {
            let mut weight = cell.weight_recurrent.val();
            if let Some(seed) = dropout_seed {
                let seed = seed.derive("dropconnect", index as u64);
                weight = dropout(weight, self.dropconnect, seed);
            }
            let (output, last) = cell.run_sequence(input, weight, initial, self.implementation);
            match self.norms.get(index) {
                Some(norm) => (norm.forward(output), last),
                None => (output, last),
            }
        };
        let (mut sequence, last) = run(0, cell, input, initial);
        finals.push(last);
        for (index, (cell, initial)) in initials {
            if let Some(seed) = dropout_seed {
                let seed = seed.derive("between layers", index as u64 - 1);
                sequence = dropout_sequence(sequence, self.dropout, self.locked, seed);
            }
            let below = self.residual.then(|| sequence.clone());
            let (output, last) = run(index, cell, SequenceInput::Dense(sequence), initial);
            sequence = match below {
                Some(below) => output + below,
                None => output,
            };
            finals.push(last);
        }
        (sequence, LstmState::from_layers(finals))
    }

    /// A state of zeros for `batch` lanes, of the weights' type of number.
    pub fn zero_state(&self, batch: usize, device: &Device) -> LstmState {
        let dtype = self.layers[0].weight_recurrent.val().dtype();
        LstmState::zeros(self.layers.len(), batch, self.d_hidden(), device).cast(dtype)
    }

    /// D.
    pub fn d_input(&self) -> usize {
        self.layers[0].d_input()
    }

    /// H.
    pub fn d_hidden(&self) -> usize {
        self.layers[0].d_hidden()
    }
}
