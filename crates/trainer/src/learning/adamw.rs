//! AdamW in Burn's optimizer interface, each parameter in one pass.

use burn::optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor, TensorData};
use burn_pack::Scalar;
use poquelin_model::AdamWStep;

use crate::weights;

/// The fields of a parameter's state in Burn's record.
pub(super) const MOMENTS: [&str; 2] = ["moment_1", "moment_2"];
pub(super) const TIME: &str = "time";

/// The AdamW optimizer; its equations stand at [`AdamWStep`].
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// β₁.
    pub beta_1: f32,
    /// β₂.
    pub beta_2: f32,
    /// ε.
    pub epsilon: f32,
    /// λ.
    pub weight_decay: f32,
    /// Whether vectors decay too, as in PyTorch, or only matrices.
    pub decay_vectors: bool,
}

/// What AdamW has gathered of a parameter.
#[derive(Clone, Debug)]
pub struct AdamWState<const D: usize> {
    /// The steps it has taken.
    time: u64,
    moments: Moments<D>,
}

/// The moments of a parameter. Read from a record they wait for the first step, which knows their
/// device: Burn would lay them on its default device, which a run on another must not need.
#[derive(Clone, Debug)]
enum Moments<const D: usize> {
    Waiting([TensorData; 2]),
    Placed(Box<[Tensor<D>; 2]>),
}

impl<const D: usize> Moments<D> {
    /// The moments where they are, or else on `device`.
    fn placed(self, device: &Device) -> Box<[Tensor<D>; 2]> {
        match self {
            Self::Waiting(moments) => Box::new(moments.map(|data| Tensor::from_data(data, device))),
            Self::Placed(moments) => moments,
        }
    }
}

impl<const D: usize> AdamWState<D> {
    /// The steps that the parameter has taken.
    pub(super) fn time(&self) -> u64 {
        self.time
    }

    /// The moments, read from their device.
    pub(super) fn into_data(self) -> [TensorData; 2] {
        match self.moments {
            Moments::Waiting(moments) => moments,
            Moments::Placed(moments) => moments.map(weights::read),
        }
    }
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let Self { beta_1, beta_2, epsilon, .. } = *self;
        let decays = D > 1 || self.decay_vectors;
        let weight_decay = if decays { self.weight_decay } else { 0.0 };
        let (time, moments) = match state {
            Some(AdamWState { time, moments }) => (time, *moments.placed(&tensor.device())),
            None => (0, [tensor.zeros_like(), tensor.zeros_like()]),
        };
        let time = time + 1;
        let count = usize::try_from(time).expect("a run takes fewer steps than memory has bytes");
        let step = AdamWStep { learning_rate, beta_1, beta_2, epsilon, weight_decay, time: count };
        let (tensor, moments) = step.apply(tensor, grad, moments);
        (tensor, Some(AdamWState { time, moments: Moments::Placed(Box::new(moments)) }))
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        let moments = state.moments.placed(device).map(|tensor| tensor.to_device(device));
        AdamWState { moments: Moments::Placed(Box::new(moments)), ..state }
    }
}

impl<const D: usize> RecordState for AdamWState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        for (name, data) in MOMENTS.into_iter().zip(self.clone().into_data()) {
            out.push_tensor(prefix, name, data);
        }
        out.push_scalar(prefix, TIME, Scalar::from(self.time));
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, _default: &Device) -> Option<Self> {
        let time = u64::try_from(source.take_scalar(prefix, TIME)?).ok()?;
        let [first, second] = MOMENTS.map(|name| source.take_tensor(prefix, name));
        Some(Self { time, moments: Moments::Waiting([first?, second?]) })
    }
}
