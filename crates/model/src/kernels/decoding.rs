//! One time step after the other, without gradients and without an allocation per step.
//!
//! Each thread owns some units of every layer and some columns of the head. Their weights stay in
//! its cache from step to step, and it takes all lanes through them; the threads hand each other
//! the hidden states after every layer.

use pulp::{Arch, Simd, WithSimd};

use super::exchange::Exchange;
use super::packing::Packed;
use super::parallel::{Piece, Team, threads};
use super::product::add_product;
use super::rows::Rows;
use super::sequence::gather_units;
use super::step::{GatePanels, Starts, StepForward};
use crate::layer_norm::EPSILON;

/// A layer's weights in row-major order.
pub(crate) struct LayerWeights {
    /// H.
    pub(crate) hidden: usize,
    /// What a lane's gates begin with, `[R, 4H]`: a row for every token, or one for all.
    pub(crate) start: Vec<f32>,
    /// `[D, 4H]`, of a layer that reads the one below.
    pub(crate) input: Option<Vec<f32>>,
    /// `[H, 4H]`.
    pub(crate) recurrent: Vec<f32>,
}

/// The head's weights.
pub(crate) struct HeadWeights {
    /// `[H, V]`.
    pub(crate) weight: Vec<f32>,
    /// `[V]`.
    pub(crate) bias: Vec<f32>,
}

/// What becomes of a layer's hidden states before the one above, or the head, reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    /// They are read as they are.
    Nothing,
    /// Mean 0 and deviation 1.
    Normalised,
    /// What the layer itself read is added, if that was a layer's.
    Added,
}

/// Stacked layers and a head, and the state of their lanes.
#[derive(Debug)]
pub(crate) struct Stack {
    arch: Arch,
    team: Team<Part>,
    /// The latest hidden states of every layer, `[B, H]`.
    states: Vec<Exchange>,
    /// The multiplications of a step.
    work: usize,
    /// `[B, V]`.
    logits: Vec<f32>,
    vocabulary: usize,
    /// Whether the latest step was an odd one.
    odd: bool,
}

impl Stack {
    /// Packs the weights for so many lanes, with a state of zeros.
    pub(crate) fn new(
        layers: &[LayerWeights],
        head: &HeadWeights,
        lanes: usize,
        between: Between,
    ) -> Self {
        /// Multiplications per thread that are worth meeting after each layer.
        const WORTH_MEETING: usize = 1 << 14;
        let count =
            |layer: &LayerWeights| layer.recurrent.len() + layer.input.as_ref().map_or(0, Vec::len);
        let work = lanes * (layers.iter().map(count).sum::<usize>() + head.weight.len());
        let parts = threads().min(work / WORTH_MEETING).max(1);
        let states = layers.iter().map(|layer| Exchange::new(lanes * layer.hidden)).collect();
        let part = |index: usize| Part {
            layers: layers.iter().map(|layer| Layer::new(layer, index, parts, lanes)).collect(),
            head: Head::new(head, index, parts, lanes),
            lanes,
            between,
            given: vec![0.0; lanes * layers[0].hidden],
        };
        let vocabulary = head.bias.len();
        Self {
            arch: Arch::new(),
            team: Team::new((0..parts).map(part).collect()),
            states,
            work,
            logits: vec![0.0; lanes * vocabulary],
            vocabulary,
            odd: false,
        }
    }

    /// Makes a step with these tokens, one for every lane; returns the logits, `[B, V]`.
    pub(crate) fn step(&mut self, tokens: &[u32]) -> &[f32] {
        let Self { arch, team, states, work, logits, vocabulary, odd } = self;
        *odd = !*odd;
        let reversed = *odd;
        // Threads that sleep between two steps are woken: the next ones find them awake.
        team.run(states.len() + 1, (*work).saturating_mul(WAKING), |part, phase| {
            arch.dispatch(Phase { part, phase, tokens, states, reversed });
        });
        for part in team.parts_mut() {
            let Head { columns, logits: own, .. } = &part.head;
            let rows =
                logits.chunks_exact_mut(*vocabulary).zip(own.chunks_exact(columns.length.max(1)));
            rows.for_each(|(to, from)| to[columns.start..][..columns.length].copy_from_slice(from));
        }
        logits
    }

    /// Sets the state back to zeros.
    pub(crate) fn reset(&mut self) {
        for part in self.team.parts_mut() {
            for layer in &mut part.layers {
                layer.h.fill(0.0);
                layer.c.fill(0.0);
            }
        }
    }
}

/// How many steps are expected to follow one another.
const WAKING: usize = 64;

/// What one thread owns.
#[derive(Debug)]
struct Part {
    layers: Vec<Layer>,
    head: Head,
    lanes: usize,
    between: Between,
    /// What the latest layer gives, `[B, H]`, where that is not its hidden states.
    given: Vec<f32>,
}

/// The piece of 0..`count` of a part, in whole multiples of `unit`; the last parts may have none.
fn own_piece(count: usize, unit: usize, index: usize, parts: usize) -> Piece {
    let length = match parts {
        1 => count,
        _ => count.div_ceil(parts).next_multiple_of(unit),
    };
    let start = (index * length).min(count);
    Piece { start, length: length.min(count - start) }
}

