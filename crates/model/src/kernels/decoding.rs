//! One time step after the other, without gradients and without an allocation per step.
//!
//! Each thread owns some units of every layer, and some columns of the head where there are many.
//! Their weights stay in its cache from step to step, and it takes all lanes through them; the
//! threads hand each other the hidden states after every layer.
//!
//! A step's recurrent products do not depend on its tokens. They are formed as soon as the hidden
//! states before it are known, while the caller's thread is still at the scores of the step before
//! and its caller chooses among them; it owns fewer units for that.

mod part;
mod portions;

use pulp::{Arch, Simd, WithSimd};

use self::part::{Head, Part, normalise};
use self::portions::portions;
use super::exchange::{Outbox, Stamped};
use super::parallel::threads;
use super::product::{Onto, product};
use super::rows::Rows;
use super::standing::{Standing, Work};
use super::step::pairs_pay;

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

impl LayerWeights {
    /// The multiplications of a lane's step.
    fn work(&self) -> usize {
        self.recurrent.len() + self.input.as_ref().map_or(0, Vec::len)
    }
}

/// The head's weights.
pub(crate) struct HeadWeights {
    /// `[H, V]`.
    pub(crate) weight: Vec<f32>,
    /// `[V]`.
    pub(crate) bias: Vec<f32>,
}

/// A network's weights.
pub(crate) struct NetworkWeights {
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) head: HeadWeights,
    pub(crate) between: Between,
}

/// What becomes of a layer's hidden states before the one above, or the head, reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    team: Standing<Writing>,
    /// The latest step.
    step: u32,
    /// `[B, V]`, where other threads have columns of the head too.
    logits: Vec<f32>,
}

impl Stack {
    /// Packs the weights for so many lanes, with a state of zeros.
    pub(crate) fn new(weights: &NetworkWeights, lanes: usize) -> Self {
        Self::by(weights, lanes, pairs_pay(lanes, weights.layers[0].hidden))
    }

    /// The same, with recurrent products by pairs or not.
    fn by(
        NetworkWeights { layers, head, between }: &NetworkWeights,
        lanes: usize,
        by_pairs: bool,
    ) -> Self {
        /// Multiplications per thread that are worth meeting after each layer.
        const WORTH_MEETING: usize = 1 << 14;
        let work =
            lanes * (layers.iter().map(LayerWeights::work).sum::<usize>() + head.weight.len());
        let portions = portions(layers, head, threads().min(work / WORTH_MEETING).max(1), lanes);
        let states = |layer: usize| {
            let units = portions.iter().map(|portion| portion.units[layer].length);
            units.map(|units| Outbox::new(lanes, units)).collect()
        };
        let work = Writing {
            arch: Arch::new(),
            lanes,
            vocabulary: head.bias.len(),
            between: *between,
            tokens: Stamped::new(lanes),
            states: (0..layers.len()).map(states).collect(),
            scores: Stamped::new(lanes * head.bias.len()),
        };
        let part = |index| Part::new(layers, head, &portions, index, lanes, by_pairs);
        let parts = (0..portions.len()).map(part);
        Self {
            team: Standing::new(work, parts),
            step: 0,
            logits: vec![0.0; lanes * head.bias.len()],
        }
    }

    /// Makes a step with these tokens, one for every lane; returns the logits, `[B, V]`.
    pub(crate) fn step(&mut self, tokens: &[u32]) -> &[f32] {
        let Self { team, step, logits } = self;
        *step = step.wrapping_add(1);
        team.work().tokens.write(0, tokens.iter().copied(), *step);
        let mut known = 0;
        team.run(|work, own| {
            if !own.has_scored(*step) {
                return false;
            }
            if own.head.logits.len() < logits.len() {
                known = work.scores.read(0, logits, known, *step);
                return known == logits.len();
            }
            true
        });
        let own = &team.own().head.logits;
        if own.len() < logits.len() { logits } else { own }
    }

    /// Sets the state back to zeros.
    pub(crate) fn reset(&mut self) {
        self.team.for_each(|part| {
            for layer in &mut part.layers {
                layer.products.fill(0.0);
                layer.c.fill(0.0);
            }
        });
    }
}

/// What the threads have in common.
#[derive(Debug)]
struct Writing {
    arch: Arch,
    lanes: usize,
    vocabulary: usize,
    between: Between,
    /// What each lane reads.
    tokens: Stamped,
    /// The hidden states of every layer, by parts, each `[B, units]`.
    states: Vec<Vec<Outbox>>,
    /// `[B, V]`.
    scores: Stamped,
}

