//! What one thread owns: some units of every layer and some columns of the head.

use pulp::Simd;

use super::portions::Portion;
use super::{HeadWeights, LayerWeights};
use crate::kernels::cell::{load, store, unit_forward, unit_output};
use crate::kernels::exchange::Outbox;
use crate::kernels::packing::Packed;
use crate::kernels::parallel::Piece;
use crate::kernels::sequence::gather_units;
use crate::kernels::step::{GatePanels, StepForward, row_factors};
use crate::layer_norm::EPSILON;

/// What one thread owns.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) layers: Vec<Layer>,
    pub(super) head: Head,
    /// What the latest layer gives, `[B, H]`, where that is not its hidden states.
    pub(super) given: Vec<f32>,
    pub(super) step: u32,
    /// What comes next in the step: a layer's end, the head, or the recurrent products of the step
    /// behind.
    pub(super) phase: usize,
}

impl Part {
    /// Packs the portion of this index, for recurrent products by pairs or not.
    pub(super) fn new(
        layers: &[LayerWeights],
        head: &HeadWeights,
        portions: &[Portion],
        index: usize,
        lanes: usize,
        by_pairs: bool,
    ) -> Self {
        let units = |layer: usize| portions.iter().map(move |portion| portion.units[layer]);
        let layer =
            |(layer, weights)| Layer::new(weights, units(layer).collect(), index, lanes, by_pairs);
        Self {
            layers: layers.iter().enumerate().map(layer).collect(),
            head: Head::new(head, portions[index].columns, lanes),
            given: vec![0.0; lanes * layers[0].hidden],
            step: 1,
            phase: 0,
        }
    }

    /// Whether a step's scores of the own columns are there.
    pub(super) fn has_scored(&self, step: u32) -> bool {
        match self.step {
            at if at == step => self.phase > self.layers.len(),
            at => at == step.wrapping_add(1),
        }
    }
}

/// Some units of a layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) units: Piece,
    index: usize,
    /// The other parts, each with its units.
    others: Vec<(usize, Piece)>,
    start: Vec<f32>,
    pub(super) input: Option<Packed>,
    pub(super) recurrent: GatePanels,
    /// The hidden states of all units, `[B, H]`.
    pub(super) h: Vec<f32>,
    /// The factor of each lane's, `[B]`, where products are formed by pairs.
    row_factors: Vec<f32>,
    /// How many of the others' hidden states are the latest step's already.
    known: usize,
    /// What the gates of the next step have so far, without where they start, `[B, 4 · units]`.
    pub(super) products: Vec<f32>,
    /// `[B, units]`.
    pub(super) c: Vec<f32>,
}

impl Layer {
    fn new(
        weights: &LayerWeights,
        all: Vec<Piece>,
        index: usize,
        lanes: usize,
        by_pairs: bool,
    ) -> Self {
        let (hidden, units) = (weights.hidden, all[index]);
        let others = all.into_iter().enumerate().filter(|&(other, _)| other != index);
        let recurrent = GatePanels::new(&weights.recurrent, hidden, units);
        Self {
            units,
            index,
            others: others.collect(),
            start: gather_units(&weights.start, hidden, units),
            input: weights.input.as_ref().map(|matrix| Packed::units(matrix, hidden, units)),
            recurrent: if by_pairs { recurrent.by_pairs() } else { recurrent },
            h: vec![0.0; lanes * hidden],
            row_factors: vec![0.0; if by_pairs { lanes } else { 0 }],
            known: 0,
            products: vec![0.0; lanes * 4 * units.length],
            c: vec![0.0; lanes * units.length],
        }
    }

    /// Gets the hidden states of the others' units behind a step; says whether all are there.
    pub(super) fn collect(&mut self, states: &[Outbox], lanes: usize, step: u32) -> bool {
        let hidden = self.h.len() / lanes;
        while let Some(&(other, Piece { start, length })) = self.others.get(self.known) {
            if !states[other].has(step) {
                return false;
            }
            for (lane, h) in self.h.chunks_exact_mut(hidden).enumerate() {
                states[other].read(lane, &mut h[start..][..length], step);
            }
            self.known += 1;
        }
        true
    }

    /// Forms the next step's products with the own hidden states, of one place, while the others' are on
    /// their way. Not by pairs: those of one place in two pieces would cost more than the waiting.
    #[inline(always)]
    pub(super) fn go_ahead<S: Simd>(&mut self, simd: S, step: u32) {
        if self.recurrent.is_by_pairs() {
            return;
        }
        if let Some(place) = self.recurrent.places(simd, half(step) == 1).next() {
            self.products_of(self.units, false).run_at(simd, place);
        }
    }

