//! The language model: embedding, LSTM, linear head.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::module::embedding;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

use crate::dropout::{dropout_rows, dropout_sequence};
use crate::{Implementation, Initializer, Lstm, LstmConfig, LstmState, Seed, SequenceInput, ops};

/// How the weights of a [`CharLstm`] are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initialization {
    /// Embedding N(0, 1); LSTM as [`LstmConfig`] has it by default; head Xavier, its bias zero.
    #[default]
    Poquelin,
    /// As `nn.Embedding`, `nn.LSTM` and `nn.Linear` draw them: N(0, 1), then U(−1/√H, 1/√H)
    /// throughout.
    Pytorch,
}

/// Configuration of a [`CharLstm`].
#[derive(Config, Debug, Copy)]
pub struct CharLstmConfig {
    /// V, the number of distinct tokens.
    pub vocabulary: usize,
    /// H, the hidden width.
    pub d_hidden: usize,
    /// E, the width of the embedding; H where `None`.
    pub d_embedding: Option<usize>,
    /// L, the number of layers.
    #[config(default = 1)]
    pub layers: usize,
    /// The probability of dropping an element between two layers, in
    /// [`CharLstm::forward_with_dropout`]; so are all that follow.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// That of dropping an element of the embedding's vectors.
    #[config(default = 0.0)]
    pub dropout_input: f64,
    /// That of dropping an element of the highest layer's outputs.
    #[config(default = 0.0)]
    pub dropout_output: f64,
    /// That of dropping a token wherever it stands: a row of the embedding (Gal and Ghahramani 2016,
    /// <https://arxiv.org/abs/1512.05287>).
    #[config(default = 0.0)]
    pub dropout_embedding: f64,
    /// Whether the same elements of a lane are dropped at every step: variational dropout, of the same
    /// paper.
    #[config(default = false)]
    pub locked: bool,
    /// The probability of dropping an element of the recurrent weights (Merity et al. 2018,
    /// <https://arxiv.org/abs/1708.02182>).
    #[config(default = 0.0)]
    pub dropconnect: f64,
    /// Whether the outputs of every layer are normalised; see [`LayerNorm`](crate::LayerNorm).
    #[config(default = false)]
    pub layer_norm: bool,
    /// Whether every layer but the lowest adds what it reads to its outputs; see
    /// [`LstmConfig`](crate::LstmConfig).
    #[config(default = false)]
    pub residual: bool,
    /// Whether the head uses the embedding's weights (Press and Wolf 2017,
    /// <https://arxiv.org/abs/1608.05859>); where E is not H, behind a projection from H to E.
    #[config(default = false)]
    pub tied: bool,
    /// α: [`CharLstm::training_loss`] adds α times the mean square of the outputs that the head reads:
    /// activation regularization (Merity et al. 2017, <https://arxiv.org/abs/1708.01009>).
    #[config(default = 0.0)]
    pub activation: f64,
    /// β: it adds β times the mean square of the change of the highest layer's outputs from step to
    /// step: temporal activation regularization, of the same paper.
    #[config(default = 0.0)]
    pub temporal_activation: f64,
    /// ε: it takes the targets as 1 − ε certain and every token as ε / V likely beside (Szegedy et
    /// al. 2016, <https://arxiv.org/abs/1512.00567>).
    #[config(default = 0.0)]
    pub label_smoothing: f64,
    /// How the weights are drawn.
    #[config(default = "Initialization::Poquelin")]
    pub initialization: Initialization,
    /// How the recurrence is computed.
    #[config(default = "Implementation::Fused")]
    pub implementation: Implementation,
}

impl CharLstmConfig {
    /// Draws the weights.
    ///
    /// # Panics
    ///
    /// Where the vocabulary or a width is 0, or a probability is not in [0, 1).
    pub fn init(&self, seed: Seed, device: &Device) -> CharLstm {
        let Self { vocabulary, d_hidden, layers, tied, .. } = *self;
        for (name, rate) in [
            ("dropout_input", self.dropout_input),
            ("dropout_output", self.dropout_output),
            ("dropout_embedding", self.dropout_embedding),
            ("label_smoothing", self.label_smoothing),
        ] {
            assert!((0.0..1.0).contains(&rate), "{name}: expected [0, 1), got {rate}");
        }
        let d_embedding = self.d_embedding.unwrap_or(d_hidden);
        assert!(vocabulary > 0, "a vocabulary has at least one token");
        let lstm = LstmConfig::new(d_embedding, d_hidden)
            .with_layers(layers)
            .with_dropout(self.dropout)
            .with_locked(self.locked)
            .with_dropconnect(self.dropconnect)
            .with_layer_norm(self.layer_norm)
            .with_residual(self.residual)
            .with_implementation(self.implementation);
        let (lstm, head, head_bias) = match self.initialization {
            Initialization::Poquelin => (lstm, Initializer::XavierUniform, Initializer::Zeros),
            Initialization::Pytorch => {
                let uniform = Initializer::Uniform { bound: 1.0 / (d_hidden as f64).sqrt() };
                (lstm.pytorch(), uniform, uniform)
            }
        };
        let draw = |initializer: Initializer, shape: [usize; 2], purpose: &str| {
            initializer.draw(shape, 1, seed.derive(purpose, 0))
        };
        // With tied weights the embedding is the head too, and is drawn as a head.
        let table = if tied { head } else { Initializer::Normal { std: 1.0 } };
        let head_bias = head_bias.draw_vector(vocabulary, 1, seed.derive("head bias", 0));
        CharLstm {
            embedding: Param::from_data(
                draw(table, [vocabulary, d_embedding], "embedding"),
                device,
            ),
            lstm: lstm.init(seed.derive("lstm", 0), device),
            projection: (tied && d_embedding != d_hidden).then(|| {
                Param::from_data(draw(head, [d_hidden, d_embedding], "projection"), device)
            }),
            head: (!tied)
                .then(|| Param::from_data(draw(head, [d_hidden, vocabulary], "head"), device)),
            head_bias: Param::from_data(TensorData::new(head_bias, [vocabulary]), device),
            dropout_input: self.dropout_input,
            dropout_output: self.dropout_output,
            dropout_embedding: self.dropout_embedding,
            activation: self.activation,
            temporal_activation: self.temporal_activation,
            label_smoothing: self.label_smoothing,
        }
    }
}

