//! Chunks as the steps that the learner takes.

use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use poquelin_data::TokenBatch;
use poquelin_model::Seed;

use super::model::Step;

/// Serves the chunks of another loader as steps without a state; the strategy puts it in.
pub struct StepLoader {
    chunks: Arc<dyn DataLoader<TokenBatch>>,
}

impl StepLoader {
    /// Serves `chunks`.
    pub fn new(chunks: Arc<dyn DataLoader<TokenBatch>>) -> Self {
        Self { chunks }
    }
}

impl DataLoader<Step> for StepLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Step> + 'a> {
        Box::new(Steps(self.chunks.iter()))
    }

    fn num_items(&self) -> usize {
        self.chunks.num_items()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Step>> {
        Arc::new(Self::new(self.chunks.to_device(device)))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Step>> {
        Arc::new(Self::new(self.chunks.slice(start, end)))
    }
}

/// The steps of one epoch.
struct Steps<'a>(Box<dyn DataLoaderIterator<TokenBatch> + 'a>);

impl Iterator for Steps<'_> {
    type Item = Result<Step, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = |batch| Step { batch, state: None, seed: Seed::new(0) };
        Some(self.0.next()?.map(step))
    }
}

impl DataLoaderIterator<Step> for Steps<'_> {
    fn progress(&self) -> Progress {
        self.0.progress()
    }
}
