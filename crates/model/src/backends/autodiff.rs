//! The operations as nodes of the autodiff graph, on any backend that has the [`Kernels`].

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{AutodiffBackend, TensorMetadata};
use burn_autodiff::Autodiff;
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};

use super::{Kernels, LayerInput, Recurrence, WayBack};
use crate::AdamWStep;
use crate::ops::LstmOps;

impl<B: Kernels, C: CheckpointStrategy> LstmOps for Autodiff<B, C> {
    fn lstm_sequence(
        products: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
        half: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let tensors = [products, weight, h, c];
        let parents = tensors.clone();
        let [products, weight, h, c] = tensors.map(|tensor| tensor.into_primitive());
        track_layer::<B, C, 4>(
            parents,
            LayerInput::Products(products),
            Recurrence { weight, h, c, half },
        )
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
        let tensors = [input, weight_input, bias, weight_recurrent, h, c];
        let parents = tensors.clone();
        let [x, weight_input, bias, weight, h, c] = tensors.map(|tensor| tensor.into_primitive());
        let input = LayerInput::Dense { x, weight: weight_input, bias };
        track_layer::<B, C, 6>(parents, input, Recurrence { weight, h, c, half })
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
        let tensors = [embedding, weight_input, bias, weight_recurrent, h, c];
        let parents = tensors.clone();
        let [embedding, weight_input, bias, weight, h, c] =
            tensors.map(|tensor| tensor.into_primitive());
        let input = LayerInput::Tokens { tokens, embedding, weight: weight_input, bias };
        track_layer::<B, C, 6>(parents, input, Recurrence { weight, h, c, half })
    }

    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let parents = [input.node(), weight.node(), bias.node()];
        let [input, weight, bias] = [input, weight, bias].map(|tensor| tensor.into_primitive());
        match Linear.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let output = <B as Kernels>::linear(input.clone(), weight.clone(), bias);
                prep.finish((input, weight), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(<B as Kernels>::linear(input, weight, bias)),
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
        let compute = |with_gradients| {
            <B as Kernels>::linear_cross_entropy(input, weight, bias, targets, with_gradients)
        };
        match LinearCrossEntropy.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (loss, gradients) = compute(true);
                prep.finish(gradients.expect("they were asked for"), loss)
            }
            OpsKind::UnTracked(prep) => prep.finish(compute(false).0),
        }
    }

    fn sum_of_squares(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let parents = [tensor.node()];
        let numbers = tensor.into_primitive();
        match SumOfSquares.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(numbers.clone(), <B as Kernels>::sum_of_squares(numbers))
            }
            OpsKind::UnTracked(prep) => prep.finish(<B as Kernels>::sum_of_squares(numbers)),
        }
    }

    /// For averages of weights, outside the graph.
    fn lerp(from: FloatTensor<Self>, to: FloatTensor<Self>, share: f32) -> FloatTensor<Self> {
        let moved = <B as Kernels>::lerp(from.into_primitive(), to.into_primitive(), share);
        <Self as AutodiffBackend>::from_inner(moved)
    }

    /// Outside the graph too.
    fn adapt(
        weights: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rates: FloatTensor<Self>,
        trained: FloatTensor<Self>,
        pull: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let forces = [gradient, rates, trained, pull].map(|tensor| tensor.into_primitive());
        let moved = <B as Kernels>::adapt(weights.into_primitive(), forces);
        <Self as AutodiffBackend>::from_inner(moved)
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
        let (parameter, moments) =
            <B as Kernels>::adamw(step, parameter, gradient, [moment_1, moment_2]);
        let [moment_1, moment_2] = moments.map(<Self as AutodiffBackend>::from_inner);
        (<Self as AutodiffBackend>::from_inner(parameter), moment_1, moment_2)
    }
}

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

