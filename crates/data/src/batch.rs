//! Windows as tensors.

use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::Window;

/// One chunk of all lanes.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// The tokens read, `[B, T]`.
    pub inputs: Tensor<2, Int>,
    /// The tokens to predict, `[B, T]`: at each place the one behind the input's.
    pub targets: Tensor<2, Int>,
    /// The epoch, from 0.
    pub epoch: usize,
    /// The chunk's index in its epoch, from 0. The recurrent state is reset before chunk 0 and
    /// carried into every other.
    pub chunk: usize,
}

impl TokenBatch {
    /// The number of characters predicted, B · T.
    pub fn characters(&self) -> usize {
        self.targets.dims().iter().product()
    }
}

/// Stacks the windows of one chunk.
#[derive(Clone, Debug, Default)]
pub struct TokenBatcher {
    /// The epoch noted in the batches.
    pub epoch: usize,
}

impl Batcher<Window, TokenBatch> for TokenBatcher {
    /// # Panics
    ///
    /// Where the windows are not the lanes 0, 1, … of one chunk.
    fn batch(&self, windows: Vec<Window>, device: &Device) -> TokenBatch {
        let first = windows.first().expect("a chunk has at least one lane");
        let (chunk, steps, batch) = (first.chunk, first.tokens.len() - 1, windows.len());
        let mut inputs = Vec::with_capacity(batch * steps);
        let mut targets = Vec::with_capacity(batch * steps);
        for (lane, window) in windows.iter().enumerate() {
            assert_eq!((window.chunk, window.lane), (chunk, lane), "chunk and lane of a window");
            inputs.extend_from_slice(&window.tokens[..steps]);
            targets.extend_from_slice(&window.tokens[1..]);
        }
        let tensor =
            |tokens: Vec<i32>| Tensor::from_data(TensorData::new(tokens, [batch, steps]), device);
        TokenBatch { inputs: tensor(inputs), targets: tensor(targets), epoch: self.epoch, chunk }
    }
}
