//! The model as burn-train's learner sees it.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{ExecutionError, Tensor};
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use poquelin_data::TokenBatch;
use poquelin_model::{CharLstm, LstmState, Seed};

use super::metrics::Reading;
use super::optimizer_state::OptimizerState;

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
    Filled(Result<OptimizerState, String>),
}

impl OptimizerTap {
    /// Asks for the state behind the next optimizer step.
    pub fn ask(&self) {
        *self.slot() = Slot::Asked;
    }

    /// The state, if it was asked for and a step was made since.
    pub fn take(&self) -> Option<Result<OptimizerState, String>> {
        match std::mem::take(&mut *self.slot()) {
            Slot::Filled(state) => Some(state),
            Slot::Idle | Slot::Asked => None,
        }
    }

    fn fill(&self, optimizer: &ModuleOptimizer) {
        let mut slot = self.slot();
        if matches!(*slot, Slot::Asked) {
            *slot = Slot::Filled(OptimizerState::of(optimizer));
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Slot> {
        // The slot is replaced as a whole: no panic can leave it half written.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
