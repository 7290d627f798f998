//! Back.

use pulp::{Arch, Simd, WithSimd};

use super::joining::{added, side_by_side, step_by_step};
use super::sums::{Steps, Sums, add};
use super::{Dimensions, Input, Saved, SavedPart, Share, own, rows_of_chunk, steps_per_chunk};
use crate::kernels::advance::advance;
use crate::kernels::exchange::Exchange;
use crate::kernels::linear;
use crate::kernels::packing::Packed;
use crate::kernels::parallel::{Ended, Piece, Team, for_each};
use crate::kernels::product::{LeftRows, Onto, RightFactor};
use crate::kernels::rows::Rows;
use crate::kernels::spare;
use crate::kernels::step::{Later, StepBackward, places_back};

/// Gradients with respect to what went in.
#[derive(Clone, Debug)]
pub(crate) struct Gradients {
    /// The input's.
    pub(crate) input: InputGradients,
    /// `[H, 4H]`.
    pub(crate) weight: Vec<f32>,
    /// `[B, H]`.
    pub(crate) h: Vec<f32>,
    /// `[B, H]`.
    pub(crate) c: Vec<f32>,
}

/// The gradients of an [`Input`].
#[derive(Clone, Debug)]
pub(crate) enum InputGradients {
    /// `[T, B, 4H]`.
    Products(Vec<f32>),
    /// As the input's; of tokens `x` is that of the distinct ones' vectors, `[U, D]`.
    Dense { x: Vec<f32>, weight: Vec<f32>, bias: Vec<f32> },
}

/// What goes into [`backward`] beside what the forward pass kept: all as it was there.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a> {
    pub(crate) input: Input<'a>,
    pub(crate) weight: &'a [f32],
    pub(crate) h: &'a [f32],
    pub(crate) c: &'a [f32],
    /// What the forward pass returned, `[T, B, H]`.
    pub(crate) outputs: &'a [f32],
    /// The gradient with respect to that.
    pub(crate) grad_outputs: &'a [f32],
    /// The gradient with respect to the last cell state, `[B, H]`, if it has one.
    pub(crate) grad_c: Option<&'a [f32]>,
}

/// Goes back through a layer.
pub(crate) fn backward(
    dimensions: Dimensions,
    arguments: Arguments<'_>,
    Saved(saved): Saved,
) -> Gradients {
    let Dimensions { steps, batch, hidden } = dimensions;
    let mut packs: Vec<Piece> = saved.iter().map(|part| part.share.units).collect();
    packs.dedup();
    let rows = rows_of_chunk(steps, saved.iter().map(|part| part.share));
    let packs = for_each(packs, dimensions.work(), |units| {
        Weights::new(&arguments, dimensions, units, rows)
    });
    let parts = saved
        .into_iter()
        .zip(packs.iter().cycle())
        .map(|(saved, weights)| Part::new(dimensions, arguments, weights, saved));
    let arch = Arch::new();
    let parts = if packs.len() == 1 {
        advance(parts.collect(), steps, 3 * dimensions.work(), |parts: &mut [Part<'_>], back| {
            arch.dispatch(AllUnits { parts, step: steps - 1 - back });
        })
    } else {
        let mut parts: Vec<Part<'_>> = parts.collect();
        for (index, part) in parts.iter_mut().enumerate() {
            part.index = index;
        }
        let count = parts.len();
        let exchange = Exchange::new(2 * count * batch * hidden);
        // One more phase, for the gradient of the initial state.
        let mut team = Team::new(parts);
        team.run(steps + 1, 3 * dimensions.work(), |part, phase, ended| {
            arch.dispatch(SomeUnits { part, phase, count, exchange: &exchange, ended });
        });
        team.into_parts()
    };
    join(dimensions, arguments.input, parts)
}

/// The transposed weights of some units.
struct Weights {
    /// `[4 · units, H]`.
    recurrent: RightFactor,
    /// `[4 · units, D]`, of an input of vectors, or of tokens when others have the rest of the units.
    input: Option<RightFactor>,
}