/// Some units of a layer.
#[derive(Debug)]
struct Layer {
    units: Piece,
    start: Vec<f32>,
    input: Option<Packed>,
    recurrent: GatePanels,
    /// The hidden states of all units, `[B, H]`.
    h: Vec<f32>,
    /// The products with what the layer below says, `[B, 4 · units]`; of none, nothing.
    products: Vec<f32>,
    /// Where the gates of each lane begin.
    places: Vec<usize>,
    /// `[B, 4 · units]`.
    gates: Vec<f32>,
    /// `[B, units]`, as those below.
    h_next: Vec<f32>,
    c: Vec<f32>,
}

impl Layer {
    fn new(weights: &LayerWeights, index: usize, parts: usize, lanes: usize) -> Self {
        let hidden = weights.hidden;
        let units = own_piece(hidden, 16, index, parts);
        let pack =
            |matrix: &Vec<f32>| Packed::new(&gather_units(matrix, hidden, units), 4 * units.length);
        Self {
            units,
            start: gather_units(&weights.start, hidden, units),
            input: weights.input.as_ref().filter(|_| units.length > 0).map(pack),
            recurrent: GatePanels::new(&weights.recurrent, hidden, units),
            h: vec![0.0; lanes * hidden],
            products: vec![0.0; weights.input.as_ref().map_or(0, |_| lanes * 4 * units.length)],
            places: Vec::with_capacity(lanes),
            gates: vec![0.0; lanes * 4 * units.length],
            h_next: vec![0.0; lanes * units.length],
            c: vec![0.0; lanes * units.length],
        }
    }
}

/// Some columns of the head.
#[derive(Debug)]
struct Head {
    columns: Piece,
    weight: Packed,
    bias: Vec<f32>,
    /// `[B, columns]`.
    logits: Vec<f32>,
}

impl Head {
    fn new(weights: &HeadWeights, index: usize, parts: usize, lanes: usize) -> Self {
        let vocabulary = weights.bias.len();
        let columns = own_piece(vocabulary, 16, index, parts);
        let mut weight = Packed::default();
        weight.pack_part(
            &weights.weight[columns.start.min(vocabulary - 1)..],
            vocabulary,
            columns.length,
        );
        Self {
            columns,
            weight,
            bias: weights.bias[columns.start..][..columns.length].to_vec(),
            logits: vec![0.0; lanes * columns.length],
        }
    }
}

/// Every row with mean 0 and deviation 1.
fn normalise(from: &[f32], to: &mut [f32], width: usize) {
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)) {
        let mean = from.iter().sum::<f32>() / width as f32;
        let variance = from.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
        let scale = 1.0 / (variance + EPSILON as f32).sqrt();
        from.iter().zip(to).for_each(|(x, to)| *to = (x - mean) * scale);
    }
}

/// A layer's step, or the head's.
struct Phase<'a> {
    part: &'a mut Part,
    phase: usize,
    tokens: &'a [u32],
    states: &'a [Exchange],
    reversed: bool,
}

impl WithSimd for Phase<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { part, phase, tokens, states, reversed } = self;
        let Part { layers, head, lanes, between, given } = part;
        let lanes = *lanes;
        let (below, layers) = layers.split_at_mut(phase);
        let below = below.last_mut().map(|layer| {
            states[phase - 1].read(0, &mut layer.h);
            let width = layer.h.len() / lanes;
            match between {
                Between::Nothing => return Rows::new(&layer.h, width),
                Between::Normalised => normalise(&layer.h, given, width),
                Between::Added if phase == 1 => given.copy_from_slice(&layer.h),
                Between::Added => given.iter_mut().zip(&layer.h).for_each(|(sum, h)| *sum += h),
            }
            Rows::new(&*given, width)
        });
        let Some(layer) = layers.first_mut() else {
            let Head { columns, weight, bias, logits } = head;
            if columns.length > 0 {
                logits.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
                let below = below.expect("a head stands on a layer");
                add_product(simd, below, weight, logits);
            }
            return;
        };
        let Layer { units, start, input, recurrent, h, products, places, gates, h_next, c } = layer;
        if units.length == 0 {
            return;
        }
        let width = 4 * units.length;
        places.clear();
        let numbers = match (input, below) {
            (Some(input), Some(below)) => {
                places.extend((0..lanes).map(|lane| lane * width));
                products.chunks_exact_mut(width).for_each(|row| row.copy_from_slice(start));
                add_product(simd, below, input, products);
                products
            }
            _ => {
                places.extend(tokens.iter().map(|&token| token as usize * width));
                start
            }
        };
        let starts = Starts { numbers, places, stride: units.length };
        StepForward { weight: recurrent, h, starts, gates, c, h_next }.run(simd, reversed);
        let hidden = h.len() / lanes;
        for (lane, h_next) in h_next.chunks_exact(units.length).enumerate() {
            states[phase].write(lane * hidden + units.start, h_next);
        }
    }
}