/// A character (or byte) language model: embedding, stacked LSTM, linear head.
///
/// Configured by [`CharLstmConfig`].
#[derive(Module, Debug)]
pub struct CharLstm {
    /// The embedding, `[V, E]`.
    pub embedding: Param<Tensor<2>>,
    /// The recurrent layers.
    pub lstm: Lstm,
    /// What brings the outputs to the width of the embedding, `[H, E]`, where the head uses that and
    /// the two differ.
    pub projection: Option<Param<Tensor<2>>>,
    /// The head's weight, `[H, V]`; where it is absent, the embedding's transpose serves.
    pub head: Option<Param<Tensor<2>>>,
    /// The head's bias, `[V]`.
    pub head_bias: Param<Tensor<1>>,
    /// The probability of dropping an element of the embedding's vectors.
    pub dropout_input: f64,
    /// That of dropping an element of the highest layer's outputs.
    pub dropout_output: f64,
    /// That of dropping a row of the embedding.
    pub dropout_embedding: f64,
    /// α of activation regularization.
    pub activation: f64,
    /// β of temporal activation regularization.
    pub temporal_activation: f64,
    /// ε of label smoothing.
    pub label_smoothing: f64,
}

/// A training step's loss.
#[derive(Clone, Debug)]
pub struct TrainingLoss {
    /// What to minimise, `[1]`: the mean negative log-likelihood of the smoothed targets in nats, and
    /// the penalties.
    pub objective: Tensor<1>,
    /// The mean negative log-likelihood of the targets alone, `[1]`, in nats.
    pub nats: Tensor<1>,
    /// The final state, `[L, B, H]`.
    pub state: LstmState,
}

/// The outputs of the highest layer, time first: `[T, B, H]`.
struct Outputs {
    /// As the layer has them.
    whole: Tensor<3>,
    /// As the head reads them, behind dropout.
    dropped: Tensor<3>,
}