impl Weights {
    /// `rows` is how many gradients are multiplied with the input's at a time.
    fn new(
        arguments: &Arguments<'_>,
        Dimensions { steps, batch, hidden }: Dimensions,
        units: Piece,
        rows: usize,
    ) -> Self {
        let transposed = |weight| Packed::transposed_units(weight, hidden, units);
        let recurrent = transposed(arguments.weight);
        Self {
            recurrent: match units.length < hidden {
                true => RightFactor::new(recurrent, batch, steps * batch),
                // A step has tiles of its own for it.
                false => RightFactor::Plain(recurrent),
            },
            input: match arguments.input {
                Input::Dense { weight, .. } => {
                    Some(RightFactor::new(transposed(weight), rows, steps * batch))
                }
                // Gradients of all units' gates are added over the lanes first.
                Input::Tokens { weight, .. } if units.length < hidden => {
                    Some(RightFactor::Plain(transposed(weight)))
                }
                Input::Products(_) | Input::Tokens { .. } => None,
            },
        }
    }
}

/// Some lanes and units on their way back.
struct Part<'a> {
    dimensions: Dimensions,
    arguments: Arguments<'a>,
    weights: &'a Weights,
    share: Share,
    index: usize,
    /// The activated gates; behind each step, the gradients of their sums.
    gates: Vec<f32>,
    cells: Vec<f32>,
    /// The initial cell state, `[n, units]`, as those below.
    c: Vec<f32>,
    grad_h: Vec<f32>,
    grad_c: Vec<f32>,
    /// What these units contribute to the gradient of all hidden states, `[n, H]`.
    contribution: Vec<f32>,
    /// The gradients of the latest step's gates, as the product with the recurrent weight has them.
    multiplied: LeftRows,
    sums: Sums,
    /// Behind the last step that the sums do not have yet.
    unadded: usize,
}

impl<'a> Part<'a> {
    fn new(
        dimensions: Dimensions,
        arguments: Arguments<'a>,
        weights: &'a Weights,
        SavedPart { share, gates, cells }: SavedPart,
    ) -> Self {
        let Dimensions { steps, hidden, .. } = dimensions;
        let Share { lanes, units } = share;
        let plane = lanes.length * units.length;
        Self {
            dimensions,
            arguments,
            weights,
            share,
            index: 0,
            gates,
            cells,
            c: own(arguments.c, hidden, share),
            grad_h: vec![0.0; plane],
            grad_c: arguments
                .grad_c
                .map_or_else(|| vec![0.0; plane], |grad_c| own(grad_c, hidden, share)),
            contribution: vec![0.0; lanes.length * hidden],
            multiplied: LeftRows::default(),
            sums: Sums::default(),
            unadded: steps,
        }
    }

