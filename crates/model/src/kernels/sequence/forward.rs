//! Forward.

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};

use super::{
    Dimensions, Input, Saved, SavedPart, Share, gather_units, own, rows_of, rows_of_chunk,
    steps_per_chunk,
};
use crate::kernels::advance::advance;
use crate::kernels::columns::Columns;
use crate::kernels::exchange::Exchange;
use crate::kernels::linear;
use crate::kernels::packing::Packed;
use crate::kernels::parallel::{Ended, Piece, Team, for_each};
use crate::kernels::product::{LeftRows, Onto, RightFactor};
use crate::kernels::spare;
use crate::kernels::step::{End, GatePanels, Starts, StepForward, row_factors, sequence_pairs_pay};

/// What comes out of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    /// The hidden states of every step, `[T, B, H]`.
    pub(crate) outputs: Vec<f32>,
    /// The cell states behind the last step, `[B, H]`.
    pub(crate) c: Vec<f32>,
    /// What the backward pass needs, if it was asked for.
    pub(crate) saved: Option<Saved>,
}

/// Runs a layer. `weight` is `[H, 4H]`; `h` and `c` are `[B, H]`. What the backward pass needs is
/// kept only on demand, `keep`.
pub(crate) fn forward(
    dimensions: Dimensions,
    input: Input<'_>,
    weight: &[f32],
    h: &[f32],
    c: &[f32],
    keep: bool,
) -> Forward {
    let Dimensions { steps, batch, hidden } = dimensions;
    let shares = dimensions.shares();
    let count = steps * batch * hidden;
    let mut outputs = Vec::with_capacity(count);
    let columns = columns_of_parts(&mut outputs.spare_capacity_mut()[..count], dimensions, &shares);
    let mut packs: Vec<Piece> = shares.iter().map(|share| share.units).collect();
    packs.dedup();
    let rows = rows_of_chunk(steps, shares.iter().copied());
    let lanes = shares.iter().map(|share| share.lanes.length).min().unwrap_or(0);
    // What a layer puts out is at most 1, which products by pairs take for granted; what it begins with may be anything.
    let by_pairs =
        sequence_pairs_pay(lanes, steps * batch, hidden) && h.iter().all(|h| h.abs() <= 1.0);
    let packs = for_each(packs, dimensions.work(), |units| {
        let weights = Weights::new(input, weight, dimensions, units, rows);
        if by_pairs { weights.by_pairs() } else { weights }
    });
    let parts =
        shares.iter().zip(columns).zip(packs.iter().cycle()).map(|((&share, outputs), weights)| {
            Part::new(dimensions, input, share, weights, h, c, outputs, keep)
        });
    let arch = Arch::new();
    let parts = if packs.len() == 1 {
        advance(parts.collect(), steps, dimensions.work(), |parts: &mut [Part<'_>], step| {
            arch.dispatch(AllUnits { parts, step });
        })
    } else {
        let mut team = Team::new(parts.collect::<Vec<Part<'_>>>());
        let exchange = Exchange::new(2 * batch * hidden);
        team.run(steps, dimensions.work(), |part, step, ended| {
            arch.dispatch(SomeUnits { part, step, exchange: &exchange, ended });
        });
        team.into_parts()
    };
    let mut last_c = vec![0.0; batch * hidden];
    let mut saved = Vec::with_capacity(parts.len());
    for Part { share, gates, cells, c, .. } in parts {
        let Share { lanes, units } = share;
        let rows = last_c[lanes.start * hidden..].chunks_exact_mut(hidden);
        for (to, from) in rows.zip(c.chunks_exact(units.length)) {
            to[units.start..][..units.length].copy_from_slice(from);
        }
        match keep {
            true => saved.push(SavedPart { share, gates, cells }),
            false => [gates, cells].into_iter().for_each(spare::give),
        }
    }
    // SAFETY: `columns_of_parts` gave every number to a part, each part wrote its own of a step in `end_step`, and
    // every part has made all steps, to their ends behind `Ended` too, before the threads were let go:
    // a panic on the way would not have come to here.
    unsafe { outputs.set_len(count) };
    for weights in packs {
        if let InputShare::Table(table) = weights.input {
            spare::give(table);
        }
    }
    Forward { outputs, c: last_c, saved: keep.then_some(Saved(saved)) }
}

/// Where each part puts its outputs: some columns of `[T, B · H]` where it has some lanes, of
/// `[T · B, H]` where it has some units.
fn columns_of_parts<'a>(
    outputs: &'a mut [MaybeUninit<f32>],
    Dimensions { batch, hidden, .. }: Dimensions,
    shares: &[Share],
) -> Vec<Columns<'a, MaybeUninit<f32>>> {
    let by_lanes = shares[0].units.length == hidden;
    let pieces = shares.iter().map(|&Share { lanes, units }| match by_lanes {
        true => Piece { start: lanes.start * hidden, length: lanes.length * hidden },
        false => units,
    });
    let pieces: Vec<Piece> = pieces.collect();
    let width = if by_lanes { batch * hidden } else { hidden };
    let covered: usize = pieces.iter().map(|piece| piece.length).sum();
    assert_eq!(covered, width, "the parts have all columns");
    Columns::divide(outputs, width, &pieces)
}

