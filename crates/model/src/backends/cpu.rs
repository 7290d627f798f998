//! The CPU backends' tensors as slices and back. What is computed stands in `kernels`.

use std::borrow::Cow;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Shape;

use super::{Kernels, Layer, LayerInput, Recurrence, WayBack};
use crate::AdamWStep;
use crate::kernels::adapt::{self, Forces};
use crate::kernels::sequence::{
    self, Arguments, Dimensions, Forward, Input, InputGradients, Saved,
};
use crate::kernels::tokens::Distinct;
use crate::kernels::{adamw, cross_entropy, lerp, linear, norm, spare};

/// A backend whose tensors the CPU kernels can read.
pub(crate) trait CpuTensors: Backend {
    /// The numbers of a tensor in row-major order.
    fn numbers(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]>;

    /// The same by value, without a copy where nobody else holds the tensor.
    fn into_numbers(tensor: FloatTensor<Self>) -> Vec<f32>;

    /// Whether nobody else holds the tensor.
    fn is_unique(tensor: &FloatTensor<Self>) -> bool;

    /// The numbers of a tensor of tokens.
    fn tokens(tensor: &IntTensor<Self>) -> Vec<u32>;

    /// A tensor of these numbers.
    fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> FloatTensor<Self>;

    /// The shape of a tensor.
    fn shape<const D: usize>(tensor: &FloatTensor<Self>) -> [usize; D];
}

/// An id as a token. What is none is left to the check against the vocabulary.
pub(super) fn as_token(id: impl TryInto<u32>) -> u32 {
    id.try_into().unwrap_or(u32::MAX)
}

impl<B: CpuTensors> Kernels for B {
    fn layer(
        input: LayerInput<Self>,
        recurrence: Recurrence<Self>,
        with_back: bool,
    ) -> Layer<Self> {
        let input = KeptInput::<B>::new(input);
        let ([steps, batch], [hidden, _]) = (input.extent(), B::shape(&recurrence.weight));
        let dimensions = Dimensions { steps, batch, hidden };
        let Forward { outputs, c, saved } = input.read(|input| {
            let Recurrence { weight, h, c, .. } = &recurrence;
            let (weight, h, c) = (B::numbers(weight), B::numbers(h), B::numbers(c));
            sequence::forward(dimensions, input, &weight, &h, &c, with_back)
        });
        let outputs = B::tensor(outputs, [steps, batch, hidden]);
        let back = match saved {
            Some(saved) => {
                let outputs = outputs.clone();
                let kept = KeptLayer { dimensions, input, recurrence, saved, outputs };
                Some(WayBack::new(|grad_outputs, grad_c| {
                    let gradients = kept.gradients(&grad_outputs, grad_c.as_ref());
                    give_memory::<B>(grad_outputs);
                    gradients
                }))
            }
            None => None,
        };
        Layer { outputs, c: B::tensor(c, [batch, hidden]), back }
    }

    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ([rows, _], [width]) = (B::shape(&input), B::shape(&bias));
        let output = linear::forward(&B::numbers(&input), &B::numbers(&weight), &B::numbers(&bias));
        B::tensor(output, [rows, width])
    }

    fn linear_back(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let ([rows, d_input], [_, width]) = (B::shape(&input), B::shape(&weight));
        let numbers = B::numbers(&grad);
        let gradients = [
            B::tensor(linear::grad_input(&B::numbers(&weight), &numbers, width), [rows, d_input]),
            B::tensor(linear::grad_weight(&B::numbers(&input), &numbers, width), [d_input, width]),
            B::tensor(linear::grad_bias(&numbers, width), [width]),
        ];
        drop(numbers);
        give_memory::<B>(grad);
        gradients
    }

    fn linear_cross_entropy(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        with_gradients: bool,
    ) -> (FloatTensor<Self>, Option<[FloatTensor<Self>; 3]>) {
        let arguments = cross_entropy::Arguments {
            input: &B::numbers(&input),
            weight: &B::numbers(&weight),
            bias: &B::numbers(&bias),
            targets: &B::tokens(&targets),
        };
        if !with_gradients {
            return (B::tensor(vec![cross_entropy::loss(arguments)], [1]), None);
        }
        let (loss, gradients) = cross_entropy::loss_and_gradients(arguments);
        let gradients = [
            B::tensor(gradients.input, TensorMetadata::shape(&input)),
            B::tensor(gradients.weight, TensorMetadata::shape(&weight)),
            B::tensor(gradients.bias, TensorMetadata::shape(&bias)),
        ];
        (B::tensor(vec![loss], [1]), Some(gradients))
    }

    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        B::tensor(vec![norm::sum_of_squares(&B::numbers(&tensor))], [1])
    }

    fn lerp(from: FloatTensor<Self>, to: FloatTensor<Self>, share: f32) -> FloatTensor<Self> {
        let shape = TensorMetadata::shape(&from);
        let mut numbers = B::into_numbers(from);
        lerp::lerp(&mut numbers, &B::numbers(&to), share);
        B::tensor(numbers, shape)
    }

    fn adapt(weights: FloatTensor<Self>, forces: [FloatTensor<Self>; 4]) -> FloatTensor<Self> {
        let shape = TensorMetadata::shape(&weights);
        let mut numbers = B::into_numbers(weights);
        let [gradient, rates, trained, pull] = forces;
        let forces = Forces {
            gradient: &B::numbers(&gradient),
            rates: &B::numbers(&rates),
            trained: &B::numbers(&trained),
            pull: &B::numbers(&pull),
        };
        adapt::adapt(&mut numbers, forces);
        give_memory::<B>(gradient);
        B::tensor(numbers, shape)
    }

    fn scaled(tensor: FloatTensor<Self>, factor: &FloatTensor<Self>) -> FloatTensor<Self> {
        match B::numbers(factor)[0] {
            1.0 => tensor,
            factor => B::float_mul_scalar(tensor, factor.into()),
        }
    }

    fn adamw(
        step: AdamWStep,
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moments: [FloatTensor<Self>; 2],
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        let shape = TensorMetadata::shape(&parameter);
        let mut moments = moments.map(B::into_numbers);
        let slices = moments.each_mut().map(Vec::as_mut_slice);
        let numbers = if B::is_unique(&parameter) {
            let mut numbers = B::into_numbers(parameter);
            adamw::update(&step, &mut numbers, &B::numbers(&gradient), slices);
            numbers
        } else {
            adamw::updated(&step, &B::numbers(&parameter), &B::numbers(&gradient), slices)
        };
        give_memory::<B>(gradient);
        let tensor = |numbers| B::tensor(numbers, shape.clone());
        (tensor(numbers), moments.map(tensor))
    }
}