    /// A step back, with all that flows into the hidden states but from `later` in `grad_h`; where the
    /// part has all units, that is the gradient of its outputs.
    #[inline(always)]
    fn step(&mut self, step: usize, with_later: bool) -> StepBackward<'_> {
        let Share { lanes, .. } = self.share;
        let Dimensions { steps, batch, hidden } = self.dimensions;
        let plane = self.grad_c.len();
        let (gates, later) = self.gates.split_at_mut((step + 1) * 4 * plane);
        let later = match &self.weights.recurrent {
            RightFactor::Plain(weight) if with_later && step + 1 < steps => {
                Some(Later { gates: &later[..4 * plane], weight })
            }
            _ => None,
        };
        let grad_outputs = &self.arguments.grad_outputs[(step * batch + lanes.start) * hidden..];
        StepBackward {
            later,
            gates: &mut gates[step * 4 * plane..],
            cells: &self.cells[step * plane..][..plane],
            earlier: match step {
                0 => &self.c,
                _ => &self.cells[(step - 1) * plane..][..plane],
            },
            grad_h: if with_later { &grad_outputs[..plane] } else { &self.grad_h },
            grad_c: &mut self.grad_c,
        }
    }

    /// The gradients of a step's gates.
    fn grads(&self, step: usize) -> Rows<'_> {
        let row = 4 * self.grad_c.len();
        Rows::new(&self.gates[step * row..][..row], 4 * self.share.units.length)
    }

    /// Makes the gradients of a step's gates ready for [`contribute`](Self::contribute).
    #[inline(always)]
    fn begin_contribution(&mut self, step: usize) {
        let mut multiplied = std::mem::take(&mut self.multiplied);
        multiplied.take(self.grads(step), &self.weights.recurrent);
        self.multiplied = multiplied;
    }

    /// Multiplies them with some panels of the transposed weight.
    #[inline(always)]
    fn contribute<S: Simd>(&mut self, simd: S, step: usize, panels: Piece) {
        let mut to = std::mem::take(&mut self.contribution);
        let (left, right) = (self.grads(step), &self.weights.recurrent);
        self.multiplied.product_of(simd, left, right, panels, &mut to);
        self.contribution = to;
    }

    /// The panels of the transposed weight that have columns of no units but the own.
    fn own_panels(&self) -> Piece {
        let Piece { start, length } = self.share.units;
        let width = self.weights.recurrent.width();
        let (first, behind) = (start.div_ceil(width), start + length);
        let all = self.weights.recurrent.panels().length;
        let end = if behind == self.dimensions.hidden { all } else { behind / width };
        Piece::between(first.min(end), end)
    }

    /// Adds what the latest steps back contribute to the gradients, where they are enough or the last;
    /// `step` is the latest.
    #[inline(always)]
    fn accumulate_sometimes<S: Simd>(&mut self, simd: S, step: usize) {
        let length = self.unadded - step;
        if self.sums.recurrent.is_empty() {
            self.sums = Sums::room(self.dimensions, self.arguments.input, self.share);
        }
        if step == 0 || length == steps_per_chunk(self.share.lanes.length) {
            self.accumulate(simd, Piece { start: step, length });
            self.unadded = step;
        }
    }

    /// Adds what a range of steps contributes to the gradients of weights and inputs.
    #[inline(always)]
    fn accumulate<S: Simd>(&mut self, simd: S, range: Piece) {
        let Share { lanes, units } = self.share;
        let Self { dimensions, arguments, weights, .. } = *self;
        let row = lanes.length * 4 * units.length;
        let steps = Steps {
            dimensions,
            lanes,
            range,
            input: arguments.input,
            h: arguments.h,
            outputs: arguments.outputs,
            grads: &self.gates[range.start * row..][..range.length * row],
            weight: weights.input.as_ref(),
        };
        let is_first = self.unadded == dimensions.steps;
        self.sums.add(simd, steps, if is_first { Onto::Nothing } else { Onto::Present });
        // Where others have the rest of the units; a table of all units is added over the lanes first.
        if range.start == 0
            && let (Input::Tokens { rows, .. }, Some(weight)) = (arguments.input, &weights.input)
        {
            self.sums.leave_table(simd, rows, weight);
        }
    }
}

/// Takes lanes with all units a step back, those of one or several parts.
struct AllUnits<'a, 'b> {
    parts: &'a mut [Part<'b>],
    step: usize,
}

impl WithSimd for AllUnits<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { parts, step } = self;
        // A panel of the weight serves all parts while it is near.
        for place in places_back(simd, parts[0].dimensions.hidden) {
            for part in parts.iter_mut() {
                let lanes = part.share.lanes.length;
                part.step(step, true).run_at(simd, lanes, place);
            }
        }
        for part in parts {
            part.accumulate_sometimes(simd, step);
            if step == 0 {
                part.begin_contribution(0);
                part.contribute(simd, 0, part.weights.recurrent.panels());
                part.grad_h.copy_from_slice(&part.contribution);
            }
        }
    }
}

/// Takes some units of all lanes a step back.
struct SomeUnits<'a, 'b> {
    part: &'a mut Part<'b>,
    phase: usize,
    /// How many parts there are.
    count: usize,
    /// Where the parts hand each other their contributions.
    exchange: &'a Exchange,
    ended: Ended<'a>,
}