impl Writing {
    /// Whether what the next phase of a part needs from the others is there.
    #[inline(always)]
    fn is_ready(&self, Part { layers, step, phase, .. }: &mut Part) -> bool {
        match *phase {
            0 => (0..self.lanes).all(|lane| self.tokens.get(lane, *step).is_some()),
            phase if phase <= layers.len() => {
                layers[phase - 1].collect(&self.states[phase - 1], self.lanes, *step)
            }
            _ => true,
        }
    }
}

impl Work for Writing {
    type Part = Part;

    #[inline(always)]
    fn step(&self, part: &mut Part) -> bool {
        let ready = self.is_ready(part);
        if ready {
            self.arch.dispatch(Phase { work: self, part });
            part.phase += 1;
            if part.phase > part.layers.len() + 1 {
                (part.step, part.phase) = (part.step.wrapping_add(1), 0);
            }
        }
        ready
    }
}

/// A phase of a step.
struct Phase<'a> {
    work: &'a Writing,
    part: &'a mut Part,
}

impl WithSimd for Phase<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Writing { lanes, vocabulary, between, tokens, states, scores, .. } = self.work;
        let &mut Part { ref mut layers, ref mut head, ref mut given, step, phase } = self.part;
        if phase > states.len() {
            let layers = layers.iter_mut().filter(|layer| layer.units.length > 0);
            layers.for_each(|layer| layer.multiply(simd, step));
            return;
        }
        let (below, layers) = layers.split_at_mut(phase);
        let below = below.last_mut().map(|layer| {
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
                let below = below.expect("a head stands on a layer");
                product(simd, below, weight, Onto::Row(bias), logits);
                if columns.length < *vocabulary {
                    for (lane, row) in logits.chunks_exact(columns.length).enumerate() {
                        let row = row.iter().map(|logit| logit.to_bits());
                        scores.write(lane * vocabulary + columns.start, row, step);
                    }
                }
            }
            return;
        };
        if let (Some(input), Some(below)) = (&layer.input, below) {
            product(simd, below, input, Onto::Present, &mut layer.products);
        }
        let rows = (0..*lanes).map(|lane| match phase {
            0 => tokens.get(lane, step).expect("the tokens are there") as usize,
            _ => 0,
        });
        layer.end_step(simd, rows, &states[phase], step);
        layer.go_ahead(simd, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(seed: usize, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|k| size * ((k * k % 1009 * (seed + 3)) as f32 * 0.37).sin()).collect()
    }

    #[test]
    fn by_pairs_comes_what_comes_without() {
        const VOCABULARY: usize = 20;
        for (hidden, layers, lanes) in [(7, 1, 3), (25, 2, 8), (130, 1, 11), (96, 3, 9)] {
            let layer = |index: usize| LayerWeights {
                hidden,
                start: numbers(index, if index == 0 { VOCABULARY } else { 1 } * 4 * hidden, 0.8),
                input: (index > 0).then(|| numbers(index + 5, 4 * hidden * hidden, 0.2)),
                recurrent: numbers(index + 9, 4 * hidden * hidden, 0.2),
            };
            let head = HeadWeights {
                weight: numbers(1, hidden * VOCABULARY, 0.4),
                bias: numbers(2, VOCABULARY, 0.4),
            };
            let layers = (0..layers).map(layer).collect();
            let weights = NetworkWeights { layers, head, between: Between::Added };
            let [mut plain, mut by_pairs] = [false, true].map(|it| Stack::by(&weights, lanes, it));
            let mut differ = false;
            for step in 0..12 {
                if step == 6 {
                    plain.reset();
                    by_pairs.reset();
                }
                let tokens: Vec<u32> =
                    (0..lanes).map(|lane| ((step * 7 + lane * 3) % VOCABULARY) as u32).collect();
                let (expected, got) = (plain.step(&tokens), by_pairs.step(&tokens));
                for (got, expected) in got.iter().zip(expected) {
                    let name = format!("H {hidden}, {lanes} lanes, step {step}");
                    assert!((got - expected).abs() < 2e-5, "{name}: {got}, not {expected}");
                    differ |= got != expected;
                }
            }
            // The other way was taken: sums of pairs are rounded otherwise.
            assert!(differ || hidden < 24, "H {hidden}");
        }
    }
}
