//! One layer over a whole sequence.
//!
//! One product forms the input's share of the gates for all steps at once. What follows is the
//! recurrence: the fused operation of [`ops`](crate::ops), or the **reference**, in plain tensor
//! operations, with one recurrent product per step and nothing assigned into a slice. The
//! reference is the specification: every faster path must give the same outputs, final state and
//! gradients.

use burn::tensor::Tensor;

use crate::Implementation;
use crate::cell::{CellState, LstmCell, step};
use crate::ops::{fused_sequence, has_fused_sequence};

/// Runs `cell` over `input`.
///
/// # Shapes
///
/// - input: `[B, T, D]`, T at least 1
/// - result: `[B, T, H]`, and h and c `[B, H]` after the last step
pub(crate) fn forward(
    cell: &LstmCell,
    input: Tensor<3>,
    state: CellState,
    implementation: Implementation,
) -> (Tensor<3>, CellState) {
    let [batch, steps, d_input] = input.dims();
    cell.check(batch, d_input, &state);
    // Time first, so that the gates of a step are one contiguous block.
    let flat = input.swap_dims(0, 1).reshape([steps * batch, d_input]);
    let products = flat.matmul(cell.weight_input.val());
    let products = match cell.bias() {
        Some(bias) => products + bias.unsqueeze(),
        None => products,
    };
    let products = products.reshape([steps, batch, 4 * cell.d_hidden()]);
    let weight = cell.weight_recurrent.val();
    let (outputs, state) = match implementation {
        Implementation::Fused if has_fused_sequence(&products) => {
            fused_sequence(products, weight, state)
        }
        Implementation::Fused | Implementation::Reference => reference(products, weight, state),
    };
    (outputs.swap_dims(0, 1), state)
}

/// The recurrence in plain tensor operations.
///
/// # Shapes
///
/// - products: `[T, B, 4H]`
/// - weight: `[H, 4H]`
/// - result: `[T, B, H]`, and h and c `[B, H]` after the last step
fn reference(
    products: Tensor<3>,
    weight: Tensor<2>,
    mut state: CellState,
) -> (Tensor<3>, CellState) {
    let [steps, batch, width] = products.dims();
    let mut outputs = Vec::with_capacity(steps);
    for product in rows_of_steps(products.reshape([steps * batch, width]), steps, batch) {
        state = step(product, weight.clone(), state);
        outputs.push(state.h.clone());
    }
    (Tensor::stack(outputs, 0), state)
}

/// Cuts `[T · B, 4H]` into T tensors `[B, 4H]`, by halves.
///
/// The gradient of a slice is as large as what it was cut from. T slices of the whole would make
/// the backward pass quadratic in T; halves of halves make it T log T.
fn rows_of_steps(products: Tensor<2>, steps: usize, batch: usize) -> Vec<Tensor<2>> {
    if steps == 1 {
        return vec![products];
    }
    let half = steps / 2;
    let first = products.clone().narrow(0, 0, half * batch);
    let second = products.narrow(0, half * batch, (steps - half) * batch);
    let mut rows = rows_of_steps(first, half, batch);
    rows.extend(rows_of_steps(second, steps - half, batch));
    rows
}