/// The weights of some units.
struct Weights {
    recurrent: GatePanels,
    input: InputShare,
}

/// Where the input's share of some units' gates comes from.
enum InputShare {
    /// The input is that.
    Products,
    /// From vectors, by the weight and the bias.
    Vectors(RightFactor, Vec<f32>),
    /// From here: the distinct tokens', `[U, 4 · units]`.
    Table(Vec<f32>),
}

impl Weights {
    /// `rows` is how many vectors of an input are multiplied at a time.
    fn new(
        input: Input<'_>,
        recurrent: &[f32],
        Dimensions { steps, batch, hidden }: Dimensions,
        units: Piece,
        rows: usize,
    ) -> Self {
        let pack = |weight, bias| {
            (Packed::units(weight, hidden, units), gather_units(bias, hidden, units))
        };
        let input = match input {
            Input::Products(_) => InputShare::Products,
            Input::Dense { weight, bias, .. } => {
                let (weight, bias) = pack(weight, bias);
                InputShare::Vectors(RightFactor::new(weight, rows, steps * batch), bias)
            }
            Input::Tokens { rows, weight, bias, .. } => {
                InputShare::Table(if units.length == hidden {
                    // All threads are free for it.
                    linear::forward(rows, weight, bias)
                } else {
                    let (weight, bias) = pack(weight, bias);
                    linear::forward_packed(rows, &weight, &bias)
                })
            }
        };
        Self { recurrent: GatePanels::new(recurrent, hidden, units), input }
    }

    /// The same, for recurrent products by pairs.
    fn by_pairs(self) -> Self {
        Self { recurrent: self.recurrent.by_pairs(), ..self }
    }
}

/// Some lanes and units on their way forward.
struct Part<'a> {
    dimensions: Dimensions,
    input: Input<'a>,
    share: Share,
    weights: &'a Weights,
    /// The hidden states of all units behind the step before, `[n, H]`.
    h: Vec<f32>,
    /// The units' behind the step, `[n, units]`.
    h_next: Vec<f32>,
    /// The cell states, `[n, units]`.
    c: Vec<f32>,
    /// Of all steps where they are kept, or else of the latest one.
    gates: Vec<f32>,
    cells: Vec<f32>,
    keep: bool,
    outputs: Columns<'a, MaybeUninit<f32>>,
    /// The input products of some steps, `[.., n, 4 · units]`, of an input of vectors.
    products: Vec<f32>,
    /// The vectors, as those products have them.
    multiplied: LeftRows,
    /// Where the gates of a step begin.
    places: Vec<usize>,
    /// The factors of the lanes' hidden states, where products are formed by pairs.
    row_factors: Vec<f32>,
}

