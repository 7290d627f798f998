use std::collections::HashMap;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use poquelin_model::{Implementation, Lstm, LstmCell, LstmConfig, LstmState, Seed};
use serde::Deserialize;

use crate::support::{cosines, devices, relative_error, tensor, values};

/// A case of `tests/reference/lstm.json`, printed by `tests/reference/lstm.py`.
#[derive(Deserialize)]
struct Case {
    name: String,
    layers: usize,
    batch: usize,
    steps: usize,
    d_input: usize,
    d_hidden: usize,
    bias: bool,
    with_state: bool,
    values: HashMap<String, Vec<f32>>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../reference/lstm.json")).unwrap()
}

/// What a run of a case gives, under PyTorch's names and in its layout.
type Results = HashMap<String, Vec<f32>>;

/// PyTorch's `[4H, D]` as our `[D, 4H]`, and back.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    (0..values.len()).map(|i| values[(i % rows) * columns + i / rows]).collect()
}

const IMPLEMENTATIONS: [Implementation; 2] = [Implementation::Fused, Implementation::Reference];

struct Arrays(usize);

impl Arrays {
    fn next(&mut self, count: usize, scale: f64) -> Vec<f32> {
        self.0 += 1;
        cosines(self.0 - 1, count, scale)
    }
}

fn run(case: &Case, implementation: Implementation, device: &Device) -> Results {
    let Case { layers, batch, steps, d_input, d_hidden, .. } = *case;
    let width = 4 * d_hidden;
    let mut arrays = Arrays(0);
    let mut lstm = LstmConfig::new(d_input, d_hidden)
        .with_layers(layers)
        .with_bias(case.bias)
        .with_implementation(implementation)
        .init(Seed::new(0), device);
    for (index, layer) in lstm.layers.iter_mut().enumerate() {
        let rows = if index == 0 { d_input } else { d_hidden };
        let weight_ih = tensor(arrays.next(rows * width, 0.5), [width, rows], device);
        let weight_hh = tensor(arrays.next(d_hidden * width, 0.5), [width, d_hidden], device);
        let mut bias = || tensor(arrays.next(width, 0.5), [width], device);
        let biases = case.bias.then(|| [bias(), bias()]);
        *layer = LstmCell::from_pytorch(weight_ih, weight_hh, biases);
    }
    let mut leaf = |shape: [usize; 3], scale| {
        let numbers = arrays.next(shape.iter().product(), scale);
        tensor(numbers, shape, device).require_grad()
    };
    let x = leaf([batch, steps, d_input], 1.0);
    let h0 = leaf([layers, batch, d_hidden], 0.7);
    let c0 = leaf([layers, batch, d_hidden], 0.7);
    let state = case.with_state.then(|| LstmState::from_tensors(h0.clone(), c0.clone()));

    let (output, state) = lstm.forward(x.clone(), state);
    let (h, c) = (state.h(), state.c());
    let mut weighted = |tensor_: &Tensor<3>| {
        let shape = tensor_.dims();
        let numbers = arrays.next(shape.iter().product(), 1.0);
        (tensor_.clone() * tensor(numbers, shape, device)).sum()
    };
    let loss = weighted(&output) + weighted(&h) + weighted(&c);
    let gradients = loss.backward();

    let mut results = Results::new();
    let mut put = |name: String, numbers: Vec<f32>| results.insert(name, numbers);
    put("output".into(), values(output));
    put("h".into(), values(h));
    put("c".into(), values(c));
    put("grad.x".into(), values(x.grad(&gradients).unwrap()));
    if case.with_state {
        put("grad.h0".into(), values(h0.grad(&gradients).unwrap()));
        put("grad.c0".into(), values(c0.grad(&gradients).unwrap()));
    }
    parameter_gradients(&lstm, &gradients, &mut put);
    results
}

fn parameter_gradients(
    lstm: &Lstm,
    gradients: &burn::tensor::Gradients,
    put: &mut impl FnMut(String, Vec<f32>) -> Option<Vec<f32>>,
) {
    for (index, layer) in lstm.layers.iter().enumerate() {
        let mut weight = |name: &str, weight: &Param<Tensor<2>>| {
            let gradient = weight.val().grad(gradients).unwrap();
            let rows = gradient.dims()[0];
            put(format!("grad.{name}_l{index}"), transposed(&values(gradient), rows));
        };
        weight("weight_ih", &layer.weight_input);
        weight("weight_hh", &layer.weight_recurrent);
        for (name, bias) in [("bias_ih", &layer.bias_input), ("bias_hh", &layer.bias_recurrent)] {
            if let Some(bias) = bias {
                let gradient = bias.val().grad(gradients).unwrap();
                put(format!("grad.{name}_l{index}"), values(gradient));
            }
        }
    }
}

fn assert_parity(name: &str, device: &Device) {
    for (case, implementation) in
        cases().iter().flat_map(|case| IMPLEMENTATIONS.map(|implementation| (case, implementation)))
    {
        let results = run(case, implementation, device);
        assert_eq!(results.len(), case.values.len(), "{}: what is compared", case.name);
        for (value, expected) in &case.values {
            let error = relative_error(&results[value], expected);
            // Single against double precision, over at most 40 steps.
            let bound = if value.starts_with("grad") { 1e-4 } else { 1e-5 };
            let name = format!("{name}, {implementation:?}, {}", case.name);
            assert!(error <= bound, "{name}, {value}: {error:e}");
        }
    }
}

#[test]
fn outputs_states_and_gradients_are_pytorchs() {
    for (name, device) in devices() {
        assert_parity(name, &device.autodiff());
    }
}

#[test]
fn gradient_checkpointing_changes_nothing() {
    for (name, device) in devices() {
        assert_parity(name, &device.autodiff().gradient_checkpointing());
    }
}
