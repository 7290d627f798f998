//! The operations as nodes of the autodiff graph.

use burn::backend::TensorMetadata;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_autodiff::{Autodiff, NodeId};

use super::{CpuTensors, KeptInput, run_layer, run_linear};
use crate::AdamWStep;
use crate::kernels::sequence::{self, Arguments, Dimensions, InputGradients, Saved};
use crate::kernels::{cross_entropy, linear, tokens};
use crate::ops::LstmOps;

impl<B: CpuTensors, C: CheckpointStrategy> LstmOps for Autodiff<B, C> {
    fn lstm_sequence(
        products: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let tensors = [products, weight, h, c];
        let parents = tensors.clone();
        let [products, weight, h, c] = tensors.map(|tensor| tensor.into_primitive());
        track_layer::<B, C, 4>(parents, KeptInput::Products(products), weight, h, c)
    }

    fn lstm_layer(
        input: FloatTensor<Self>,
        weight_input: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        weight_recurrent: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let tensors = [input, weight_input, bias, weight_recurrent, h, c];
        let parents = tensors.clone();
        let [x, weight_input, bias, weight, h, c] = tensors.map(|tensor| tensor.into_primitive());
        let input = KeptInput::<B>::Dense { x, weight: weight_input, bias };
        track_layer::<B, C, 6>(parents, input, weight, h, c)
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
        let tensors = [embedding, weight_input, bias, weight_recurrent, h, c];
        let parents = tensors.clone();
        let [embedding, weight_input, bias, weight, h, c] =
            tensors.map(|tensor| tensor.into_primitive());
        let input = KeptInput::<B>::tokens(&tokens, embedding, weight_input, &bias);
        track_layer::<B, C, 6>(parents, input, weight, h, c)
    }

    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let parents = [input.node(), weight.node(), bias.node()];
        let [input, weight, bias] = [input, weight, bias].map(|tensor| tensor.into_primitive());
        let output = run_linear::<B>(&input, &weight, &bias);
        match Linear.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((input, weight), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn linear_cross_entropy(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let parents = [input.node(), weight.node(), bias.node()];
        let [input, weight, bias] = [input, weight, bias].map(|tensor| tensor.into_primitive());
        match LinearCrossEntropy.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (loss, gradients) =
                    cross_entropy::loss_and_gradients(cross_entropy::Arguments {
                        input: &B::numbers(&input),
                        weight: &B::numbers(&weight),
                        bias: &B::numbers(&bias),
                        targets: &B::tokens(&targets),
                    });
                let [rows, hidden] = B::shape(&input);
                let [vocabulary] = B::shape(&bias);
                let gradients = [
                    B::tensor(gradients.input, [rows, hidden]),
                    B::tensor(gradients.weight, [hidden, vocabulary]),
                    B::tensor(gradients.bias, [vocabulary]),
                ];
                prep.finish(gradients, B::tensor(vec![loss], [1]))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::linear_cross_entropy(input, weight, bias, targets))
            }
        }
    }

    /// Optimizers work outside the graph: this is a step of the numbers, without a history.
    fn adamw(
        step: AdamWStep,
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [parameter, gradient, moment_1, moment_2] =
            [parameter, gradient, moment_1, moment_2].map(|tensor| tensor.into_primitive());
        let (parameter, moment_1, moment_2) =
            B::adamw(step, parameter, gradient, moment_1, moment_2);
        let constant = |tensor| <Self as burn::backend::AutodiffBackend>::from_inner(tensor);
        (constant(parameter), constant(moment_1), constant(moment_2))
    }
}

/// A layer forward, as a node whose parents are these tensors.
fn track_layer<B: CpuTensors, C: CheckpointStrategy, const N: usize>(
    parents: [FloatTensor<Autodiff<B, C>>; N],
    input: KeptInput<B>,
    weight: FloatTensor<B>,
    h: FloatTensor<B>,
    c: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    let (kept, outputs) = KeptLayer::run(input, weight, h, c);
    let parents = parents.map(|parent| parent.node());
    match LstmLayer.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(kept, outputs),
        OpsKind::UnTracked(prep) => prep.finish(outputs),
    }
}

/// Back-propagation through time. The parents are what was read, then the recurrent weight and
/// the initial state.
#[derive(Debug)]
struct LstmLayer;

/// What it needs of the forward pass.
#[derive(Clone, Debug)]
struct KeptLayer<B: CpuTensors> {
    dimensions: Dimensions,
    input: KeptInput<B>,
    saved: Saved,
    outputs: FloatTensor<B>,
    weight: FloatTensor<B>,
    h: FloatTensor<B>,
    c: FloatTensor<B>,
}

