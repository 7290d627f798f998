//! The operations that backends have of their own.
#![cfg_attr(
    feature = "ndarray",
    expect(deprecated, reason = "Burn prefers flex; this project offers both, and tests both")
)]

#[cfg(any(feature = "ndarray", feature = "flex"))]
use burn::backend::DispatchDevice;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Device, Int, Tensor};

use crate::char_lstm::cross_entropy;
use crate::{AdamWStep, CellState, SequenceInput};

/// What an LSTM language model computes, each as one operation with a backward pass written by
/// hand, where a backend has it.
#[backend_extension(
    NdArray: cfg(feature = "ndarray"),
    Flex: cfg(feature = "flex"),
    Autodiff: cfg(any(feature = "ndarray", feature = "flex")),
)]
pub trait LstmOps: Backend {
    /// A layer's recurrence over a whole sequence, from the input's share of the gates.
    ///
    /// # Shapes
    ///
    /// - products: `[T, B, 4H]`
    /// - weight: `[H, 4H]`
    /// - h, c: `[B, H]`
    /// - result: `[T + 1, B, H]`, the hidden states of every step and then the last cell state
    fn lstm_sequence(
        products: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// A layer over a whole sequence of vectors.
    ///
    /// # Shapes
    ///
    /// - input: `[T, B, D]`
    /// - weight_input: `[D, 4H]`
    /// - bias: `[4H]`
    /// - weight_recurrent: `[H, 4H]`
    /// - h, c: `[B, H]`
    /// - result: as of [`lstm_sequence`](Self::lstm_sequence)
    fn lstm_layer(
        input: FloatTensor<Self>,
        weight_input: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight_recurrent: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// A layer over a whole sequence of embedded tokens, each distinct one of which is multiplied
    /// with the input weight once.
    ///
    /// # Shapes
    ///
    /// - tokens: `[T, B]`, each below V
    /// - embedding: `[V, E]`
    /// - weight_input: `[E, 4H]`
    /// - all others: as of [`lstm_layer`](Self::lstm_layer)
    fn lstm_token_layer(
        tokens: IntTensor<Self>,
        embedding: FloatTensor<Self>,
        weight_input: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight_recurrent: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// input × weight + bias.
    ///
    /// # Shapes
    ///
    /// - input: `[N, D]`
    /// - weight: `[D, M]`
    /// - bias: `[M]`
    /// - result: `[N, M]`
    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// The mean negative log-likelihood, in nats, of the targets under
    /// softmax(input × weight + bias).
    ///
    /// # Shapes
    ///
    /// - input: `[N, H]`
    /// - weight: `[H, V]`
    /// - bias: `[V]`
    /// - targets: `[N]`, each below V
    /// - result: `[1]`
    fn linear_cross_entropy(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self>;

    /// One step of AdamW; gives the parameter and both moments as they are then.
    #[cfg_attr(
        not(any(feature = "ndarray", feature = "flex")),
        allow(unused_variables, reason = "the macro copies this to where nothing uses them")
    )]
    fn adamw(
        step: AdamWStep,
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Whether the tensor's device has the operations; where not, plain tensor operations serve.
pub(crate) fn has_ops<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && device_has_them(&tensor.device())
}

fn device_has_them(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        _ => false,
    }
}

/// A layer over a sequence as one operation: the outputs `[T, B, H]`, and h and c `[B, H]` after
/// the last step.
pub(crate) fn lstm_layer(
    input: SequenceInput,
    weight_input: Tensor<2>,
    bias: Tensor<1>,
    weight: Tensor<2>,
    state: CellState,
) -> (Tensor<3>, CellState) {
    let [steps, batch] = input.dims();
    let hidden = weight.dims()[0];
    let (weight, h, c) = (weight.into_dispatch(), state.h.into_dispatch(), state.c.into_dispatch());
    let packed = match input {
        SequenceInput::Products(products) => {
            <Dispatch as LstmOps>::lstm_sequence(products.into_dispatch(), weight, h, c)
        }
        SequenceInput::Dense(input) => <Dispatch as LstmOps>::lstm_layer(
            input.into_dispatch(),
            weight_input.into_dispatch(),
            bias.into_dispatch(),
            weight,
            h,
            c,
        ),
        SequenceInput::Tokens { tokens, embedding } => <Dispatch as LstmOps>::lstm_token_layer(
            tokens.into_dispatch(),
            embedding.into_dispatch(),
            weight_input.into_dispatch(),
            bias.into_dispatch(),
            weight,
            h,
            c,
        ),
    };
    let packed = Tensor::<3>::from_dispatch(packed);
    let plane = |step: usize| packed.clone().narrow(0, step, 1).reshape([batch, hidden]);
    let state = CellState { h: plane(steps - 1), c: plane(steps) };
    (packed.narrow(0, 0, steps), state)
}

/// input × weight + bias, differentiable: one operation where the backend has it
/// ([`LstmOps::linear`]), a product and a sum elsewhere.
///
/// # Shapes
///
/// - input: `[N, D]`
/// - weight: `[D, M]`
/// - bias: `[M]`
/// - result: `[N, M]`
pub fn linear(input: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    if !has_ops(&input) {
        return input.matmul(weight) + bias.unsqueeze();
    }
    Tensor::from_dispatch(<Dispatch as LstmOps>::linear(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// [`LstmOps::linear_cross_entropy`].
pub(crate) fn linear_cross_entropy(
    input: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    if !has_ops(&input) {
        return cross_entropy(linear(input, weight, bias), targets);
    }
    Tensor::from_dispatch(<Dispatch as LstmOps>::linear_cross_entropy(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        targets.into_dispatch(),
    ))
}