impl WithSimd for SomeUnits<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { part, phase, count, exchange, ended } = self;
        let Dimensions { steps, batch, hidden } = part.dimensions;
        let units = part.share.units;
        let slot = |phase: usize, part: usize| (phase % 2 * count + part) * batch * hidden;
        for (lane, grad_h) in part.grad_h.chunks_exact_mut(units.length).enumerate() {
            let place = lane * hidden + units.start;
            if phase < steps {
                let step = (steps - 1 - phase) * batch * hidden;
                let grad = &part.arguments.grad_outputs[step + place..][..units.length];
                grad_h.copy_from_slice(grad);
            } else {
                grad_h.fill(0.0);
            }
            if phase > 0 {
                for index in 0..count {
                    match index == part.index {
                        true => add(grad_h, &part.contribution[place..][..units.length]),
                        false => exchange.add_to(slot(phase, index) + place, grad_h),
                    }
                }
            }
        }
        if phase < steps {
            let step = steps - 1 - phase;
            for place in places_back(simd, units.length) {
                part.step(step, false).run_at(simd, batch, place);
            }
            part.begin_contribution(step);
            let own = part.own_panels();
            for panels in own.others(part.weights.recurrent.panels().length) {
                part.contribute(simd, step, panels);
            }
            let to = slot(phase + 1, part.index);
            for (lane, row) in part.contribution.chunks_exact(hidden).enumerate() {
                for Piece { start, length } in units.others(hidden) {
                    exchange.write(to + lane * hidden + start, &row[start..][..length]);
                }
            }
            drop(ended);
            part.contribute(simd, step, own);
            part.accumulate_sometimes(simd, step);
        }
    }
}

/// Puts the gradients of all parts together.
fn join(dimensions: Dimensions, input: Input<'_>, mut parts: Vec<Part<'_>>) -> Gradients {
    let Dimensions { steps, hidden, .. } = dimensions;
    let units: Vec<usize> = parts.iter().map(|part| part.share.units.length).collect();
    let by_lanes = units[0] == hidden;
    // Of a weight, whose rows have a block of units for each gate.
    let of_weight = |sums: Vec<Vec<f32>>| match by_lanes {
        true => added(sums),
        false => side_by_side(sums, &units),
    };
    // Of units in lanes, at so many steps.
    let of_units = |numbers: Vec<Vec<f32>>, steps: usize| match by_lanes {
        true => step_by_step(numbers, steps),
        false => side_by_side(numbers, &units),
    };
    // Of vectors in lanes, to which all units contribute.
    let of_vectors = |numbers: Vec<Vec<f32>>| match by_lanes {
        true => step_by_step(numbers, steps),
        false => added(numbers),
    };
    let mut take = |which: for<'a, 'b> fn(&'a mut Part<'b>) -> &'a mut Vec<f32>| {
        parts.iter_mut().map(|part| std::mem::take(which(part))).collect::<Vec<_>>()
    };
    let gradients = Gradients {
        input: match input {
            Input::Products(_) => {
                InputGradients::Products(of_units(take(|part| &mut part.gates), steps))
            }
            Input::Tokens { rows, weight, .. } if by_lanes => {
                let table = added(take(|part| &mut part.sums.table));
                let gradients = InputGradients::Dense {
                    x: linear::grad_input(weight, &table, 4 * hidden),
                    weight: linear::grad_weight(rows, &table, 4 * hidden),
                    bias: linear::grad_bias(&table, 4 * hidden),
                };
                spare::give(table);
                gradients
            }
            Input::Dense { .. } | Input::Tokens { .. } => InputGradients::Dense {
                x: of_vectors(take(|part| &mut part.sums.x)),
                weight: of_weight(take(|part| &mut part.sums.input)),
                bias: of_weight(take(|part| &mut part.sums.bias)),
            },
        },
        weight: of_weight(take(|part| &mut part.sums.recurrent)),
        h: of_units(take(|part| &mut part.grad_h), 1),
        c: of_units(take(|part| &mut part.grad_c), 1),
    };
    take(|part| &mut part.gates).into_iter().for_each(spare::give);
    take(|part| &mut part.cells).into_iter().for_each(spare::give);
    gradients
}