impl<B: CpuTensors> KeptLayer<B> {
    /// The forward pass.
    fn run(
        input: KeptInput<B>,
        weight: FloatTensor<B>,
        h: FloatTensor<B>,
        c: FloatTensor<B>,
    ) -> (Self, FloatTensor<B>) {
        let (outputs, input, dimensions, saved) = run_layer::<B>(input, &weight, &h, &c);
        (Self { dimensions, input, saved, outputs: outputs.clone(), weight, h, c }, outputs)
    }

    /// The gradients in the order of the parents.
    fn gradients(self, grad: &FloatTensor<B>) -> Vec<FloatTensor<B>> {
        let Self { dimensions, input, saved, outputs, weight, h, c } = self;
        let gradients = input.read(|input| {
            let (weight, h, c) = (&B::numbers(&weight), &B::numbers(&h), &B::numbers(&c));
            let (outputs, grad) = (&B::numbers(&outputs), &B::numbers(grad));
            sequence::backward(dimensions, Arguments { input, weight, h, c, outputs, grad }, saved)
        });
        let like = |numbers: Vec<f32>, tensor: &FloatTensor<B>| {
            B::tensor(numbers, TensorMetadata::shape(tensor))
        };
        let width = 4 * dimensions.hidden;
        let mut results = match (&input, gradients.input) {
            (KeptInput::Products(products), InputGradients::Products(grad)) => {
                vec![like(grad, products)]
            }
            (
                KeptInput::Dense { x, weight, bias },
                InputGradients::Dense { x: of_x, weight: of_weight, bias: of_bias },
            ) => vec![like(of_x, x), like(of_weight, weight), like(of_bias, bias)],
            (
                KeptInput::Tokens { distinct, embedding, weight, .. },
                InputGradients::Tokens(table),
            ) => {
                let numbers = (B::numbers(embedding), B::numbers(weight));
                let gradients = tokens::backward(distinct, &numbers.0, &numbers.1, &table);
                let of_bias = B::tensor(gradients.bias, [width]);
                vec![like(gradients.embedding, embedding), like(gradients.weight, weight), of_bias]
            }
            _ => unreachable!("the gradients are of the kind of the input"),
        };
        let of_weight = like(gradients.weight, &weight);
        results.extend([of_weight, like(gradients.h, &h), like(gradients.c, &c)]);
        results
    }
}

impl<B: CpuTensors, const N: usize> Backward<B, N> for LstmLayer {
    type State = KeptLayer<B>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        let grad = grads.consume::<B>(&ops.node);
        for (parent, gradient) in parents.into_iter().zip(ops.state.gradients(&grad)) {
            register::<B>(grads, parent, || gradient);
        }
    }
}

/// Keeps input and weight.
#[derive(Debug)]
struct Linear;

impl<B: CpuTensors> Backward<B, 3> for Linear {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        let grad = grads.consume::<B>(&ops.node);
        let (input, weight) = ops.state;
        let ([rows, d_input], [_, width]) = (B::shape(&input), B::shape(&weight));
        let grad = B::numbers(&grad);
        let [of_input, of_weight, of_bias] = parents;
        register::<B>(grads, of_input, || {
            let weight = B::numbers(&weight);
            B::tensor(linear::grad_input(&weight, &grad, width), [rows, d_input])
        });
        register::<B>(grads, of_weight, || {
            let input = B::numbers(&input);
            B::tensor(linear::grad_weight(&input, &grad, width), [d_input, width])
        });
        register::<B>(grads, of_bias, || B::tensor(linear::grad_bias(&grad, width), [width]));
    }
}

/// Keeps the gradients for a loss that counts once; they were formed on the way.
#[derive(Debug)]
struct LinearCrossEntropy;

impl<B: CpuTensors> Backward<B, 3> for LinearCrossEntropy {
    type State = [FloatTensor<B>; 3];

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        let grad = grads.consume::<B>(&ops.node);
        let factor = B::numbers(&grad)[0];
        for (parent, gradient) in parents.into_iter().zip(ops.state) {
            register::<B>(grads, parent, || match factor == 1.0 {
                true => gradient,
                false => B::float_mul_scalar(gradient, factor.into()),
            });
        }
    }
}

/// Adds to the gradient of a parent that wants one.
fn register<B: CpuTensors>(
    grads: &mut Gradients,
    parent: Option<NodeId>,
    gradient: impl FnOnce() -> FloatTensor<B>,
) {
    if let Some(parent) = parent {
        grads.register::<B>(parent, gradient());
    }
}
