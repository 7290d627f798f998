//! The average of the weights over training steps, which is what is validated and kept.
//!
//! Exponential, as Polyak and Juditsky 1992 (<https://doi.org/10.1137/0330046>) is used today: the past
//! counts less and less. Triggered: Merity et al. 2018 (<https://arxiv.org/abs/1708.02182>) begin with an
//! even average where validation stops getting better (NT-ASGD); its learning rate should stay.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use poquelin_model::{CharLstm, lerp};

use super::{LanguageModel, Session};
use crate::config::{AverageConfig, AverageKind};
use crate::scores::Score;

impl Session {
    /// The model as it would be kept now: the average, if there is one, or else the weights.
    pub(super) fn current_model(&self) -> LanguageModel {
        match &self.average {
            Some(network) => LanguageModel { network: network.clone() },
            None => self.learner.model().valid(),
        }
    }

    /// Adds the weights behind a step to the average.
    pub(super) fn add_to_average(&mut self) {
        let AverageConfig { kind, decay, .. } = self.job.config.average;
        let before = self.ledger.averaged as f64;
        let share = match kind {
            AverageKind::None => return,
            // A young average is one over a tenth of all steps.
            AverageKind::Exponential => (1.0 - decay).max(9.0 / (10.0 + before)),
            AverageKind::Triggered if self.ledger.triggered => 1.0 / (1.0 + before),
            AverageKind::Triggered => return,
        };
        let LanguageModel { network } = self.learner.model().valid();
        self.average = Some(match self.average.take() {
            Some(average) => blend(average, &network, share),
            None => network,
        });
        self.ledger.averaged += 1;
    }

    /// Notes a validation score, and begins to average where it is no better than the best of those
    /// that lie `average.patience` epochs or more before it.
    pub(super) fn watch_validation(&mut self, epoch: usize, valid: Option<Score>) {
        let AverageConfig { kind, patience, .. } = self.job.config.average;
        let counts =
            |score: &Score| kind == AverageKind::Triggered && score.nats_per_char.is_finite();
        let Some(score) = valid.filter(counts) else { return };
        let losses = &mut self.ledger.validations;
        let old = &losses[..losses.len().saturating_sub(patience)];
        if !self.ledger.triggered && old.iter().any(|&loss| loss < score.nats_per_char) {
            self.ledger.triggered = true;
            self.job.console.line(&format!(
                "no better on validation text than {patience} epochs ago: from epoch {} on the \
                 weights are averaged",
                epoch + 1
            ));
        }
        losses.push(score.nats_per_char);
    }
}

/// `average` moved by a share of the way to `network`.
fn blend(average: CharLstm, network: &CharLstm, share: f64) -> CharLstm {
    let mut collected = Collected::default();
    network.visit(&mut collected);
    average.map(&mut Blend { weights: collected.weights, share })
}

/// The weights of a network, flat.
#[derive(Default)]
struct Collected {
    weights: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for Collected {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let weights = param.val();
        let count = weights.shape().num_elements();
        self.weights.insert(param.id, weights.reshape([count]));
    }
}

struct Blend {
    weights: HashMap<ParamId, Tensor<1>>,
    share: f64,
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let weights = self.weights.remove(&param.id);
        let weights = weights.expect("an average has the parameters of its network");
        param.map(|average| {
            let shape = average.dims();
            lerp(average, weights.reshape(shape), self.share as f32)
        })
    }
}
