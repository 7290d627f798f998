//! The operations that backends have of their own.
// Not at the trait's method: the macro copies that to where nothing is too long.
#![expect(clippy::too_many_arguments, reason = "a layer reads tokens and has six tensors beside")]
#![cfg_attr(
    feature = "ndarray",
    expect(deprecated, reason = "Burn prefers flex; this project offers both, and tests both")
)]

#[cfg(any(feature = "ndarray", feature = "flex", feature = "wgpu", feature = "cuda"))]
use burn::backend::DispatchDevice;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Device, Int, Tensor};

use crate::char_lstm::cross_entropy;
use crate::{AdamWStep, CellState, SequenceInput};

/// What an LSTM language model computes, each as one operation with a backward pass written by
/// hand.
///
/// ndarray and flex have kernels for them, and so have CubeCL's backends (wgpu, vulkan, metal,
/// cuda). Under autodiff each is one node of the graph. On other backends plain tensor operations serve.
///
/// These are for code that is generic over its backend. They take shapes, types and devices as they come;
/// [`LstmCell::forward_sequence`](crate::LstmCell::forward_sequence) and the functions of this crate check them.
#[backend_extension(
    NdArray: cfg(feature = "ndarray"),
    Flex: cfg(feature = "flex"),
    Cube: cfg(any(feature = "wgpu", feature = "cuda")),
    Autodiff: cfg(any(feature = "ndarray", feature = "flex", feature = "wgpu", feature = "cuda")),
)]
pub trait LstmOps: Backend {
    /// A layer's recurrence over a whole sequence, from the input's share of the gates; with `half` a
    /// device may read the recurrent weights as 16-bit numbers.
    ///
    /// # Shapes
    ///
    /// - products: `[T, B, 4H]`
    /// - weight: `[H, 4H]`
    /// - h, c: `[B, H]`
    /// - result: the hidden states of every step, `[T, B, H]`, and the last cell states, `[B, H]`
    fn lstm_sequence(
        products: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
        half: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// A layer over a whole sequence of vectors.
    ///
    /// # Shapes
    ///
    /// - input: `[T, B, D]`
    /// - weight_input: `[D, 4H]`
    /// - bias: `[4H]`
    /// - weight_recurrent: `[H, 4H]`
    /// - h, c: `[B, H]`
    /// - half and result: as of [`lstm_sequence`](Self::lstm_sequence)
    fn lstm_layer(
        input: FloatTensor<Self>,
        weight_input: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight_recurrent: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
        half: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

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
        half: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

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

    /// The sum of the squares of all numbers, `[1]`.
    #[cfg_attr(
        not(any(feature = "ndarray", feature = "flex", feature = "wgpu", feature = "cuda")),
        allow(unused_variables, reason = "the macro copies this to where nothing uses them")
    )]
    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `from`, moved a share of the way to `to`.
    #[cfg_attr(
        not(any(feature = "ndarray", feature = "flex", feature = "wgpu", feature = "cuda")),
        allow(unused_variables, reason = "the macro copies this to where nothing uses them")
    )]
    fn lerp(from: FloatTensor<Self>, to: FloatTensor<Self>, share: f32) -> FloatTensor<Self>;

    /// One step of dynamic evaluation, elementwise: weights − rates · gradient
    /// + pull · (trained − weights).
    #[cfg_attr(
        not(any(feature = "ndarray", feature = "flex", feature = "wgpu", feature = "cuda")),
        allow(unused_variables, reason = "the macro copies this to where nothing uses them")
    )]
    fn adapt(
        weights: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rates: FloatTensor<Self>,
        trained: FloatTensor<Self>,
        pull: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// One step of AdamW; gives the parameter and both moments as they are then. Where the gradient is
    /// no number they stay as they are.
    #[cfg_attr(
        not(any(feature = "ndarray", feature = "flex", feature = "wgpu", feature = "cuda")),
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
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchDevice::Cube(_) => true,
        _ => false,
    }
}

/// Refuses tensors that are not of one shape, of one type of number, and in one place.
pub(crate) fn assert_alike<const D: usize, const N: usize>(tensors: [&Tensor<D>; N]) {
    let [first, others @ ..] = &tensors[..] else { return };
    for other in others {
        assert_eq!(first.dims(), other.dims(), "tensors that are to be of one shape");
        assert_together(first, other);
    }
}

/// Refuses tensors of different types of number, or in different places.
pub(crate) fn assert_together<const D: usize, const E: usize>(a: &Tensor<D>, b: &Tensor<E>) {
    assert_eq!(a.dtype(), b.dtype(), "the types of tensors that are to be computed with together");
    let place = |device: Device| device.without_autodiff();
    let (a, b) = (place(a.device()), place(b.device()));
    assert_eq!(a, b, "the devices of tensors that are to be computed with together");
}

