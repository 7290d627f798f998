//! One training step.

use std::time::Duration;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{
    Dropout, DropoutConfig, Embedding, EmbeddingConfig, Linear, LinearConfig, Lstm, LstmConfig,
};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_train::TrainStep;
use poquelin_data::TokenBatch;
use poquelin_model::{CharLstmConfig, Seed};

use super::{Implementation, Row, VOCABULARY, median_time, read};
use crate::learning::adamw::AdamW;
use crate::learning::model::{LanguageModel, Step};

const LEARNING_RATE: f64 = 1e-3;

pub(super) fn measure(row: &Row, implementation: Implementation, device: &Device) -> Duration {
    let device = device.clone().autodiff();
    match implementation {
        Implementation::Fused => {
            let optimizer = AdamW {
                beta_1: 0.9,
                beta_2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
                decay_vectors: true,
            };
            ours(row, poquelin_model::Implementation::Fused, optimizer.into(), &device)
        }
        Implementation::Reference => {
            ours(row, poquelin_model::Implementation::Reference, burns_adamw(), &device)
        }
        Implementation::BurnNn => burns(row, &device),
    }
}

/// Reads the loss of the step before, as training does: a device that works by itself need not wait
/// for the host.
fn read_earlier(latest: &mut Option<Tensor<1>>, loss: Tensor<1>) {
    if let Some(earlier) = latest.replace(loss) {
        read(earlier);
    }
}

fn burns_adamw() -> ModuleOptimizer {
    AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init()
}

fn tokens(row: &Row, device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(row.tokens(), [row.batch, row.steps]), device)
}

fn ours(
    row: &Row,
    implementation: poquelin_model::Implementation,
    mut optimizer: ModuleOptimizer,
    device: &Device,
) -> Duration {
    let Row { hidden, layers, dropout, .. } = *row;
    let config = CharLstmConfig::new(VOCABULARY, hidden).with_layers(layers).with_dropout(dropout);
    let mut network = config.init(Seed::new(0), device);
    network.lstm.implementation = implementation;
    let mut model = Some(LanguageModel { network });
    let tokens = tokens(row, device);
    let (mut count, mut latest) = (0, None);
    median_time(device, || {
        let batch =
            TokenBatch { inputs: tokens.clone(), targets: tokens.clone(), epoch: 0, chunk: 0 };
        let seed = Seed::new(0).derive("dropout", count);
        count += 1;
        let current = model.take().expect("every step puts the model back");
        let result = TrainStep::step(&current, Step { batch, state: None, seed });
        let (loss, _) = result.item.tensors.expect("a step gives its tensors");
        read_earlier(&mut latest, loss.inner());
        let rate = ModuleLearningRate::from(LEARNING_RATE);
        model = Some(current.optimize(&mut optimizer, rate, result.grads));
    })
}

/// The same model of Burn's own modules.
#[derive(Module, Debug)]
struct BurnModel {
    embedding: Embedding,
    layers: Vec<Lstm>,
    dropout: Dropout,
    head: Linear,
}

fn burns(row: &Row, device: &Device) -> Duration {
    let Row { hidden, dropout, .. } = *row;
    let mut model = Some(BurnModel {
        embedding: EmbeddingConfig::new(VOCABULARY, hidden).init(device),
        layers: (0..row.layers)
            .map(|_| LstmConfig::new(hidden, hidden, true).init(device))
            .collect(),
        dropout: DropoutConfig::new(dropout).init(),
        head: LinearConfig::new(hidden, VOCABULARY).init(device),
    });
    let loss_of = CrossEntropyLossConfig::new().init(device);
    let mut optimizer = burns_adamw();
    let tokens = tokens(row, device);
    let targets = tokens.clone().reshape([row.characters()]);
    let mut latest = None;
    median_time(device, || {
        let current = model.take().expect("every step puts the model back");
        let mut sequence = current.embedding.forward(tokens.clone());
        for (index, layer) in current.layers.iter().enumerate() {
            if index > 0 {
                sequence = current.dropout.forward(sequence);
            }
            (sequence, _) = layer.forward(sequence, None);
        }
        let logits = current.head.forward(sequence).reshape([row.characters(), VOCABULARY]);
        let loss = loss_of.forward(logits, targets.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &current);
        read_earlier(&mut latest, loss.inner());
        model = Some(optimizer.step(LEARNING_RATE, current, gradients));
    })
}
