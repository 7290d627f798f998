//! The windows of a layout as a Burn data set.

use std::sync::Arc;

use burn::data::dataset::{Dataset, DatasetError};

use crate::{Corpus, Layout};

/// One lane of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The chunk it belongs to.
    pub chunk: usize,
    /// Its lane.
    pub lane: usize,
    /// T + 1 tokens: the first T are the inputs, the last T the targets.
    pub tokens: Vec<i32>,
}

/// The windows of a corpus in the order of training: all lanes of a chunk, then the next chunk.
#[derive(Clone, Debug)]
pub struct Windows {
    corpus: Arc<Corpus>,
    layout: Layout,
}

impl Windows {
    /// Lays `corpus` out.
    pub fn new(corpus: Arc<Corpus>, layout: Layout) -> Self {
        Self { corpus, layout }
    }

    /// How the corpus is laid out.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The windows of all lanes of a chunk.
    ///
    /// # Panics
    ///
    /// Where there is no such chunk.
    pub fn chunk(&self, chunk: usize) -> Vec<Window> {
        (0..self.layout.batch()).map(|lane| self.window(chunk, lane)).collect()
    }

    fn window(&self, chunk: usize, lane: usize) -> Window {
        let inputs = self.layout.inputs(chunk, lane);
        let mut tokens = Vec::with_capacity(inputs.len() + 1);
        self.corpus.extend_into(inputs.start..inputs.end + 1, &mut tokens);
        Window { chunk, lane, tokens }
    }
}

impl Dataset<Window> for Windows {
    fn get(&self, index: usize) -> Result<Window, DatasetError> {
        let batch = self.layout.batch();
        Ok(self.window(index / batch, index % batch))
    }

    fn len(&self) -> usize {
        self.layout.chunks() * self.layout.batch()
    }
}
