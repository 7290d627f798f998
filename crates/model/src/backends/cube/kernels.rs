//! What runs on the device.
//!
//! All buffers are row major and contiguous.

#![allow(missing_docs)] // of what the macro makes of each function
mod meeting;
mod pointwise;
mod products;
mod sequence;
mod step;
mod writing;

use cubecl::prelude::*;

pub(super) use meeting::{Shares, UNITS_EACH, meeting_backward, meeting_forward};
pub(super) use pointwise::{adamw, softmax_loss, sum_by_token};
pub(super) use products::{Columns, Tiling, product, sum_rows};
pub(super) use sequence::{Extent, most_steps, sequence_backward, sequence_forward};
pub(super) use step::{step_backward, step_forward};
pub(super) use writing::{WritingExtent, write};

/// Rounds of its loops, of those within others too, that a unit of the device may make in a launch. Mesa's
/// llvmpipe leaves all loops behind 65,535 of them, and says nothing; the one in which a loop finds its end
/// counts as well.
pub(super) const MOST_ROUNDS: usize = 60_000;

/// 1 / (1 + e⁻ˣ). Beyond 80 it is 0 or 1 to the last bit, and the exponential may not be a number.
#[cube]
fn sigmoid(x: f32) -> f32 {
    let x = clamp_nan(x, -80.0f32, 80.0f32);
    1.0f32 / (1.0f32 + (-x).exp())
}

/// tanh. Some devices make no number of it where it is 1 to the last bit.
#[cube]
fn squash(x: f32) -> f32 {
    clamp_nan(x, -15.0f32, 15.0f32).tanh()
}

/// i, f, g and o of a hidden unit side by side: one load where four would be.
type Gates = GatesOf<f32>;

/// The same in other numbers.
type GatesOf<W> = Vector<W, Const<4>>;

#[cube]
fn gates(i: f32, f: f32, g: f32, o: f32) -> Gates {
    let mut gates = Gates::empty();
    gates.insert(0usize, i);
    gates.insert(1usize, f);
    gates.insert(2usize, g);
    gates.insert(3usize, o);
    gates
}

#[cube]
fn activate(sums: Gates) -> Gates {
    gates(
        sigmoid(sums.extract(0usize)),
        sigmoid(sums.extract(1usize)),
        squash(sums.extract(2usize)),
        sigmoid(sums.extract(3usize)),
    )
}

/// The cell state behind a step.
#[cube]
fn next_cell(activated: Gates, cell: f32) -> f32 {
    activated.extract(1usize) * cell + activated.extract(0usize) * activated.extract(2usize)
}

/// The gradients of the gates' sums, from the activated gates, the cell states behind and before
/// the step and the gradients of h and c.
#[cube]
fn unit_backward(
    activated: Gates,
    cell: f32,
    earlier: f32,
    grad_h: f32,
    grad_c: f32,
) -> (Gates, f32) {
    let i = activated.extract(0usize);
    let f = activated.extract(1usize);
    let g = activated.extract(2usize);
    let o = activated.extract(3usize);
    let squashed = squash(cell);
    let grad = grad_c + grad_h * o * (1.0f32 - squashed * squashed);
    let of_sums = gates(
        grad * g * i * (1.0f32 - i),
        grad * earlier * f * (1.0f32 - f),
        grad * i * (1.0f32 - g * g),
        grad_h * squashed * o * (1.0f32 - o),
    );
    (of_sums, grad * f)
}

/// Where the products of a place stand.
#[cube]
fn row_of<I: Int>(tokens: &[I], place: usize, #[comptime] by_token: bool) -> usize {
    if comptime!(by_token) { usize::cast_from(tokens[place]) } else { place }
}
