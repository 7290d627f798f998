//! Scoring a part of a corpus: one lane, from a zero state, every character but the first once.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use burn::data::dataloader::{DataLoader, Progress};
use burn::tensor::Device;
use burn_train::InferenceStep;
use poquelin_data::{ChunkLoader, Corpus, LayoutError};

use crate::error::Error;
use crate::learning::loader::StepLoader;
use crate::learning::metrics::Reading;
use crate::learning::model::{LanguageModel, Step};
use crate::scores::{Score, Tally};

/// How many characters are scored at a time; the score does not depend on it.
const CHUNK: usize = 256;

/// A part of a corpus to be scored.
pub struct Evaluation {
    split: &'static str,
    chunks: ChunkLoader,
    steps: StepLoader,
}

impl Evaluation {
    /// The evaluation of `range`, called `split` in messages.
    ///
    /// # Errors
    ///
    /// Where there are fewer than two characters.
    pub fn new(
        split: &'static str,
        corpus: Arc<Corpus>,
        range: Range<usize>,
        device: &Device,
    ) -> Result<Self, Error> {
        let short = |source: LayoutError| Error::Layout { split, source };
        let chunks = ChunkLoader::evaluation(corpus, range, CHUNK, device).map_err(short)?;
        let steps = StepLoader::new(Arc::new(chunks.clone()));
        Ok(Self { split, chunks, steps })
    }

    /// The name of the part.
    pub fn split(&self) -> &'static str {
        self.split
    }

    /// The number of chunks that [`run`](Self::run) reads.
    pub fn len(&self) -> usize {
        self.chunks.chunks(0)
    }

    /// Whether there is nothing to score, which [`new`](Self::new) refuses.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Scores the part with a model on the inner, gradient-free device. `observe` sees every
    /// chunk, and ends it by `false`.
    ///
    /// # Errors
    ///
    /// Where the data cannot be served.
    pub fn run(
        &self,
        model: &LanguageModel,
        mut observe: impl FnMut(&Reading, Progress) -> bool,
    ) -> Result<Score, Error> {
        self.chunks.seek(0, 0);
        let mut tally = Tally::default();
        let mut state = None;
        let mut began = Instant::now();
        let mut steps = self.steps.iter();
        while let Some(step) = steps.next() {
            let step = step.map_err(|error| Error::Training(error.to_string()))?;
            let chars = step.batch.characters() as u64;
            let output = InferenceStep::step(model, Step { state: state.take(), ..step });
            let (loss, next) = output.tensors.expect("a step gives its tensors");
            let nats_per_char = f64::from(loss.into_scalar::<f32>());
            state = Some(next);
            tally.add(nats_per_char, chars);
            let seconds = began.elapsed().as_secs_f64();
            let reading = Reading {
                steps: 1,
                nats_per_char,
                chars,
                seconds,
                gradient_norm: f64::NAN,
                learning_rate: f64::NAN,
            };
            if !observe(&reading, steps.progress()) {
                break;
            }
            began = Instant::now();
        }
        Ok(tally.score())
    }
}
