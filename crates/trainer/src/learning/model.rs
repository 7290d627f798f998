//! The model as burn-train's learner sees it.

use burn::module::Module;
use burn::tensor::{ExecutionError, Tensor};
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use poquelin_data::TokenBatch;
use poquelin_model::{CharLstm, LstmState, Seed, TrainingLoss};

use super::metrics::Reading;

/// A network with its loss.
#[derive(Module, Debug)]
pub struct LanguageModel {
    /// The network.
    pub network: CharLstm,
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
        let TrainingLoss { objective, nats, state } =
            self.network.training_loss(inputs, targets, state, seed);
        let gradients = objective.backward();
        // What is carried into the next chunk has no history: that truncates the gradient.
        let output = StepOutput::new(nats.detach(), state.detach());
        TrainOutput::new(self, gradients, output)
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