    /// Forms all other products of the next step.
    #[inline(always)]
    pub(super) fn multiply<S: Simd>(&mut self, simd: S, step: u32) {
        let all = self.recurrent.depths();
        row_factors(&self.h, all.length, &mut self.row_factors);
        let mut places = self.recurrent.places(simd, half(step) == 1);
        if !self.recurrent.is_by_pairs()
            && let Some(place) = places.next()
        {
            for others in self.units.others(all.length) {
                self.products_of(others, true).run_at(simd, place);
            }
        }
        let mut step = self.products_of(all, false);
        places.for_each(|place| step.run_at(simd, place));
    }

    /// The products with some hidden states, to be formed.
    #[inline(always)]
    fn products_of(&mut self, depths: Piece, onto: bool) -> StepForward<'_> {
        let Self { recurrent: weight, h, row_factors, products: gates, .. } = self;
        StepForward { weight, h, depths, row_factors, onto, gates, end: None }
    }

    /// Ends a step of all lanes, each of which starts at a row, and gives the others the hidden states.
    #[inline(always)]
    pub(super) fn end_step<S: Simd>(
        &mut self,
        simd: S,
        rows: impl Iterator<Item = usize>,
        states: &[Outbox],
        step: u32,
    ) {
        let (hidden, outbox) = (self.recurrent.depths().length, &states[self.index]);
        let is_alone = self.others.is_empty();
        for (lane, row) in rows.enumerate() {
            self.end_lane(simd, lane, row);
            if !is_alone {
                let Piece { start, length } = self.units;
                outbox.put(lane, &self.h[lane * hidden + start..][..length], step);
            }
        }
        outbox.hand_over(step);
        self.known = 0;
    }

    /// Gates, cell states and hidden states of a lane that starts at this row.
    #[inline(always)]
    fn end_lane<S: Simd>(&mut self, simd: S, lane: usize, row: usize) {
        let (hidden, units) = (self.recurrent.depths().length, self.units.length);
        let (products, ends) = gates(simd, &self.products[lane * 4 * units..], units);
        let (starts, start_ends) = gates(simd, &self.start[row * 4 * units..], units);
        let (c, c_end) = S::as_mut_simd_f32s(&mut self.c[lane * units..][..units]);
        let h = &mut self.h[lane * hidden + self.units.start..][..units];
        let (h, h_end) = S::as_mut_simd_f32s(h);
        let sums = |[product, start]: [S::f32s; 2]| simd.add_f32s(product, start);
        // Two passes, so that no vector waits for its own cell states.
        for (index, (c, h)) in c.iter_mut().zip(&mut *h).enumerate() {
            let gate = |gate: usize| sums([products[gate][index], starts[gate][index]]);
            let ([.., o], c_next) = unit_forward(simd, [gate(0), gate(1), gate(2), gate(3)], *c);
            (*c, *h) = (c_next, o);
        }
        for (c, h) in c.iter().zip(h) {
            *h = unit_output(simd, *h, *c);
        }
        if !c_end.is_empty() {
            let gate =
                |gate: usize| sums([ends[gate], start_ends[gate]].map(|end| load(simd, end)));
            let sums = [gate(0), gate(1), gate(2), gate(3)];
            let ([.., o], c_next) = unit_forward(simd, sums, load(simd, c_end));
            store(simd, c_end, c_next);
            store(simd, h_end, unit_output(simd, o, c_next));
        }
    }
}

/// The vectors of each gate in a row of all four, and what there is of one more.
#[inline(always)]
fn gates<S: Simd>(_simd: S, row: &[f32], units: usize) -> ([&[S::f32s]; 4], [&[f32]; 4]) {
    let gates = [0, 1, 2, 3].map(|gate| S::as_simd_f32s(&row[gate * units..][..units]));
    // As many of each, which spares a loop over them its checks.
    let count = units / S::F32_LANES;
    (gates.map(|(vectors, _)| &vectors[..count]), gates.map(|(_, end)| end))
}

/// Some columns of the head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) columns: Piece,
    pub(super) weight: Packed,
    pub(super) bias: Vec<f32>,
    /// `[B, columns]`.
    pub(super) logits: Vec<f32>,
}

impl Head {
    fn new(weights: &HeadWeights, columns: Piece, lanes: usize) -> Self {
        let vocabulary = weights.bias.len();
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
pub(super) fn normalise(from: &[f32], to: &mut [f32], width: usize) {
    for (from, to) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)) {
        let mean = from.iter().sum::<f32>() / width as f32;
        let variance = from.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width as f32;
        let scale = 1.0 / (variance + EPSILON as f32).sqrt();
        from.iter().zip(to).for_each(|(x, to)| *to = (x - mean) * scale);
    }
}

/// Which half of the hidden states a step's are in.
pub(super) fn half(step: u32) -> usize {
    step as usize % 2
}
