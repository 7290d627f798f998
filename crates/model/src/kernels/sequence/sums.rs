//! What a part of a layer adds up for the gradients on its way back.

use pulp::Simd;

use super::{Dimensions, Input, Share, rows_of};
use crate::kernels::outer::{outer, outer_by_pairs, outer_pairs_pay};
use crate::kernels::parallel::Piece;
use crate::kernels::product::{LeftRows, Onto, RightFactor};
use crate::kernels::rows::Rows;
use crate::kernels::spare;

/// The gradients of weights, `[rows, 4 · units]` each, and of vectors that were read.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) recurrent: Vec<f32>,
    pub(super) input: Vec<f32>,
    pub(super) bias: Vec<f32>,
    /// `[T, n, D]`, or of the distinct tokens `[U, D]`.
    pub(super) x: Vec<f32>,
    /// Of the distinct tokens' shares of the gates, `[U, 4 · units]`.
    pub(super) table: Vec<f32>,
    /// The gradients of the gates, as the products with the input's weight have them.
    multiplied: LeftRows,
}

/// What a range of steps contributes comes from here.
#[derive(Clone, Copy)]
pub(super) struct Steps<'a> {
    pub(super) dimensions: Dimensions,
    pub(super) lanes: Piece,
    pub(super) range: Piece,
    pub(super) input: Input<'a>,
    /// The initial hidden states, `[B, H]`.
    pub(super) h: &'a [f32],
    /// Those of all steps, `[T, B, H]`.
    pub(super) outputs: &'a [f32],
    /// The gradients of the gates' sums in the range, `[.., n, 4 · units]`.
    pub(super) grads: &'a [f32],
    /// The transposed weight of the input; read only where that is vectors.
    pub(super) weight: Option<&'a RightFactor>,
}

impl Sums {
    /// Room for the sums. The table's begin at 0 and the bias's; the others are written first.
    pub(super) fn room(
        Dimensions { batch, hidden, .. }: Dimensions,
        input: Input<'_>,
        Share { lanes, units }: Share,
    ) -> Self {
        let like = |weight: &[f32]| weight.len() / hidden * units.length;
        let recurrent = spare::take(hidden * 4 * units.length);
        match input {
            Input::Products(_) => Self { recurrent, ..Self::default() },
            Input::Dense { x, weight, bias } => Self {
                recurrent,
                input: spare::take(like(weight)),
                bias: vec![0.0; like(bias)],
                x: spare::take(x.len() / batch * lanes.length),
                ..Self::default()
            },
            Input::Tokens { distinct, .. } => {
                let table = spare::zeros(distinct.count() * 4 * units.length);
                Self { recurrent, table, ..Self::default() }
            }
        }
    }

    /// Adds what a range of steps contributes. `onto` says on what the weights' sums stand.
    #[inline(always)]
    pub(super) fn add<S: Simd>(&mut self, simd: S, steps: Steps<'_>, onto: Onto<'_>) {
        let Steps { dimensions, lanes, range, input, grads, .. } = steps;
        let all_rows = lanes.length * range.start;
        let rows = lanes.length * range.length;
        let width = grads.len() / rows;
        let all = Piece { start: 0, length: lanes.length };
        let gates = |grads| Rows::of_lanes(grads, width, lanes.length, all);
        // The hidden states before each step: the initial ones, then the outputs of the step before.
        let outputs = |range| rows_of(steps.outputs, dimensions, lanes, range);
        let h = match range.start {
            0 => outputs(Piece { start: 0, length: range.length - 1 })
                .behind(&steps.h[lanes.start * dimensions.hidden..]),
            start => outputs(Piece { start: start - 1, ..range }),
        };
        gradient(simd, h, gates(grads), onto, &mut self.recurrent);
        match input {
            Input::Products(_) => {}
            Input::Tokens { distinct, .. } => {
                let tokens = distinct.indices().chunks_exact(dimensions.batch);
                let indices = tokens
                    .skip(range.start)
                    .take(range.length)
                    .flat_map(|step| &step[lanes.start..][..lanes.length]);
                for (&index, grad) in indices.zip(grads.chunks_exact(width)) {
                    add(&mut self.table[index as usize * width..][..width], grad);
                }
            }
            Input::Dense { x, .. } => {
                let vectors = rows_of(x, dimensions, lanes, range);
                let d_input = vectors.width();
                gradient(simd, vectors, gates(grads), onto, &mut self.input);
                grads.chunks_exact(width).for_each(|row| add(&mut self.bias, row));
                let weight = steps.weight.expect("it was packed");
                let x = &mut self.x[all_rows * d_input..][..rows * d_input];
                weight.product(simd, gates(grads), &mut self.multiplied, Onto::Nothing, x);
            }
        }
    }

    /// Goes on from the gradients of the distinct tokens' gates to those of what these come from: their
    /// vectors, `rows`, `[U, D]`, the weight, `[4 · units, D]` when transposed, and the bias.
    #[inline(always)]
    pub(super) fn leave_table<S: Simd>(&mut self, simd: S, rows: &[f32], weight: &RightFactor) {
        let table = std::mem::take(&mut self.table);
        let (width, d_input) = (weight.rows(), weight.columns());
        let (rows, grads) = (Rows::new(rows, d_input), Rows::new(&table, width));
        self.input = spare::take(d_input * width);
        outer(simd, rows, grads, Onto::Nothing, &mut self.input);
        self.bias = vec![0.0; width];
        table.chunks_exact(width).for_each(|row| add(&mut self.bias, row));
        self.x = spare::take(rows.count() * d_input);
        weight.product(simd, grads, &mut self.multiplied, Onto::Nothing, &mut self.x);
        spare::give(table);
    }
}

/// [`outer`], by pairs where that is faster: what rows contribute to the gradient of a weight.
#[inline(always)]
fn gradient<S: Simd>(simd: S, left: Rows<'_>, right: Rows<'_>, onto: Onto<'_>, to: &mut [f32]) {
    match outer_pairs_pay(left.count(), left.width(), right.width()) {
        true => outer_by_pairs(simd, left, right, onto, to),
        false => outer(simd, left, right, onto, to),
    }
}

#[inline(always)]
pub(super) fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
