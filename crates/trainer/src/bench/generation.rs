//! Writing one character after the other.

use std::hint::black_box;
use std::time::Duration;

use burn::nn::{EmbeddingConfig, LinearConfig, LstmConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use poquelin_model::{CharLstmConfig, Decoder, Implementation as Path, Seed, Writer};

use super::{Implementation, Row, VOCABULARY, median_time};
use crate::sampling::{Sampler, Sampling};

pub(super) fn measure(row: &Row, implementation: Implementation, device: &Device) -> Duration {
    let mut writer = Hand {
        sampler: Sampler::new(Sampling { temperature: 1.0, seed: Seed::new(0) }),
        tokens: row.tokens().into_iter().map(|token| token as u32).collect(),
        place: 0,
    };
    match implementation {
        Implementation::Fused => {
            let network = CharLstmConfig::new(VOCABULARY, row.hidden).init(Seed::new(0), device);
            let many_lanes = Writer::new(&network, row.batch, 1.0);
            if many_lanes.is_on_device() {
                return many(many_lanes, &writer.tokens[..1], device);
            }
            drop(many_lanes);
            let mut decoder = Decoder::new(&network, row.batch);
            median_time(device, || writer.choose(|tokens| decoder.step(tokens)))
        }
        Implementation::Reference => reference(row, writer, device),
        Implementation::BurnNn => burns(row, writer, device),
    }
}

/// The time of a step of a GPU that makes many before the host hears of them.
fn many(mut writer: Writer, tokens: &[u32], device: &Device) -> Duration {
    const STEPS: u32 = 256;
    let uniforms: Vec<f64> =
        (0..STEPS as usize * writer.lanes()).map(|k| (k as f64 * 0.618_034).fract()).collect();
    writer.read(tokens);
    median_time(device, || drop(black_box(writer.write(&uniforms)))) / STEPS
}

/// The latest token of every lane, and who chooses the next.
struct Hand {
    sampler: Sampler,
    tokens: Vec<u32>,
    place: usize,
}

impl Hand {
    /// Lets `read` score what may follow the latest tokens, and chooses.
    fn choose<'a>(&mut self, read: impl FnOnce(&[u32]) -> &'a [f32]) {
        let logits = read(&self.tokens);
        for (token, logits) in self.tokens.iter_mut().zip(logits.chunks_exact(VOCABULARY)) {
            *token = self.sampler.choose(logits, self.place);
            self.place += 1;
        }
    }

    fn step(&mut self, device: &Device, read: impl FnOnce(Tensor<2, Int>) -> Tensor<3>) {
        let ids: Vec<i32> = self.tokens.iter().map(|&token| token as i32).collect();
        let shape = [ids.len(), 1];
        let logits = read(Tensor::from_data(TensorData::new(ids, shape), device));
        let logits: Vec<f32> = logits.into_data().try_into_vec().expect("logits are float32");
        self.choose(|_| &logits);
    }
}

fn reference(row: &Row, mut writer: Hand, device: &Device) -> Duration {
    let mut network = CharLstmConfig::new(VOCABULARY, row.hidden).init(Seed::new(0), device);
    network.lstm.implementation = Path::Reference;
    let mut state = None;
    median_time(device, || {
        writer.step(device, |tokens| {
            let (logits, next) = network.forward(tokens, state.take());
            state = Some(next);
            logits
        });
    })
}

fn burns(row: &Row, mut writer: Hand, device: &Device) -> Duration {
    let embedding = EmbeddingConfig::new(VOCABULARY, row.hidden).init(device);
    let lstm = LstmConfig::new(row.hidden, row.hidden, true).init(device);
    let head = LinearConfig::new(row.hidden, VOCABULARY).init(device);
    let mut state = None;
    median_time(device, || {
        writer.step(device, |tokens| {
            let (output, next) = lstm.forward(embedding.forward(tokens), state.take());
            state = Some(next);
            head.forward(output)
        });
    })
}
