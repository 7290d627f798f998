//! The LSTM as an operation of Burn's backends.
#![cfg_attr(
    feature = "ndarray",
    expect(deprecated, reason = "Burn prefers flex; this project offers both, and tests both")
)]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::{DType, Device, Tensor};

use crate::CellState;

/// A layer's recurrence over a whole sequence as one operation with a backward pass written by
/// hand, where a backend has one.
#[backend_extension(
    NdArray: cfg(feature = "ndarray"),
    Flex: cfg(feature = "flex"),
    Autodiff: cfg(any(feature = "ndarray", feature = "flex")),
)]
pub trait LstmOps: Backend {
    /// Runs the recurrence from the input's share of the gates.
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
}

/// Whether the tensors' device has the operation; where not, the reference serves.
pub(crate) fn has_fused_sequence(products: &Tensor<3>) -> bool {
    products.dtype() == DType::F32 && device_has_it(&products.device())
}

fn device_has_it(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        _ => false,
    }
}

/// Runs the recurrence.
///
/// # Shapes
///
/// - products: `[T, B, 4H]`, the input's share of the gates
/// - weight: `[H, 4H]`
/// - state: h and c `[B, H]`
/// - result: the outputs `[T, B, H]`, and h and c `[B, H]` after the last step
pub(crate) fn fused_sequence(
    products: Tensor<3>,
    weight: Tensor<2>,
    state: CellState,
) -> (Tensor<3>, CellState) {
    let [steps, batch, _] = products.dims();
    let hidden = weight.dims()[0];
    let packed = <Dispatch as LstmOps>::lstm_sequence(
        products.into_dispatch(),
        weight.into_dispatch(),
        state.h.into_dispatch(),
        state.c.into_dispatch(),
    );
    let packed = Tensor::<3>::from_dispatch(packed);
    let plane = |step: usize| packed.clone().narrow(0, step, 1).reshape([batch, hidden]);
    let state = CellState { h: plane(steps - 1), c: plane(steps) };
    (packed.narrow(0, 0, steps), state)
}
