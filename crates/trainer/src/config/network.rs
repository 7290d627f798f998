//! The network that a configuration describes.

use poquelin_model::{CharLstmConfig, Implementation};

use super::{Config, ModelConfig};

/// The most parameters that a model may have: 8 GB of weights, and three times that to train.
pub(super) const LARGEST: u128 = 2_000_000_000;

impl Config {
    /// The model for a vocabulary of `vocabulary` symbols.
    pub fn model(&self, vocabulary: usize) -> CharLstmConfig {
        let ModelConfig { embedding, hidden, .. } = self.model;
        let model = &self.model;
        let implementation =
            if self.train.half { Implementation::Half } else { Implementation::Fused };
        CharLstmConfig::new(vocabulary, hidden)
            .with_d_embedding(Some(if embedding == 0 { hidden } else { embedding }))
            .with_layers(model.layers)
            .with_dropout(model.dropout)
            .with_dropout_input(model.dropout_input)
            .with_dropout_output(model.dropout_output)
            .with_dropout_embedding(model.dropout_embedding)
            .with_locked(model.locked)
            .with_dropconnect(model.dropconnect)
            .with_layer_norm(model.layer_norm)
            .with_residual(model.residual)
            .with_tied(model.tied)
            .with_activation(model.activation)
            .with_temporal_activation(model.temporal_activation)
            .with_label_smoothing(model.label_smoothing)
            .with_initialization(model.initialization)
            .with_implementation(implementation)
    }
}

impl ModelConfig {
    /// The parameters of the recurrent layers, which are all but those that depend on the text.
    pub(super) fn recurrent_parameters(&self) -> u128 {
        let [hidden, embedding, layers] =
            [self.hidden, self.embedding, self.layers].map(|count| count as u128);
        let input = if embedding == 0 { hidden } else { embedding };
        let lowest = hidden.saturating_mul(4).saturating_mul(input + hidden + 2);
        let other = hidden.saturating_mul(4).saturating_mul(2 * hidden + 2);
        other.saturating_mul(layers.saturating_sub(1)).saturating_add(lowest)
    }
}