/// Gives a tensor's memory to the next step, where nobody else holds it and its numbers lie in order.
fn give_memory<B: CpuTensors>(tensor: FloatTensor<B>) {
    if B::is_unique(&tensor) && matches!(B::numbers(&tensor), Cow::Borrowed(_)) {
        spare::give(B::into_numbers(tensor));
    }
}

/// What a layer read, as the kernels want it.
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
        /// V and D.
        embedding: [usize; 2],
        distinct: Distinct,
        /// Their vectors.
        rows: Vec<f32>,
        weight: FloatTensor<B>,
        bias: FloatTensor<B>,
    },
}

impl<B: CpuTensors> KeptInput<B> {
    fn new(input: LayerInput<B>) -> Self {
        match input {
            LayerInput::Products(products) => Self::Products(products),
            LayerInput::Dense { x, weight, bias } => Self::Dense { x, weight, bias },
            LayerInput::Tokens { tokens, embedding, weight, bias } => {
                let extent = TensorMetadata::shape(&tokens).dims();
                let [vocabulary, width] = B::shape(&embedding);
                let distinct = Distinct::new(&B::tokens(&tokens), vocabulary);
                let rows = distinct.rows_of(&B::numbers(&embedding), width);
                Self::Tokens {
                    extent,
                    embedding: [vocabulary, width],
                    distinct,
                    rows,
                    weight,
                    bias,
                }
            }
        }
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
            Self::Tokens { distinct, rows, weight, bias, .. } => read(Input::Tokens {
                distinct,
                rows,
                weight: &B::numbers(weight),
                bias: &B::numbers(bias),
            }),
        }
    }
}

/// What a layer's way back needs of the way forward.
struct KeptLayer<B: CpuTensors> {
    dimensions: Dimensions,
    input: KeptInput<B>,
    recurrence: Recurrence<B>,
    saved: Saved,
    outputs: FloatTensor<B>,
}

impl<B: CpuTensors> KeptLayer<B> {
    /// In the order of [`WayBack`].
    fn gradients(
        self,
        grad_outputs: &FloatTensor<B>,
        grad_c: Option<&FloatTensor<B>>,
    ) -> Vec<FloatTensor<B>> {
        let Self { dimensions, input, recurrence, saved, outputs } = self;
        let Recurrence { weight, h, c, .. } = &recurrence;
        let grad_c = grad_c.map(B::numbers);
        let gradients = input.read(|input| {
            let arguments = Arguments {
                input,
                weight: &B::numbers(weight),
                h: &B::numbers(h),
                c: &B::numbers(c),
                outputs: &B::numbers(&outputs),
                grad_outputs: &B::numbers(grad_outputs),
                grad_c: grad_c.as_deref(),
            };
            sequence::backward(dimensions, arguments, saved)
        });
        let like = |numbers: Vec<f32>, tensor: &FloatTensor<B>| {
            B::tensor(numbers, TensorMetadata::shape(tensor))
        };
        let mut results = match (&input, gradients.input) {
            (KeptInput::Products(products), InputGradients::Products(grad)) => {
                vec![like(grad, products)]
            }
            (
                KeptInput::Dense { x, weight, bias },
                InputGradients::Dense { x: of_x, weight: of_weight, bias: of_bias },
            ) => vec![like(of_x, x), like(of_weight, weight), like(of_bias, bias)],
            (
                KeptInput::Tokens { distinct, embedding, weight, bias, .. },
                InputGradients::Dense { x: of_rows, weight: of_weight, bias: of_bias },
            ) => {
                let of_embedding = distinct.scattered(&of_rows, embedding.iter().product());
                spare::give(of_rows);
                let of_embedding = B::tensor(of_embedding, *embedding);
                vec![of_embedding, like(of_weight, weight), like(of_bias, bias)]
            }
            _ => unreachable!("the gradients are of the kind of the input"),
        };
        let of_weight = like(gradients.weight, weight);
        results.extend([of_weight, like(gradients.h, h), like(gradients.c, c)]);
        results
    }
}
