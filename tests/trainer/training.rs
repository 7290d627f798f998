use burn::module::Param;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_train::TrainStep;
use poquelin::device::DeviceChoice;
use poquelin::learning::adamw::AdamW;
use poquelin::learning::clipping::clip;
use poquelin::learning::model::{LanguageModel, Step};
use poquelin_data::TokenBatch;
use poquelin_model::{CharLstm, CharLstmConfig, Seed};
use serde_json::Value;

use crate::program::CPU;

const V: usize = 11;
const E: usize = 6;
const H: usize = 8;
const B: usize = 3;
const T: usize = 10;

fn device() -> Device {
    CPU.parse::<DeviceChoice>().unwrap().open().unwrap().autodiff()
}

/// The parameters of `tests/reference/notebook_steps.py`: the n-th by its formula, in PyTorch's
/// order and shape.
fn array(n: usize, count: usize) -> Vec<f32> {
    let n = n as f64;
    (0..count).map(|k| (0.3 * (k as f64 * (1.0 + n / 7.0) + n).cos()) as f32).collect()
}

fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    (0..values.len()).map(|i| values[(i % rows) * columns + i / rows]).collect()
}

fn network(device: &Device) -> CharLstm {
    let config = CharLstmConfig::new(V, H).with_d_embedding(Some(E)).with_layers(2);
    let mut network = config.init(Seed::new(0), device);
    let set = |param: &mut Param<Tensor<2>>, values: Vec<f32>, shape: [usize; 2]| {
        let tensor = Tensor::from_data(TensorData::new(values, shape), device);
        *param = Param::initialized(param.id, tensor.require_grad());
    };
    let set_bias = |param: &mut Param<Tensor<1>>, values: Vec<f32>| {
        let length = values.len();
        let tensor = Tensor::from_data(TensorData::new(values, [length]), device);
        *param = Param::initialized(param.id, tensor.require_grad());
    };
    set(&mut network.embedding, array(0, V * E), [V, E]);
    let mut n = 1;
    for layer in &mut network.lstm.layers {
        let rows = layer.d_input();
        set(&mut layer.weight_input, transposed(&array(n, rows * 4 * H), 4 * H), [rows, 4 * H]);
        set(&mut layer.weight_recurrent, transposed(&array(n + 1, H * 4 * H), 4 * H), [H, 4 * H]);
        set_bias(layer.bias_input.as_mut().unwrap(), array(n + 2, 4 * H));
        set_bias(layer.bias_recurrent.as_mut().unwrap(), array(n + 3, 4 * H));
        n += 4;
    }
    set(network.head.as_mut().unwrap(), transposed(&array(n, V * H), V), [H, V]);
    set_bias(&mut network.head_bias, array(n + 1, V));
    network
}

/// Chunk `step` of the stream of `steps` chunks per lane.
fn batch(step: usize, steps: usize, device: &Device) -> TokenBatch {
    let tokens = |shift: usize| {
        let ids: Vec<i32> = (0..B)
            .flat_map(|lane| {
                let start = lane * steps * T + step * T + shift;
                (start..start + T).map(|k| ((k * k + 3 * k) % V) as i32)
            })
            .collect();
        Tensor::<2, Int>::from_data(TensorData::new(ids, [B, T]), device)
    };
    TokenBatch { inputs: tokens(0), targets: tokens(1), epoch: 0, chunk: step }
}

#[test]
fn losses_follow_pytorchs() {
    let expected: Value =
        serde_json::from_str(include_str!("../reference/notebook_steps.json")).unwrap();
    let expected: Vec<f64> =
        expected["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    let device = device();
    let mut model = LanguageModel { network: network(&device) };
    let adam_w = AdamW {
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        decay_vectors: true,
    };
    let mut optimizer = ModuleOptimizer::from(adam_w);
    let mut state = None;
    for (step, expected) in expected.iter().enumerate() {
        let batch = batch(step, 12, &device);
        let result = TrainStep::step(&model, Step { batch, state, seed: Seed::new(0) });
        let (loss, next) = result.item.tensors.unwrap();
        state = Some(next);
        let loss = f64::from(loss.into_scalar::<f32>());
        assert!((loss - expected).abs() < 1e-4, "step {step}: {loss}, PyTorch {expected}");
        model = model.optimize(&mut optimizer, 0.01.into(), result.grads);
    }
}

#[test]
fn clipping_is_by_the_global_norm_and_keeps_the_direction() {
    let device = device();
    let model = LanguageModel { network: network(&device) };
    let gradients = || -> GradientsParams {
        let step = Step { batch: batch(0, 12, &device), state: None, seed: Seed::new(0) };
        TrainStep::step(&model, step).grads
    };
    let read = |gradients: &GradientsParams| -> Vec<f32> {
        let weight = gradients.get::<2>(model.network.embedding.id).unwrap();
        let bias = gradients.get::<1>(model.network.head_bias.id).unwrap();
        [weight.into_data(), bias.into_data()]
            .into_iter()
            .flat_map(|data| data.try_into_vec::<f32>().unwrap())
            .collect()
    };
    let scalar = |norm: Tensor<1>| f64::from(norm.into_scalar::<f32>());
    let plain = read(&gradients());
    let (unclipped, norm) = clip(&model, gradients(), None);
    let norm = scalar(norm);
    assert_eq!(read(&unclipped), plain);
    let (same, _) = clip(&model, gradients(), Some(norm * 2.0));
    assert_eq!(read(&same), plain, "a norm below the limit changes nothing");

    let (clipped, reported) = clip(&model, gradients(), Some(norm / 4.0));
    assert!((scalar(reported) - norm).abs() < 1e-6, "the norm told is the one before");
    for (clipped, plain) in read(&clipped).iter().zip(&plain) {
        assert!((clipped - plain / 4.0).abs() < 1e-6);
    }
    let (_, after) = clip(&model, clipped, None);
    assert!((scalar(after) - norm / 4.0).abs() < 1e-4 * norm);
}
