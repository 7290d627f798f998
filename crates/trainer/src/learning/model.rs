//! The model as burn-train's learner sees it.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, ExecutionError, Tensor};
use burn_pack::{Reader, Writer};
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use poquelin_data::TokenBatch;
use poquelin_model::{CharLstm, LstmState, Seed};

use super::metrics::Reading;

/// A network with its loss.
#[derive(Module, Debug)]
pub struct LanguageModel {
    /// The network.
    pub network: CharLstm,
    /// Where the optimizer's state goes when a checkpoint asks for it.
    #[module(skip)]
    pub tap: OptimizerTap,
}

/// One chunk, and the state in which the chunk before it left the network.
#[derive(Clone, Debug)]
pub struct Step {
    /// The chunk.
    pub batch: TokenBatch,
    /// The recurrent state; zeros where `None`.
    pub state: Option<LstmState>,
    /// The seed of this step's dropout.
    pub seed: Seed,
}

/// What came of a chunk. The strategy takes the tensors out before the rest goes to the metrics.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// Mean negative log-likelihood in nats/char, and the state to go on from.
    pub tensors: Option<(Tensor<1>, LstmState)>,
    /// The same and more as plain numbers.
    pub reading: Reading,
}

impl ItemLazy for StepOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl StepOutput {
    fn new(loss: Tensor<1>, state: LstmState) -> Self {
        Self { tensors: Some((loss, state)), reading: Reading::default() }
    }
}

impl TrainStep for LanguageModel {
    type Input = Step;
    type Output = StepOutput;

    fn step(&self, Step { batch, state, seed }: Step) -> TrainOutput<StepOutput> {
        let TokenBatch { inputs, targets, .. } = batch;
        let (loss, state) = self.network.loss(inputs, targets, state, Some(seed));
        let gradients = loss.backward();
        // What is carried into the next chunk has no history: that truncates the gradient.
        let output = StepOutput::new(loss.detach(), state.detach());
        TrainOutput::new(self, gradients, output)
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        learning_rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        let tap = self.tap.clone();
        let model = optimizer.step(learning_rate, self, gradients);
        tap.fill(optimizer);
        model
    }
}

impl InferenceStep for LanguageModel {
    type Input = Step;
    type Output = StepOutput;

    fn step(&self, Step { batch, state, .. }: Step) -> StepOutput {
        let (loss, state) = self.network.loss(batch.inputs, batch.targets, state, None);
        StepOutput::new(loss, state)
    }
}

/// Gets the optimizer's state out of burn-train's learner, which keeps its optimizer to itself.
#[derive(Clone, Debug, Default)]
pub struct OptimizerTap {
    slot: Arc<Mutex<Slot>>,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Idle,
    Asked,
    Filled(Result<Vec<u8>, String>),
}

impl OptimizerTap {
    /// Asks for the state behind the next optimizer step.
    pub fn ask(&self) {
        *self.slot() = Slot::Asked;
    }

    /// The state as Burn's record in burnpack, if it was asked for and a step was made since.
    pub fn take(&self) -> Option<Result<Vec<u8>, String>> {
        match std::mem::take(&mut *self.slot()) {
            Slot::Filled(record) => Some(record),
            Slot::Idle | Slot::Asked => None,
        }
    }

    fn fill(&self, optimizer: &ModuleOptimizer) {
        let mut slot = self.slot();
        if matches!(*slot, Slot::Asked) {
            let record =
                optimizer.into_bytes().map_err(|error| error.to_string()).and_then(in_order);
            *slot = Slot::Filled(record);
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Slot> {
        // The slot is replaced as a whole: no panic can leave it half written.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record with its tensors in the order of their names; Burn leaves them in that of a hash map,
/// which differs from run to run.
fn in_order(record: Bytes) -> Result<Vec<u8>, String> {
    let reader = Reader::from_bytes(record).map_err(|error| error.to_string())?;
    let (scalars, notes) = (reader.scalars().clone(), reader.metadata().clone());
    let mut tensors = Vec::new();
    for tensor in reader.into_tensors().map_err(|error| error.to_string())? {
        tensors.push(tensor.into_parts().map_err(|error| error.to_string())?);
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors = tensors
        .into_iter()
        .map(|(name, dtype, shape, id, bytes)| {
            burn_pack::Tensor::new(name, dtype, shape, id, bytes)
        })
        .collect();
    let mut writer = Writer::new(tensors);
    for (key, value) in scalars {
        writer = writer.with_scalar(&key, value);
    }
    for (key, value) in notes {
        writer = writer.with_metadata(&key, &value);
    }
    writer.into_bytes().map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
}
