//! How a range of positions is laid out in lanes and chunks.

use std::ops::Range;
use std::sync::Arc;

use rand::{Rng, RngExt};
use thiserror::Error;

/// A range that cannot be laid out as asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// No lane, or no step.
    #[error("the batch and the sequence are at least 1, got batch {batch} and sequence {sequence}")]
    Zero {
        /// B.
        batch: usize,
        /// T.
        sequence: usize,
    },
    /// Too few positions.
    #[error(
        "{available} characters are too few for {batch} lanes of {sequence}-character chunks, \
         which need {needed}; use a longer text, a smaller data.batch or a shorter data.sequence"
    )]
    TooShort {
        /// How many positions there are.
        available: usize,
        /// How many are needed, whatever the start offset.
        needed: usize,
        /// B.
        batch: usize,
        /// T.
        sequence: usize,
    },
    /// Nothing to score.
    #[error(
        "{available} characters are too few to score, which takes 2; use a longer text or part"
    )]
    NothingToScore {
        /// How many positions there are.
        available: usize,
    },
}

/// Where each lane of each chunk begins.
///
/// After `offset` positions the range is cut into B contiguous lanes of equal length, and each
/// lane into chunks of T. Chunk `n + 1` of a lane goes on where chunk `n` ended, so a recurrent
/// state can be carried between them. The target of every position is the one behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    start: usize,
    lane_length: usize,
    batch: usize,
    sequence: usize,
    /// Whether what is left behind the last whole chunk is one more, shorter chunk.
    tail: bool,
    /// Where in a lane the chunks begin, and the last one ends, unless all are of T.
    cuts: Option<Arc<[usize]>>,
}

impl Layout {
    /// B lanes in whole chunks of T, for training. What does not fill a chunk at the end of a lane
    /// is left out; another offset brings it back.
    ///
    /// # Errors
    ///
    /// Where the range is too short for one chunk at the largest offset, T − 1, so that whether
    /// a text is long enough does not depend on the offset.
    ///
    /// # Panics
    ///
    /// Where `offset` is not below T.
    pub fn training(
        range: Range<usize>,
        batch: usize,
        sequence: usize,
        offset: usize,
    ) -> Result<Self, LayoutError> {
        if batch == 0 || sequence == 0 {
            return Err(LayoutError::Zero { batch, sequence });
        }
        assert!(offset < sequence, "the offset is below T = {sequence}, got {offset}");
        let available = range.len();
        // The last lane's last target needs one position more.
        let needed = batch.saturating_mul(sequence).saturating_add(sequence);
        if available < needed {
            return Err(LayoutError::TooShort { available, needed, batch, sequence });
        }
        Ok(Self {
            start: range.start + offset,
            lane_length: (available - offset - 1) / batch,
            batch,
            sequence,
            tail: false,
            cuts: None,
        })
    }

    /// As [`training`](Self::training), in chunks whose lengths are drawn evenly from T − ⌊T/2⌋ to
    /// T + ⌊T/2⌋: the gradient is cut at other places every time (random sequence length, as Merity
    /// et al. 2018, <https://arxiv.org/abs/1708.02182>, draw it from a normal distribution). What is
    /// left at the end of a lane is a chunk if the shortest is no longer.
    ///
    /// # Errors
    ///
    /// As [`training`](Self::training).
    ///
    /// # Panics
    ///
    /// Where `offset` is not below T.
    pub fn varied(
        range: Range<usize>,
        batch: usize,
        sequence: usize,
        offset: usize,
        generator: &mut impl Rng,
    ) -> Result<Self, LayoutError> {
        let even = Self::training(range, batch, sequence, offset)?;
        let (least, most) = (sequence - sequence / 2, sequence + sequence / 2);
        let (mut cuts, mut end) = (vec![0], 0);
        while even.lane_length - end >= least {
            end = (end + generator.random_range(least..=most)).min(even.lane_length);
            cuts.push(end);
        }
        Ok(Self { cuts: Some(cuts.into()), ..even })
    }

    /// One lane in chunks of T, the last one as short as it comes: every position but the first
    /// is a target exactly once.
    ///
    /// # Errors
    ///
    /// Where the range has fewer than two positions.
    pub fn evaluation(range: Range<usize>, sequence: usize) -> Result<Self, LayoutError> {
        if sequence == 0 {
            return Err(LayoutError::Zero { batch: 1, sequence });
        }
        let available = range.len();
        if available < 2 {
            return Err(LayoutError::NothingToScore { available });
        }
        Ok(Self {
            start: range.start,
            lane_length: available - 1,
            batch: 1,
            sequence,
            tail: true,
            cuts: None,
        })
    }

    /// B.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// T, and where lengths vary their mean.
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// The number of chunks in each lane.
    pub fn chunks(&self) -> usize {
        match &self.cuts {
            Some(cuts) => cuts.len() - 1,
            None if self.tail => self.lane_length.div_ceil(self.sequence),
            None => self.lane_length / self.sequence,
        }
    }

    /// The positions of a lane's inputs in a chunk; its targets are one further.
    ///
    /// # Panics
    ///
    /// Where there is no such chunk or lane.
    pub fn inputs(&self, chunk: usize, lane: usize) -> Range<usize> {
        assert!(
            chunk < self.chunks() && lane < self.batch,
            "chunk {chunk} of lane {lane}: there are {} chunks and {} lanes",
            self.chunks(),
            self.batch
        );
        let (from, to) = match &self.cuts {
            Some(cuts) => (cuts[chunk], cuts[chunk + 1]),
            None => {
                let from = chunk * self.sequence;
                (from, (from + self.sequence).min(self.lane_length))
            }
        };
        let base = self.start + lane * self.lane_length;
        base + from..base + to
    }
}
