//! What each backend does for the operations of [`ops`](crate::ops).
//!
//! [`Kernels`] has everything in a backend's own primitive operations. The CPU backends overrule
//! that with slices for the kernels, CubeCL's with kernels for a GPU; a graph records each operation
//! as one node, on any of them.

mod autodiff;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod cpu;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(all(feature = "fusion", any(feature = "wgpu", feature = "cuda")))]
mod fusion;
#[cfg(feature = "ndarray")]
mod ndarray;
mod plain;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::Backend;
use burn::backend::tensor::{FloatTensor, IntTensor};

use crate::AdamWStep;
use crate::ops::LstmOps;

/// What a layer reads.
#[derive(Clone, Debug)]
pub(crate) enum LayerInput<B: Backend> {
    /// The input's share of the gates, `[T, B, 4H]`.
    Products(FloatTensor<B>),
    /// Vectors.
    Dense {
        /// `[T, B, D]`.
        x: FloatTensor<B>,
        /// `[D, 4H]`.
        weight: FloatTensor<B>,
        /// `[4H]`.
        bias: FloatTensor<B>,
    },
    /// Embedded tokens.
    Tokens {
        /// `[T, B]`.
        tokens: IntTensor<B>,
        /// `[V, E]`.
        embedding: FloatTensor<B>,
        /// `[E, 4H]`.
        weight: FloatTensor<B>,
        /// `[4H]`.
        bias: FloatTensor<B>,
    },
}

/// The recurrent weight `[H, 4H]` and the initial state, `[B, H]` each.
#[derive(Clone, Debug)]
pub(crate) struct Recurrence<B: Backend> {
    pub(crate) weight: FloatTensor<B>,
    pub(crate) h: FloatTensor<B>,
    pub(crate) c: FloatTensor<B>,
    /// Whether the weight may be read as 16-bit numbers.
    #[cfg_attr(
        not(any(feature = "wgpu", feature = "cuda")),
        expect(dead_code, reason = "a CPU computes in float32")
    )]
    pub(crate) half: bool,
}

/// What comes out of a layer.
pub(crate) struct Layer<B: Backend> {
    /// `[T, B, H]`.
    pub(crate) outputs: FloatTensor<B>,
    /// The cell states behind the last step, `[B, H]`.
    pub(crate) c: FloatTensor<B>,
    /// The way back, where it was asked for.
    pub(crate) back: Option<WayBack<B>>,
}

/// Goes back through a layer, once: from the gradient of the outputs and, where there is one, that
/// of the last cell state, to the gradients of the input's float tensors in their order, then of
/// the recurrent weight, h and c.
#[derive(Clone)]
pub(crate) struct WayBack<B: Backend>(Arc<Mutex<Option<Goes<B>>>>);

type Goes<B> =
    Box<dyn FnOnce(FloatTensor<B>, Option<FloatTensor<B>>) -> Vec<FloatTensor<B>> + Send>;

impl<B: Backend> WayBack<B> {
    pub(crate) fn new(
        goes: impl FnOnce(FloatTensor<B>, Option<FloatTensor<B>>) -> Vec<FloatTensor<B>>
        + Send
        + 'static,
    ) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(goes)))))
    }

    fn go(
        self,
        grad_outputs: FloatTensor<B>,
        grad_c: Option<FloatTensor<B>>,
    ) -> Vec<FloatTensor<B>> {
        let goes = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        goes.expect("a graph is gone back through once")(grad_outputs, grad_c)
    }
}

impl<B: Backend> fmt::Debug for WayBack<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WayBack")
    }
}

/// The operations of [`LstmOps`] without a graph, and what a graph needs of them to go back.
/// Shapes are those of [`LstmOps`].
pub(crate) trait Kernels: Backend {
    /// A layer over a whole sequence; its way back only on demand, `with_back`.
    fn layer(
        input: LayerInput<Self>,
        recurrence: Recurrence<Self>,
        with_back: bool,
    ) -> Layer<Self> {
        plain::layer::<Self>(input, recurrence, with_back)
    }

    /// input × weight + bias.
    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::linear::<Self>(input, weight, bias)
    }

    /// The gradients of [`linear`](Self::linear)'s input, weight and bias from that of its result.
    fn linear_back(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        plain::linear_back::<Self>(input, weight, grad)
    }

    /// The loss, and on demand its gradients with respect to input, weight and bias.
    fn linear_cross_entropy(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        with_gradients: bool,
    ) -> (FloatTensor<Self>, Option<[FloatTensor<Self>; 3]>) {
        plain::linear_cross_entropy::<Self>(input, weight, bias, targets, with_gradients)
    }

    /// The sum of the squares of all numbers, `[1]`.
    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::sum_of_squares::<Self>(tensor)
    }

    /// `from`, moved a share of the way to `to`.
    fn lerp(from: FloatTensor<Self>, to: FloatTensor<Self>, share: f32) -> FloatTensor<Self> {
        plain::lerp::<Self>(from, to, share)
    }

    /// weights − rates · gradient + pull · (trained − weights), from gradient, rates, trained and pull.
    fn adapt(weights: FloatTensor<Self>, forces: [FloatTensor<Self>; 4]) -> FloatTensor<Self> {
        plain::adapt::<Self>(weights, forces)
    }

    /// A tensor times a number, given as `[1]`.
    fn scaled(tensor: FloatTensor<Self>, factor: &FloatTensor<Self>) -> FloatTensor<Self> {
        plain::scaled::<Self>(tensor, factor)
    }

    /// The parameter and its moments behind a step.
    fn adamw(
        step: AdamWStep,
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moments: [FloatTensor<Self>; 2],
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        plain::adamw::<Self>(step, parameter, gradient, moments)
    }
}

impl<B: Kernels> LstmOps for B {
    fn lstm_sequence(
        products: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
        half: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let layer =
            B::layer(LayerInput::Products(products), Recurrence { weight, h, c, half }, false);
        (layer.outputs, layer.c)
    }

    fn lstm_layer(
        input: FloatTensor<Self>,
        weight_input: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight_recurrent: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
        half: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let input = LayerInput::Dense { x: input, weight: weight_input, bias };
        let layer = B::layer(input, Recurrence { weight: weight_recurrent, h, c, half }, false);
        (layer.outputs, layer.c)
    }

    fn lstm_token_layer(
        tokens: IntTensor<Self>,
        embedding: FloatTensor<Self>,
        weight_input: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight_recurrent: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
        half: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let input = LayerInput::Tokens { tokens, embedding, weight: weight_input, bias };
        let layer = B::layer(input, Recurrence { weight: weight_recurrent, h, c, half }, false);
        (layer.outputs, layer.c)
    }

    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        <B as Kernels>::linear(input, weight, bias)
    }

    fn linear_cross_entropy(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        <B as Kernels>::linear_cross_entropy(input, weight, bias, targets, false).0
    }

    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        <B as Kernels>::sum_of_squares(tensor)
    }

    fn lerp(from: FloatTensor<Self>, to: FloatTensor<Self>, share: f32) -> FloatTensor<Self> {
        <B as Kernels>::lerp(from, to, share)
    }

    fn adapt(
        weights: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rates: FloatTensor<Self>,
        trained: FloatTensor<Self>,
        pull: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        <B as Kernels>::adapt(weights, [gradient, rates, trained, pull])
    }

    fn adamw(
        step: AdamWStep,
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let moments = [moment_1, moment_2];
        let (parameter, [moment_1, moment_2]) =
            <B as Kernels>::adamw(step, parameter, gradient, moments);
        (parameter, moment_1, moment_2)
    }
}
