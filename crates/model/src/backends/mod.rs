//! The backends' tensors as slices and back. What is computed stands in `kernels`.

mod autodiff;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

use std::borrow::Cow;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Shape;

use crate::AdamWStep;
use crate::kernels::sequence::{self, Dimensions, Input, Saved};
use crate::kernels::tokens::{self, Distinct};
use crate::kernels::{adamw, cross_entropy, linear};
use crate::ops::LstmOps;

/// A backend whose tensors the CPU kernels can read.
pub(crate) trait CpuTensors: Backend {
    /// The numbers of a tensor in row-major order.
    fn numbers(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]>;

    /// The same by value, without a copy where nobody else holds the tensor.
    fn into_numbers(tensor: FloatTensor<Self>) -> Vec<f32>;

    /// The numbers of a tensor of tokens.
    fn tokens(tensor: &IntTensor<Self>) -> Vec<u32>;

    /// A tensor of these numbers.
    fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> FloatTensor<Self>;

    /// The shape of a tensor.
    fn shape<const D: usize>(tensor: &FloatTensor<Self>) -> [usize; D];
}

impl<B: CpuTensors> LstmOps for B {
    fn lstm_sequence(
        products: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        run_layer::<B>(KeptInput::Products(products), &weight, &h, &c).0
    }

    fn lstm_layer(
        input: FloatTensor<Self>,
        weight_input: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight_recurrent: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let input = KeptInput::Dense { x: input, weight: weight_input, bias };
        run_layer::<B>(input, &weight_recurrent, &h, &c).0
    }

    fn lstm_token_layer(
        tokens: IntTensor<Self>,
        embedding: FloatTensor<Self>,
        weight_input: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight_recurrent: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let input = KeptInput::tokens(&tokens, embedding, weight_input, &bias);
        run_layer::<B>(input, &weight_recurrent, &h, &c).0
    }

    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        run_linear::<B>(&input, &weight, &bias)
    }

    fn linear_cross_entropy(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let loss = cross_entropy::loss(cross_entropy::Arguments {
            input: &B::numbers(&input),
            weight: &B::numbers(&weight),
            bias: &B::numbers(&bias),
            targets: &B::tokens(&targets),
        });
        B::tensor(vec![loss], [1])
    }

    fn adamw(
        step: AdamWStep,
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let shape = TensorMetadata::shape(&parameter);
        let (mut moment_1, mut moment_2) = (B::into_numbers(moment_1), B::into_numbers(moment_2));
        let (from, gradient) = (B::numbers(&parameter), B::numbers(&gradient));
        let to = adamw::update(&step, &from, &gradient, &mut moment_1, &mut moment_2);
        let tensor = |numbers| B::tensor(numbers, shape.clone());
        (tensor(to), tensor(moment_1), tensor(moment_2))
    }
}

/// What a layer read, kept for its backward pass.
#[derive(Clone, Debug)]
enum KeptInput<B: CpuTensors> {
    Products(FloatTensor<B>),
    Dense {
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: FloatTensor<B>,
    },
    Tokens {
        /// T and B.
        extent: [usize; 2],
        distinct: Distinct,
        table: Vec<f32>,
        embedding: FloatTensor<B>,
        weight: FloatTensor<B>,
    },
}

impl<B: CpuTensors> KeptInput<B> {
    fn tokens(
        tokens: &IntTensor<B>,
        embedding: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: &FloatTensor<B>,
    ) -> Self {
        let [vocabulary, _] = B::shape(&embedding);
        let distinct = Distinct::new(&B::tokens(tokens), vocabulary);
        let table = tokens::table(
            &distinct,
            &B::numbers(&embedding),
            &B::numbers(&weight),
            &B::numbers(bias),
        );
        let extent = TensorMetadata::shape(tokens).dims();
        Self::Tokens { extent, distinct, table, embedding, weight }
    }

    /// T and B.
    fn extent(&self) -> [usize; 2] {
        match self {
            Self::Products(x) | Self::Dense { x, .. } => {
                let [steps, batch, _] = B::shape(x);
                [steps, batch]
            }
            Self::Tokens { extent, .. } => *extent,
        }
    }

    /// Lets `read` have it as slices.
    fn read<R>(&self, read: impl FnOnce(Input<'_>) -> R) -> R {
        match self {
            Self::Products(products) => read(Input::Products(&B::numbers(products))),
            Self::Dense { x, weight, bias } => read(Input::Dense {
                x: &B::numbers(x),
                weight: &B::numbers(weight),
                bias: &B::numbers(bias),
            }),
            Self::Tokens { distinct, table, .. } => read(Input::Tokens { distinct, table }),
        }
    }
}

/// A layer forward, and what its backward pass needs.
fn run_layer<B: CpuTensors>(
    input: KeptInput<B>,
    weight: &FloatTensor<B>,
    h: &FloatTensor<B>,
    c: &FloatTensor<B>,
) -> (FloatTensor<B>, KeptInput<B>, Dimensions, Saved) {
    let ([steps, batch], [hidden, _]) = (input.extent(), B::shape(weight));
    let dimensions = Dimensions { steps, batch, hidden };
    let (outputs, saved) = input.read(|input| {
        let (weight, h, c) = (B::numbers(weight), B::numbers(h), B::numbers(c));
        sequence::forward(dimensions, input, &weight, &h, &c)
    });
    (B::tensor(outputs, [steps + 1, batch, hidden]), input, dimensions, saved)
}

fn run_linear<B: CpuTensors>(
    input: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    bias: &FloatTensor<B>,
) -> FloatTensor<B> {
    let ([rows, _], [width]) = (B::shape(input), B::shape(bias));
    let output = linear::forward(&B::numbers(input), &B::numbers(weight), &B::numbers(bias));
    B::tensor(output, [rows, width])
}
