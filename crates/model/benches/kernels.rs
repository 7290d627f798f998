//! How long the operations take: `cargo bench -p poquelin-model`.
//!
//! `poquelin bench` measures whole steps and sets them beside Burn's own LSTM.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use poquelin_model::{AdamWStep, CharLstm, CharLstmConfig, Decoder, LstmConfig, Seed};

const STEPS: usize = 100;
const VOCABULARY: usize = 76;
/// B and H.
const SHAPES: [(usize, usize); 4] = [(1, 128), (32, 128), (8, 256), (64, 512)];

fn main() {
    divan::main();
}

fn device() -> Device {
    #[cfg(feature = "ndarray")]
    return poquelin_model::devices::ndarray();
    #[cfg(all(feature = "flex", not(feature = "ndarray")))]
    return poquelin_model::devices::flex();
    #[cfg(not(any(feature = "ndarray", feature = "flex")))]
    panic!("the kernels need a CPU backend: add the feature ndarray or flex");
}

fn network(hidden: usize, device: &Device) -> CharLstm {
    CharLstmConfig::new(VOCABULARY, hidden).init(Seed::new(0), device)
}

fn tokens(batch: usize, device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..batch * STEPS).map(|k| (k * 7919 % VOCABULARY) as i32).collect();
    Tensor::from_data(TensorData::new(ids, [batch, STEPS]), device)
}

#[divan::bench(args = SHAPES)]
fn layer_forward(bencher: Bencher<'_, '_>, (batch, hidden): (usize, usize)) {
    let device = device();
    let lstm = LstmConfig::new(hidden, hidden).init(Seed::new(0), &device);
    let input = Tensor::<3>::ones([batch, STEPS, hidden], &device);
    bencher
        .counter(ItemsCount::new(batch * STEPS))
        .bench_local(|| black_box(lstm.forward(input.clone(), None)));
}

#[divan::bench(args = SHAPES)]
fn loss_and_gradients(bencher: Bencher<'_, '_>, (batch, hidden): (usize, usize)) {
    let device = device().autodiff();
    let (network, tokens) = (network(hidden, &device), tokens(batch, &device));
    bencher.counter(ItemsCount::new(batch * STEPS)).bench_local(|| {
        let (loss, _) = network.loss(tokens.clone(), tokens.clone(), None, None);
        black_box(loss.backward())
    });
}

#[divan::bench(args = SHAPES)]
fn loss_alone(bencher: Bencher<'_, '_>, (batch, hidden): (usize, usize)) {
    let device = device();
    let (network, tokens) = (network(hidden, &device), tokens(batch, &device));
    bencher
        .counter(ItemsCount::new(batch * STEPS))
        .bench_local(|| black_box(network.loss(tokens.clone(), tokens.clone(), None, None)));
}

#[divan::bench(args = [128, 512])]
fn adamw(bencher: Bencher<'_, '_>, hidden: usize) {
    let device = device();
    let count = network(hidden, &device).num_params();
    let numbers = || Tensor::<1>::ones([count], &device);
    let (mut weights, gradient) = (numbers(), numbers());
    let mut moments = [numbers(), numbers()];
    let (learning_rate, weight_decay) = (1e-3, 0.01);
    let step = AdamWStep {
        learning_rate,
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay,
        time: 1,
    };
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        let previous = [Tensor::zeros([1], &device), Tensor::zeros([1], &device)];
        let previous = std::mem::replace(&mut moments, previous);
        (weights, moments) = step.apply(weights.clone(), gradient.clone(), previous);
    });
}

#[divan::bench(args = [(1, 128), (1, 512), (64, 512)])]
fn decoder(bencher: Bencher<'_, '_>, (lanes, hidden): (usize, usize)) {
    let mut decoder = Decoder::new(&network(hidden, &device()), lanes);
    let tokens: Vec<u32> = (0..lanes).map(|lane| (lane % VOCABULARY) as u32).collect();
    bencher.counter(ItemsCount::new(lanes)).bench_local(|| {
        black_box(decoder.step(&tokens));
    });
}
