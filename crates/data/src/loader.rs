//! The chunks of an epoch in their order, each knowing its place.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Corpus, Layout, LayoutError, TokenBatch, TokenBatcher, Windows};

/// A Burn data loader for truncated back-propagation through time.
///
/// Unlike Burn's own it knows its epoch, can begin at any chunk of it, and never reorders. Every
/// call of [`iter`](DataLoader::iter) serves one epoch and moves on to the next; the loaders that
/// [`to_device`](DataLoader::to_device) and [`slice`](DataLoader::slice) make share that place.
#[derive(Clone, Debug)]
pub struct ChunkLoader {
    corpus: Arc<Corpus>,
    range: Range<usize>,
    shape: Shape,
    /// Which chunks of an epoch are served; all where `None`.
    chunks: Option<Range<usize>>,
    device: Device,
    place: Arc<Mutex<Place>>,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Training { batch: usize, sequence: usize, varied: bool, seed: u64 },
    Evaluation { sequence: usize },
}

/// The epoch to be served next, and the chunk to begin it with.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    epoch: usize,
    chunk: usize,
}

impl ChunkLoader {
    /// Serves `range` for training: B lanes, chunks of T, and in every epoch another start offset
    /// below T, drawn from (seed, epoch); see [`varied`](Self::varied) for chunks of other lengths.
    ///
    /// # Errors
    ///
    /// Where the range is too short (see [`Layout::training`]).
    pub fn training(
        corpus: Arc<Corpus>,
        range: Range<usize>,
        batch: usize,
        sequence: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, LayoutError> {
        Layout::training(range.clone(), batch, sequence, 0)?;
        let shape = Shape::Training { batch, sequence, varied: false, seed };
        Ok(Self::new(corpus, range, shape, device))
    }

    /// The same loader with chunks whose lengths vary around T, as [`Layout::varied`] has them, drawn
    /// from (seed, epoch) too. One for evaluation stays as it is.
    pub fn varied(mut self) -> Self {
        if let Shape::Training { varied, .. } = &mut self.shape {
            *varied = true;
        }
        self
    }

    /// Serves `range` for evaluation: one lane from its first character to its last, `sequence`
    /// at a time, the same in every epoch.
    ///
    /// # Errors
    ///
    /// Where the range has fewer than two characters.
    pub fn evaluation(
        corpus: Arc<Corpus>,
        range: Range<usize>,
        sequence: usize,
        device: &Device,
    ) -> Result<Self, LayoutError> {
        Layout::evaluation(range.clone(), sequence)?;
        Ok(Self::new(corpus, range, Shape::Evaluation { sequence }, device))
    }

    fn new(corpus: Arc<Corpus>, range: Range<usize>, shape: Shape, device: &Device) -> Self {
        let (device, place) = (device.clone(), Arc::default());
        Self { corpus, range, shape, chunks: None, device, place }
    }

    /// Makes `chunk` of `epoch` the next to be served, both counted from 0.
    pub fn seek(&self, epoch: usize, chunk: usize) {
        *self.place() = Place { epoch, chunk };
    }

    /// How an epoch is laid out.
    pub fn layout(&self, epoch: usize) -> Layout {
        match self.shape {
            Shape::Training { batch, sequence, varied, seed } => {
                let (mut generator, range) = (generator(seed, epoch), self.range.clone());
                let offset = generator.random_range(0..sequence);
                match varied {
                    true => Layout::varied(range, batch, sequence, offset, &mut generator),
                    false => Layout::training(range, batch, sequence, offset),
                }
            }
            Shape::Evaluation { sequence } => Layout::evaluation(self.range.clone(), sequence),
        }
        .expect("the range was found long enough when the loader was made")
    }

    /// The number of chunks in an epoch; it varies by one with the start offset.
    pub fn chunks(&self, epoch: usize) -> usize {
        self.served(epoch).len()
    }

    fn served(&self, epoch: usize) -> Range<usize> {
        let chunks = self.layout(epoch).chunks();
        match &self.chunks {
            Some(range) => range.start.min(chunks)..range.end.min(chunks),
            None => 0..chunks,
        }
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Place> {
        // A place is two numbers: no panic can leave it half written.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What draws an epoch's start offset, and the lengths of its chunks.
fn generator(seed: u64, epoch: usize) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(epoch as u64);
    generator
}

impl DataLoader<TokenBatch> for ChunkLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<TokenBatch> + 'a> {
        let Place { epoch, chunk } = *self.place();
        self.seek(epoch + 1, 0);
        let served = self.served(epoch);
        Box::new(Chunks {
            windows: Windows::new(self.corpus.clone(), self.layout(epoch)),
            batcher: TokenBatcher { epoch },
            device: &self.device,
            next: (served.start + chunk).min(served.end),
            served,
        })
    }

    /// The number of chunks in the epoch to be served next.
    fn num_items(&self) -> usize {
        let epoch = self.place().epoch;
        self.chunks(epoch)
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<TokenBatch>> {
        Arc::new(Self { device: device.clone(), ..self.clone() })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<TokenBatch>> {
        let base = self.chunks.as_ref().map_or(0, |range| range.start);
        let limit = self.chunks.as_ref().map_or(usize::MAX, |range| range.end);
        let chunks = Some((base + start).min(limit)..(base + end).min(limit));
        Arc::new(Self { chunks, ..self.clone() })
    }
}

/// The chunks of one epoch that are still to come.
struct Chunks<'a> {
    windows: Windows,
    batcher: TokenBatcher,
    device: &'a Device,
    next: usize,
    served: Range<usize>,
}

impl Iterator for Chunks<'_> {
    type Item = Result<TokenBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = (self.next < self.served.end).then_some(self.next)?;
        self.next += 1;
        Some(Ok(self.batcher.batch(self.windows.chunk(chunk), self.device)))
    }
}

impl DataLoaderIterator<TokenBatch> for Chunks<'_> {
    fn progress(&self) -> Progress {
        let done = self.next - self.served.start;
        Progress::new(done, self.served.len(), Some("chunks".to_owned()))
    }
}