/// A layer over a sequence as one operation: the outputs `[T, B, H]`, and h and c `[B, H]` after
/// the last step.
pub(crate) fn lstm_layer(
    input: SequenceInput,
    weight_input: Tensor<2>,
    bias: Tensor<1>,
    weight: Tensor<2>,
    state: CellState,
    half: bool,
) -> (Tensor<3>, CellState) {
    let steps = input.dims()[0];
    let (weight, h, c) = (weight.into_dispatch(), state.h.into_dispatch(), state.c.into_dispatch());
    let (outputs, c) = match input {
        SequenceInput::Products(products) => {
            <Dispatch as LstmOps>::lstm_sequence(products.into_dispatch(), weight, h, c, half)
        }
        SequenceInput::Dense(input) => <Dispatch as LstmOps>::lstm_layer(
            input.into_dispatch(),
            weight_input.into_dispatch(),
            bias.into_dispatch(),
            weight,
            h,
            c,
            half,
        ),
        SequenceInput::Tokens { tokens, embedding } => <Dispatch as LstmOps>::lstm_token_layer(
            tokens.into_dispatch(),
            embedding.into_dispatch(),
            weight_input.into_dispatch(),
            bias.into_dispatch(),
            weight,
            h,
            c,
            half,
        ),
    };
    let (outputs, c) = (Tensor::<3>::from_dispatch(outputs), Tensor::from_dispatch(c));
    let h = outputs.clone().narrow(0, steps - 1, 1).squeeze_dim(0);
    (outputs, CellState { h, c })
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
///
/// # Panics
///
/// Where a shape is not the one expected, or the tensors are not of one type or not on one device.
pub fn linear(input: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    assert_linear(&input, &weight, &bias);
    if !has_ops(&input) {
        return input.matmul(weight) + bias.unsqueeze();
    }
    Tensor::from_dispatch(<Dispatch as LstmOps>::linear(
        input.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// Refuses factors that do not fit each other.
fn assert_linear(input: &Tensor<2>, weight: &Tensor<2>, bias: &Tensor<1>) {
    let ([_, d_input], [rows, width], [biases]) = (input.dims(), weight.dims(), bias.dims());
    assert_eq!(d_input, rows, "the input's width and the rows of the weight");
    assert_eq!(width, biases, "the columns of the weight and the biases");
    assert_together(input, weight);
    assert_together(input, bias);
}

/// [`LstmOps::linear_cross_entropy`].
pub(crate) fn linear_cross_entropy(
    input: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    assert_linear(&input, &weight, &bias);
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

/// The sum of the squares of all numbers of a tensor, `[1]`, differentiable: one pass over them where the
/// backend has kernels, there and back.
pub fn sum_of_squares<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    if !has_ops(&tensor) {
        return tensor.square().sum();
    }
    Tensor::from_dispatch(<Dispatch as LstmOps>::sum_of_squares(tensor.into_dispatch()))
}

/// `from`, moved a share of the way to `to` (PyTorch's `lerp`), in one pass where the backend has
/// kernels. It is for averages of weights: no gradient flows through it.
///
/// # Shapes
///
/// All of one shape.
///
/// # Panics
///
/// Where they are not.
pub fn lerp<const D: usize>(from: Tensor<D>, to: Tensor<D>, share: f32) -> Tensor<D> {
    assert_alike([&from, &to]);
    if !has_ops(&from) {
        let (from, to) = (from.detach(), to.detach());
        return from.clone() + (to - from) * share;
    }
    let moved = <Dispatch as LstmOps>::lerp(from.into_dispatch(), to.into_dispatch(), share);
    Tensor::from_dispatch(moved)
}

/// One step of dynamic evaluation (Krause et al. 2018, <https://arxiv.org/abs/1709.07432>), in one pass
/// where the backend has kernels: every weight goes against its gradient at a rate of its own, and a
/// share of the way back to where it was trained to be,
/// weights − rates · gradient + pull · (trained − weights). No gradient flows through it.
///
/// # Shapes
///
/// All of one shape.
///
/// # Panics
///
/// Where they are not.
pub fn adapt<const D: usize>(
    weights: Tensor<D>,
    gradient: Tensor<D>,
    rates: Tensor<D>,
    trained: Tensor<D>,
    pull: Tensor<D>,
) -> Tensor<D> {
    assert_alike([&weights, &gradient, &rates, &trained, &pull]);
    if !has_ops(&weights) {
        let [weights, gradient] = [weights, gradient].map(Tensor::detach);
        let [rates, trained, pull] = [rates, trained, pull].map(Tensor::detach);
        return weights.clone() - rates * gradient + pull * (trained - weights);
    }
    Tensor::from_dispatch(<Dispatch as LstmOps>::adapt(
        weights.into_dispatch(),
        gradient.into_dispatch(),
        rates.into_dispatch(),
        trained.into_dispatch(),
        pull.into_dispatch(),
    ))
}
