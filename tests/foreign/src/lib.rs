//! A foreign Burn project that needs an LSTM: it predicts the next value of a wave.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use poquelin_model::{Lstm, LstmConfig, LstmState, Seed};

/// An LSTM with one number in and one number out.
#[derive(Module, Debug)]
pub struct WavePredictor {
    lstm: Lstm,
    readout: Param<Tensor<2>>,
}

impl WavePredictor {
    /// Draws the weights.
    pub fn new(d_hidden: usize, device: &Device) -> Self {
        let readout = vec![0.0_f32; d_hidden];
        Self {
            lstm: LstmConfig::new(1, d_hidden).init(Seed::new(1), device),
            readout: Param::from_data(TensorData::new(readout, [d_hidden, 1]), device),
        }
    }

    /// The prediction of the value behind each value, both `[B, T, 1]`.
    pub fn forward(&self, x: Tensor<3>, state: Option<LstmState>) -> (Tensor<3>, LstmState) {
        let (output, state) = self.lstm.forward(x, state);
        (output.matmul(self.readout.val().unsqueeze()), state)
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::{AdamConfig, GradientsParams};

    use super::*;

    const STEPS: usize = 48;

    fn wave(phase: f32, length: usize) -> Vec<f32> {
        (0..length).map(|step| (0.3 * step as f32 + phase).sin()).collect()
    }

    fn sequences(phases: &[f32], shift: usize, device: &Device) -> Tensor<3> {
        let values: Vec<f32> = phases
            .iter()
            .flat_map(|&phase| wave(phase, STEPS + 1)[shift..][..STEPS].to_vec())
            .collect();
        Tensor::from_data(TensorData::new(values, [phases.len(), STEPS, 1]), device)
    }

    #[test]
    fn it_learns_a_sine_wave_and_goes_on_with_it() {
        let device = poquelin_model::devices::flex().autodiff();
        let mut model = WavePredictor::new(24, &device);
        let mut optimizer = AdamConfig::new().init();
        let phases = [0.0, 0.8, 1.6, 2.4, 3.2, 4.0, 4.8, 5.6];
        let (x, y) = (sequences(&phases, 0, &device), sequences(&phases, 1, &device));
        for _ in 0..250 {
            let (predicted, _) = model.forward(x.clone(), None);
            let loss = (predicted - y.clone()).square().mean();
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(0.01, model, gradients);
        }

        // A phase it has not seen: read the wave, then go on from its own predictions.
        let device = device.inner();
        let model = model.valid();
        let phase = 0.4;
        let (predicted, mut state) = model.forward(sequences(&[phase], 0, &device), None);
        let mut last = predicted.narrow(1, STEPS - 1, 1);
        let mut error = 0.0_f32;
        for (ahead, expected) in wave(phase, STEPS + 20)[STEPS..].iter().enumerate() {
            let value: f32 = last.clone().into_scalar();
            error = error.max((value - expected).abs());
            assert!(error < 0.15, "{ahead} steps ahead: {value}, expected {expected}");
            (last, state) = model.forward(last, Some(state));
        }
    }
}
