//! A layer over a sequence: forward, and back-propagation through time (Werbos 1990,
//! <https://doi.org/10.1109/5.58337>).
//!
//! The work is divided in one of two ways. The lanes of a batch never meet: where there are enough
//! of them, each thread takes some of them along, two groups, and gives one away when another thread
//! has none left ([`advance`](super::advance)).
//! Where there are few, each thread takes some **units** of all lanes, with its share of the
//! weights in its own cache, and the threads meet after every step to hand each other their units'
//! numbers.

mod backward;
mod forward;
mod joining;
mod sums;

pub(crate) use backward::{Arguments, InputGradients, backward};
pub(crate) use forward::{Forward, forward};

use super::parallel::{Piece, threads};
use super::rows::Rows;
use super::tokens::Distinct;

/// The extent of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dimensions {
    /// T.
    pub(crate) steps: usize,
    /// B.
    pub(crate) batch: usize,
    /// H.
    pub(crate) hidden: usize,
}

/// What a layer reads.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// The input's share of the gates, `[T, B, 4H]`.
    Products(&'a [f32]),
    /// Vectors.
    Dense {
        /// `[T, B, D]`.
        x: &'a [f32],
        /// `[D, 4H]`.
        weight: &'a [f32],
        /// `[4H]`.
        bias: &'a [f32],
    },
    /// Tokens.
    Tokens {
        /// Of `[T, B]`.
        distinct: &'a Distinct,
        /// The distinct tokens' vectors, `[U, D]`.
        rows: &'a [f32],
        /// `[D, 4H]`.
        weight: &'a [f32],
        /// `[4H]`.
        bias: &'a [f32],
    },
}

/// What the forward pass keeps for the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct Saved(Vec<SavedPart>);

/// The same of n lanes and some units.
#[derive(Clone, Debug)]
struct SavedPart {
    share: Share,
    /// The gates behind their activations, `[T, n, 4 · units]`.
    gates: Vec<f32>,
    /// The cell states, `[T, n, units]`.
    cells: Vec<f32>,
}

/// The lanes and units of a part.
#[derive(Clone, Copy, Debug)]
struct Share {
    lanes: Piece,
    units: Piece,
}

impl Dimensions {
    /// The multiplications of the recurrence.
    fn work(self) -> usize {
        self.steps * self.step_work()
    }

    fn step_work(self) -> usize {
        self.batch * 4 * self.hidden * self.hidden
    }

    /// Divides the work over the threads: by lanes, or else by units, or not at all.
    fn shares(self) -> Vec<Share> {
        /// Lanes that a weight must serve for reading it to cost less than multiplying with it.
        const LANES: usize = 4;
        /// Numbers of a weight, a quarter of a megabyte, above which it takes more of them: the more
        /// of it lies further away than the second-level cache.
        const NEAR: usize = 1 << 16;
        /// Multiplications per step and thread that are worth meeting after each.
        const WORTH_MEETING: usize = 1 << 14;
        /// Work that is worth a thread.
        const WORTH_SHARING: usize = 1 << 18;
        let Self { batch, hidden, .. } = self;
        let (lanes, units) =
            (Piece { start: 0, length: batch }, Piece { start: 0, length: hidden });
        let threads = threads().min(self.work() / WORTH_SHARING).max(1);
        let worth_lanes = LANES * (4 * hidden * hidden).div_ceil(NEAR);
        if batch >= worth_lanes * threads {
            let pieces = Piece::all(batch, batch.div_ceil(threads));
            let groups =
                pieces.flat_map(|piece| if threads == 1 { vec![piece] } else { two(piece) });
            return groups.map(|lanes| Share { lanes, units }).collect();
        }
        let threads = threads.min(self.step_work() / WORTH_MEETING).max(1);
        let length = match threads {
            1 => hidden,
            _ => hidden.div_ceil(threads).next_multiple_of(16),
        };
        Piece::all(hidden, length).map(|units| Share { lanes, units }).collect()
    }
}

/// A thread's lanes in two groups, one of which it can give away; they need no more tiles of a step
/// than all together would.
fn two(lanes: Piece) -> Vec<Piece> {
    /// Lanes of a tile, where the machine has many registers.
    const TILE: usize = 6;
    let Piece { start, length } = lanes;
    let tiles = length.div_ceil(TILE);
    let first = tiles / 2 * length.div_ceil(tiles);
    let groups =
        [Piece { start, length: first }, Piece { start: start + first, length: length - first }];
    groups.into_iter().filter(|group| group.length > 0).collect()
}

/// The rows of some lanes from a range of steps of `[T, B, W]`, where they lie.
fn rows_of(
    from: &[f32],
    Dimensions { steps, batch, .. }: Dimensions,
    lanes: Piece,
    range: Piece,
) -> Rows<'_> {
    let width = from.len() / (steps * batch);
    let plane = batch * width;
    Rows::of_lanes(&from[range.start * plane..][..range.length * plane], width, batch, lanes)
}

/// Some units' numbers of some lanes, `[n, units]`, from `[B, H]`.
fn own(from: &[f32], hidden: usize, Share { lanes, units }: Share) -> Vec<f32> {
    let mut result = Vec::with_capacity(lanes.length * units.length);
    for row in from[lanes.start * hidden..][..lanes.length * hidden].chunks_exact(hidden) {
        result.extend_from_slice(&row[units.start..][..units.length]);
    }
    result
}

/// The columns of some units from each of the four blocks of a matrix `[R, 4H]`.
pub(super) fn gather_units(matrix: &[f32], hidden: usize, units: Piece) -> Vec<f32> {
    let mut result = Vec::with_capacity(matrix.len() / hidden * units.length);
    for block in matrix.chunks_exact(hidden) {
        result.extend_from_slice(&block[units.start..][..units.length]);
    }
    result
}

/// How many steps make some hundred rows, so that products over them are worth their preparation
/// and their numbers are still in the cache.
fn steps_per_chunk(lanes: usize) -> usize {
    const ROWS: usize = 256;
    (ROWS / lanes).max(1)
}

/// How many rows such products have, or the fewest of several parts'.
fn rows_of_chunk(steps: usize, shares: impl Iterator<Item = Share>) -> usize {
    let rows =
        shares.map(|Share { lanes, .. }| lanes.length * steps.min(steps_per_chunk(lanes.length)));
    rows.min().unwrap_or(0)
}
