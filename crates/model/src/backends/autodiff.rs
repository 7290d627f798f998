//! The operation as one node of the autodiff graph.

use burn::backend::tensor::FloatTensor;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};

use super::{CpuTensors, run_backward, run_forward};
use crate::kernels::{Dimensions, Saved};
use crate::ops::LstmOps;

impl<B: CpuTensors, C: CheckpointStrategy> LstmOps for Autodiff<B, C> {
    fn lstm_sequence(
        products: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let parents = [products.node(), weight.node(), h.node(), c.node()];
        let [products, weight, h, c] =
            [products, weight, h, c].map(|tensor| tensor.into_primitive());
        let (outputs, dimensions, saved) = run_forward::<B>(&products, &weight, &h, &c);
        match LstmSequence.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = Kept { dimensions, saved, outputs: outputs.clone(), weight, h, c };
                prep.finish(state, outputs)
            }
            OpsKind::UnTracked(prep) => prep.finish(outputs),
        }
    }
}

/// Back-propagation through time.
#[derive(Debug)]
struct LstmSequence;

/// What it needs of the forward pass.
#[derive(Clone, Debug)]
struct Kept<T> {
    dimensions: Dimensions,
    saved: Saved,
    outputs: T,
    weight: T,
    h: T,
    c: T,
}

impl<B: CpuTensors> Backward<B, 4> for LstmSequence {
    type State = Kept<FloatTensor<B>>;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let Kept { dimensions, saved, outputs, weight, h, c } = ops.state;
        let results = run_backward::<B>(dimensions, saved, &outputs, &weight, &h, &c, &grad);
        for (parent, gradient) in ops.parents.into_iter().zip(results) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}