impl<'a> Part<'a> {
    #[expect(clippy::too_many_arguments, reason = "it is called at one place, which has them all")]
    fn new(
        dimensions: Dimensions,
        input: Input<'a>,
        share: Share,
        weights: &'a Weights,
        h: &[f32],
        c: &[f32],
        outputs: Columns<'a, MaybeUninit<f32>>,
        keep: bool,
    ) -> Self {
        let (hidden, Share { lanes, units }) = (dimensions.hidden, share);
        let plane = lanes.length * units.length;
        let kept = if keep { dimensions.steps * plane } else { 0 };
        Self {
            dimensions,
            input,
            share,
            weights,
            h: h[lanes.start * hidden..][..lanes.length * hidden].to_vec(),
            h_next: vec![0.0; lanes.length * units.length],
            c: own(c, hidden, share),
            gates: spare::take(4 * kept.max(plane)),
            cells: spare::take(kept),
            keep,
            outputs,
            products: Vec::new(),
            multiplied: LeftRows::default(),
            places: Vec::with_capacity(lanes.length),
            row_factors: match weights.recurrent.is_by_pairs() {
                true => vec![0.0; lanes.length],
                false => Vec::new(),
            },
        }
    }

    /// Finds where a step's gates begin.
    #[inline(always)]
    fn begin_gates<S: Simd>(&mut self, simd: S, step: usize) {
        let Dimensions { steps, batch, hidden } = self.dimensions;
        let Share { lanes, units } = self.share;
        let width = 4 * units.length;
        self.places.clear();
        match self.input {
            Input::Products(_) => {
                let rows = step * batch + lanes.start..;
                self.places
                    .extend(rows.take(lanes.length).map(|row| row * 4 * hidden + units.start));
            }
            Input::Tokens { distinct, .. } => {
                let indices = &distinct.indices()[step * batch + lanes.start..][..lanes.length];
                self.places.extend(indices.iter().map(|&index| index as usize * width));
            }
            Input::Dense { x, .. } => {
                let chunk = steps_per_chunk(lanes.length);
                if step.is_multiple_of(chunk) {
                    let range = Piece { start: step, length: chunk.min(steps - step) };
                    let InputShare::Vectors(weight, bias) = &self.weights.input else {
                        unreachable!("the weights were packed for vectors")
                    };
                    self.products.resize(range.length * lanes.length * width, 0.0);
                    let left = rows_of(x, self.dimensions, lanes, range);
                    let multiplied = &mut self.multiplied;
                    weight.product(simd, left, multiplied, Onto::Row(bias), &mut self.products);
                }
                let rows = step % chunk * lanes.length..;
                self.places.extend(rows.take(lanes.length).map(|row| row * width));
            }
        }
    }

    /// Forms the factors of the hidden states, where products are formed by pairs.
    #[inline(always)]
    fn begin_products(&mut self) {
        row_factors(&self.h, self.dimensions.hidden, &mut self.row_factors);
    }