/// A layer forward, as a node whose parents are these tensors: its outputs and, as a node that
/// hangs on them, its last cell state.
fn track_layer<B: Kernels, C: CheckpointStrategy, const N: usize>(
    parents: [Tracked<B, C>; N],
    input: LayerInput<B>,
    recurrence: Recurrence<B>,
) -> (Tracked<B, C>, Tracked<B, C>) {
    let parents = parents.map(|parent| parent.node());
    match LstmLayer.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let layer = B::layer(input, recurrence, true);
            let grad_c = LastCellGradient::<B>::default();
            let for_shape = layer.outputs.clone();
            let back = layer.back.expect("it was asked for");
            let outputs = prep.finish((back, grad_c.clone()), layer.outputs);
            match LastCell.prepare::<C>([outputs.node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    let c = prep.finish((grad_c, for_shape), layer.c);
                    (outputs, c)
                }
                OpsKind::UnTracked(_) => unreachable!("the outputs are tracked"),
            }
        }
        OpsKind::UnTracked(prep) => {
            let layer = B::layer(input, recurrence, false);
            let outputs = prep.finish(layer.outputs);
            (outputs, <Autodiff<B, C> as AutodiffBackend>::from_inner(layer.c))
        }
    }
}

/// Back-propagation through time. The parents are what was read, then the recurrent weight and
/// the initial state.
#[derive(Debug)]
struct LstmLayer;

impl<B: Kernels, const N: usize> Backward<B, N> for LstmLayer {
    type State = (WayBack<B>, LastCellGradient<B>);

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        let grad = grads.consume::<B>(&ops.node);
        let (back, grad_c) = ops.state;
        for (parent, gradient) in parents.into_iter().zip(back.go(grad, grad_c.take())) {
            register::<B>(grads, parent, || gradient);
        }
    }
}

/// A node has one output; a layer's outputs are that, without any copy. Its last cell state is a
/// node of its own behind it, whose gradient takes this way around the graph.
#[derive(Debug)]
struct LastCell;

/// From [`LastCell`], which the graph goes back through first, to its [`LstmLayer`].
#[derive(Clone, Debug)]
struct LastCellGradient<B: Kernels>(Arc<Mutex<Option<FloatTensor<B>>>>);

impl<B: Kernels> Default for LastCellGradient<B> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<B: Kernels> LastCellGradient<B> {
    fn take(&self) -> Option<FloatTensor<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, gradient: FloatTensor<B>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
    }
}

impl<B: Kernels> Backward<B, 1> for LastCell {
    /// And the outputs, for their shape.
    type State = (LastCellGradient<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [parent] = ops.parents.map(|parent| parent.map(|node| node.id));
        let (to, outputs) = ops.state;
        to.put(grads.consume::<B>(&ops.node));
        // The graph goes back through a node only if it has a gradient.
        register::<B>(grads, parent, || {
            let dtype = outputs.dtype().into();
            B::float_zeros(outputs.shape(), &outputs.device(), dtype)
        });
    }
}

/// Keeps input and weight.
#[derive(Debug)]
struct Linear;

impl<B: Kernels> Backward<B, 3> for Linear {
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
        for (parent, gradient) in parents.into_iter().zip(B::linear_back(input, weight, grad)) {
            register::<B>(grads, parent, || gradient);
        }
    }
}

/// Keeps the gradients for a loss that counts once; they were formed on the way.
#[derive(Debug)]
struct LinearCrossEntropy;

impl<B: Kernels> Backward<B, 3> for LinearCrossEntropy {
    type State = [FloatTensor<B>; 3];

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        let grad = grads.consume::<B>(&ops.node);
        for (parent, gradient) in parents.into_iter().zip(ops.state) {
            register::<B>(grads, parent, || B::scaled(gradient, &grad));
        }
    }
}

/// Keeps what was squared.
#[derive(Debug)]
struct SumOfSquares;

impl<B: Kernels> Backward<B, 1> for SumOfSquares {
    type State = FloatTensor<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [parent] = ops.parents.map(|parent| parent.map(|node| node.id));
        let twice = B::float_mul_scalar(grads.consume::<B>(&ops.node), 2.0.into());
        register::<B>(grads, parent, || B::scaled(ops.state, &twice));
    }
}

/// Adds to the gradient of a parent that wants one.
fn register<B: Kernels>(
    grads: &mut Gradients,
    parent: Option<NodeId>,
    gradient: impl FnOnce() -> FloatTensor<B>,
) {
    if let Some(parent) = parent {
        grads.register::<B>(parent, gradient());
    }
}