impl CharLstm {
    /// Scores the token that follows each token, without dropout.
    ///
    /// # Shapes
    ///
    /// - tokens: `[B, T]`, each below V
    /// - state: `[L, B, H]`; zeros where `None`
    /// - logits: `[B, T, V]`
    /// - final state: `[L, B, H]`
    ///
    /// # Panics
    ///
    /// Where a shape is not the one expected.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        state: Option<LstmState>,
    ) -> (Tensor<3>, LstmState) {
        let (outputs, state) = self.run(tokens, state, None);
        (self.score(outputs.dropped), state)
    }

    /// As [`forward`](Self::forward), with dropout and DropConnect as configured. The masks follow
    /// from `seed`: give each training step its own.
    pub fn forward_with_dropout(
        &self,
        tokens: Tensor<2, Int>,
        state: Option<LstmState>,
        seed: Seed,
    ) -> (Tensor<3>, LstmState) {
        let (outputs, state) = self.run(tokens, state, Some(seed));
        (self.score(outputs.dropped), state)
    }

    /// The mean negative log-likelihood of the targets, in nats, without any dropout where there is
    /// no seed for it. It is that of [`forward`](Self::forward)'s logits, without ever keeping
    /// them.
    ///
    /// # Shapes
    ///
    /// - tokens, targets: `[B, T]`, each below V
    /// - state: `[L, B, H]`; zeros where `None`
    /// - loss: `[1]`
    /// - final state: `[L, B, H]`
    ///
    /// # Panics
    ///
    /// Where a shape is not the one expected.
    pub fn loss(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: Option<LstmState>,
        dropout_seed: Option<Seed>,
    ) -> (Tensor<1>, LstmState) {
        assert_eq!(tokens.dims(), targets.dims(), "the shapes of tokens and targets");
        let (outputs, state) = self.run(tokens, state, dropout_seed);
        (self.score_targets(flat(outputs.dropped), targets), state)
    }

    /// As [`loss`](Self::loss) with dropout, and what training minimises beside: penalties and label
    /// smoothing as configured.
    pub fn training_loss(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: Option<LstmState>,
        seed: Seed,
    ) -> TrainingLoss {
        assert_eq!(tokens.dims(), targets.dims(), "the shapes of tokens and targets");
        let (Outputs { whole, dropped }, state) = self.run(tokens, state, Some(seed));
        let [steps, ..] = whole.dims();
        let read = flat(dropped);
        let nats = self.score_targets(read.clone(), targets);
        let mut objective = nats.clone();
        if self.label_smoothing > 0.0 {
            let logits = ops::linear(read.clone(), self.head_weight(), self.head_bias.val());
            let uniform = activation::log_softmax(logits, 1).mean().neg();
            objective = objective * (1.0 - self.label_smoothing) + uniform * self.label_smoothing;
        }
        if self.activation > 0.0 {
            objective = objective + mean_of_squares(read) * self.activation;
        }
        if self.temporal_activation > 0.0 && steps > 1 {
            let before = whole.clone().narrow(0, 0, steps - 1);
            let change = whole.narrow(0, 1, steps - 1) - before;
            objective = objective + mean_of_squares(change) * self.temporal_activation;
        }
        TrainingLoss { objective, nats, state }
    }

    /// V.
    pub fn vocabulary(&self) -> usize {
        self.embedding.dims()[0]
    }

    fn run(
        &self,
        tokens: Tensor<2, Int>,
        state: Option<LstmState>,
        dropout_seed: Option<Seed>,
    ) -> (Outputs, LstmState) {
        let (tokens, mut table) = (tokens.swap_dims(0, 1), self.embedding.val());
        let Some(seed) = dropout_seed else {
            let input = SequenceInput::Tokens { tokens, embedding: table };
            let (whole, state) = self.lstm.forward_sequence(input, state, None);
            return (Outputs { dropped: whole.clone(), whole }, state);
        };
        let locked = self.lstm.locked;
        table = dropout_rows(table, self.dropout_embedding, seed.derive("embedding", 0));
        let input = if self.dropout_input > 0.0 {
            let vectors = embedding(table, tokens);
            let seed = seed.derive("input", 0);
            SequenceInput::Dense(dropout_sequence(vectors, self.dropout_input, locked, seed))
        } else {
            SequenceInput::Tokens { tokens, embedding: table }
        };
        let (whole, state) = self.lstm.forward_sequence(input, state, Some(seed));
        let seed = seed.derive("head", 0);
        let dropped = dropout_sequence(whole.clone(), self.dropout_output, locked, seed);
        (Outputs { whole, dropped }, state)
    }

    /// The mean negative log-likelihood of the targets, `[B, T]`, behind the outputs of all steps,
    /// `[T · B, H]`.
    fn score_targets(&self, outputs: Tensor<2>, targets: Tensor<2, Int>) -> Tensor<1> {
        let [count, _] = outputs.dims();
        let targets = targets.swap_dims(0, 1).reshape([count]);
        let (weight, bias) = (self.head_weight(), self.head_bias.val());
        match self.lstm.implementation {
            Implementation::Fused | Implementation::Half => {
                ops::linear_cross_entropy(outputs, weight, bias, targets)
            }
            Implementation::Reference => {
                cross_entropy(outputs.matmul(weight) + bias.unsqueeze(), targets)
            }
        }
    }

    /// The linear head over all steps at once: `[T, B, H]` to `[B, T, V]`.
    fn score(&self, output: Tensor<3>) -> Tensor<3> {
        let [steps, batch, _] = output.dims();
        let logits = flat(output).matmul(self.head_weight()) + self.head_bias.val().unsqueeze();
        logits.reshape([steps, batch, self.vocabulary()]).swap_dims(0, 1)
    }

    /// `[H, V]`.
    pub(crate) fn head_weight(&self) -> Tensor<2> {
        if let Some(head) = &self.head {
            return head.val();
        }
        let transposed = self.embedding.val().transpose();
        match &self.projection {
            Some(projection) => projection.val().matmul(transposed),
            None => transposed,
        }
    }
}

/// All steps of all lanes one below the other: `[T, B, H]` to `[T · B, H]`.
fn flat(outputs: Tensor<3>) -> Tensor<2> {
    let [steps, batch, d_hidden] = outputs.dims();
    outputs.reshape([steps * batch, d_hidden])
}

/// `[1]`.
fn mean_of_squares<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.shape().num_elements();
    ops::sum_of_squares(tensor) / count as f64
}

/// The mean negative log-likelihood of the targets, in nats, in plain tensor operations.
///
/// # Shapes
///
/// - logits: `[N, V]`
/// - targets: `[N]`
/// - result: `[1]`
pub(crate) fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).mean().neg()
}