    /// The step, when its gates have begun.
    #[inline(always)]
    fn step(&mut self, step: usize) -> StepForward<'_> {
        let count = 4 * self.c.len();
        let first = if self.keep { step * count } else { 0 };
        let units = self.share.units.length;
        let (numbers, stride) = match (self.input, &self.weights.input) {
            (Input::Products(products), _) => (products, self.dimensions.hidden),
            (_, InputShare::Table(table)) => (table.as_slice(), units),
            _ => (self.products.as_slice(), units),
        };
        StepForward {
            weight: &self.weights.recurrent,
            h: &self.h,
            depths: self.weights.recurrent.depths(),
            row_factors: &self.row_factors,
            onto: false,
            gates: &mut self.gates[first..][..count],
            end: Some(End {
                starts: Starts { numbers, places: &self.places, stride },
                c: &mut self.c,
                h_next: &mut self.h_next,
            }),
        }
    }

    /// The recurrent products of the step with some hidden states, and no more.
    #[inline(always)]
    fn products(&mut self, step: usize, depths: Piece, onto: bool) -> StepForward<'_> {
        StepForward { depths, onto, end: None, ..self.step(step) }
    }

    /// Puts down what came out of the step.
    #[inline(always)]
    fn end_step(&mut self, step: usize) {
        if self.keep {
            self.cells[step * self.c.len()..][..self.c.len()].copy_from_slice(&self.c);
        }
        let rows = self.outputs.rows() / self.dimensions.steps;
        for (row, from) in self.h_next.chunks_exact(self.h_next.len() / rows).enumerate() {
            self.outputs.row(step * rows + row).write_copy_of_slice(from);
        }
    }
}

/// Takes lanes with all units a step on, those of one or several parts.
struct AllUnits<'a, 'b> {
    parts: &'a mut [Part<'b>],
    step: usize,
}

impl WithSimd for AllUnits<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { parts, step } = self;
        for part in parts.iter_mut() {
            part.begin_gates(simd, step);
            part.begin_products();
        }
        // A panel of the weight serves all parts while it is near.
        for place in parts[0].weights.recurrent.places(simd, step % 2 == 1) {
            for part in parts.iter_mut() {
                part.step(step).run_at(simd, place);
            }
        }
        for part in parts {
            part.end_step(step);
            std::mem::swap(&mut part.h, &mut part.h_next);
        }
    }
}

/// Takes some units of all lanes a step on.
struct SomeUnits<'a, 'b> {
    part: &'a mut Part<'b>,
    step: usize,
    /// Where the parts hand each other their hidden states.
    exchange: &'a Exchange,
    ended: Ended<'a>,
}

impl WithSimd for SomeUnits<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { part, step, exchange, ended } = self;
        let Dimensions { steps, batch, hidden } = part.dimensions;
        let units = part.share.units;
        let place_of = |step: usize, lane: usize| (step % 2 * batch + lane) * hidden;
        let mut places = part.weights.recurrent.places(simd, step % 2 == 1);
        part.begin_gates(simd, step);
        if step > 0 {
            for (lane, h) in part.h.chunks_exact_mut(hidden).enumerate() {
                for Piece { start, length } in units.others(hidden) {
                    exchange.read(place_of(step, lane) + start, &mut h[start..][..length]);
                }
            }
        }
        // By pairs all products are formed when all hidden states are there.
        let by_pairs = part.weights.recurrent.is_by_pairs();
        part.begin_products();
        if step > 0 && !by_pairs {
            // What the step before began.
            if let Some(place) = places.next() {
                let mut others = units.others(hidden).peekable();
                while let Some(depths) = others.next() {
                    match others.peek() {
                        Some(_) => part.products(step, depths, true).run_at(simd, place),
                        None => {
                            StepForward { depths, onto: true, ..part.step(step) }
                                .run_at(simd, place);
                        }
                    }
                }
            }
        }
        places.for_each(|place| part.step(step).run_at(simd, place));
        for (lane, row) in part.h_next.chunks_exact(units.length).enumerate() {
            exchange.write(place_of(step + 1, lane) + units.start, row);
        }
        drop(ended);
        part.end_step(step);
        if step + 1 < steps {
            let rows = part.h_next.chunks_exact(units.length);
            for (h, row) in part.h.chunks_exact_mut(hidden).zip(rows) {
                h[units.start..][..units.length].copy_from_slice(row);
            }
            // Products with the own hidden states, of one place, while the others' are on their way.
            if !by_pairs
                && let Some(place) = part.weights.recurrent.places(simd, step % 2 == 0).next()
            {
                part.products(step + 1, units, false).run_at(simd, place);
            }
        }
    }
}
