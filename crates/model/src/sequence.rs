//! One layer over a sequence, time first.
//!
//! One product forms the input's share of the gates for all steps at once. What follows is the
//! recurrence: an operation of [`ops`](crate::ops), or the **reference**, in plain tensor
//! operations, with one recurrent product per step and nothing assigned into a slice. The
//! reference is the specification: every faster path must give the same outputs, final state and
//! gradients.

use burn::tensor::module::embedding;
use burn::tensor::{Device, Int, Tensor};

use crate::cell::{CellState, LstmCell, step};
use crate::ops::assert_together;
use crate::{Implementation, ops};

/// What a layer reads.
#[derive(Clone, Debug)]
#[cfg_attr(
    any(feature = "flex", feature = "wgpu", feature = "cuda"),
    expect(clippy::large_enum_variant, reason = "one is made per call, to be taken apart")
)]
pub enum SequenceInput {
    /// Vectors, `[T, B, D]`.
    Dense(Tensor<3>),
    /// Tokens `[T, B]`, which stand for the rows of an embedding `[V, D]`. The product with the
    /// input weights is formed once for every distinct token.
    Tokens {
        /// The tokens, each below V.
        tokens: Tensor<2, Int>,
        /// The embedding.
        embedding: Tensor<2>,
    },
    /// The input's share of the gates, `[T, B, 4H]`, biases and all.
    Products(Tensor<3>),
}

impl SequenceInput {
    /// `[T, B]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(input) | Self::Products(input) => [input.dims()[0], input.dims()[1]],
            Self::Tokens { tokens, .. } => tokens.dims(),
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(input) | Self::Products(input) => input.device(),
            Self::Tokens { embedding, .. } => embedding.device(),
        }
    }
}

impl LstmCell {
    /// Runs the cell over a whole sequence, **time first**. Gradients flow into the input, the
    /// state and the weights, from the outputs and from the final state.
    ///
    /// # Shapes
    ///
    /// - input: T and B at least 1
    /// - state: h and c `[B, H]`
    /// - result: the outputs `[T, B, H]`, and h and c `[B, H]` after the last step
    ///
    /// # Panics
    ///
    /// Where a shape is not the one expected, or input, state and weights are not of one type of number or not on one
    /// device. On a CPU where a token is not below V; a GPU takes it for some other token.
    pub fn forward_sequence(
        &self,
        input: SequenceInput,
        state: CellState,
        implementation: Implementation,
    ) -> (Tensor<3>, CellState) {
        self.run_sequence(input, self.weight_recurrent.val(), state, implementation)
    }

    /// As [`forward_sequence`](Self::forward_sequence), with other recurrent weights, `[H, 4H]`.
    pub(crate) fn run_sequence(
        &self,
        input: SequenceInput,
        weight: Tensor<2>,
        state: CellState,
        implementation: Implementation,
    ) -> (Tensor<3>, CellState) {
        let fused = implementation != Implementation::Reference && ops::has_ops(&weight);
        let ([steps, batch], width) = (input.dims(), 4 * self.d_hidden());
        assert!(steps > 0, "a sequence has at least one time step");
        assert!(batch > 0, "a batch has at least one lane");
        match &input {
            SequenceInput::Products(products) => {
                let got = products.dims()[2];
                assert_eq!(got, width, "the width 4H of the products: expected {width}, got {got}");
                self.check(batch, self.d_input(), &state);
                assert_together(&weight, products);
            }
            SequenceInput::Dense(input) => {
                self.check(batch, input.dims()[2], &state);
                assert_together(&weight, input);
            }
            SequenceInput::Tokens { embedding, .. } => {
                self.check(batch, embedding.dims()[1], &state);
                assert_together(&weight, embedding);
            }
        }
        if fused {
            let bias = self.bias().unwrap_or_else(|| Tensor::zeros([width], &weight.device()));
            let half = implementation == Implementation::Half;
            ops::lstm_layer(input, self.weight_input.val(), bias, weight, state, half)
        } else {
            reference(self.products(input), weight, state)
        }
    }

    /// The input's share of the gates in plain tensor operations, `[T, B, 4H]`.
    fn products(&self, input: SequenceInput) -> Tensor<3> {
        let input = match input {
            SequenceInput::Products(products) => return products,
            SequenceInput::Tokens { tokens, embedding: table } => embedding(table, tokens),
            SequenceInput::Dense(input) => input,
        };
        let [steps, batch, d_input] = input.dims();
        let flat = input.reshape([steps * batch, d_input]);
        let products = flat.matmul(self.weight_input.val());
        let products = match self.bias() {
            Some(bias) => products + bias.unsqueeze(),
            None => products,
        };
        products.reshape([steps, batch, 4 * self.d_hidden()])
    }
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
