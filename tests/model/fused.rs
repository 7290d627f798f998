use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, Optimizer};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use poquelin_model::{
    AdamWStep, CellState, CharLstm, CharLstmConfig, Implementation, Lstm, LstmConfig, LstmState,
    Seed, SequenceInput, devices as kinds,
};

use crate::support::{
    cosines, cpus, devices, gpus, is_gpu, relative_error, tensor, values, with_threads,
};

/// Outputs, final state and every gradient of a layer, by name.
fn run(
    lstm: &Lstm,
    implementation: Implementation,
    [steps, batch, d_input]: [usize; 3],
    with_state: bool,
    device: &Device,
) -> Vec<(&'static str, Vec<f32>)> {
    let lstm = Lstm { implementation, ..lstm.clone() };
    let hidden = lstm.d_hidden();
    // Read across: what the layer gets is not contiguous.
    let x = tensor(cosines(1, steps * batch * d_input, 1.0), [d_input, steps, batch], device)
        .require_grad();
    let h = tensor(cosines(2, batch * hidden, 0.8), [1, batch, hidden], device).require_grad();
    let c = tensor(cosines(3, batch * hidden, 0.8), [1, batch, hidden], device).require_grad();
    let state = with_state.then(|| LstmState::from_tensors(h.clone(), c.clone()));
    let (output, state) = lstm.forward(x.clone().permute([2, 1, 0]), state);
    let weighted = |values: Tensor<3>, n: usize| {
        // With a mean, so that no gradient is a small difference of large numbers.
        let weights = tensor(cosines(n, values.shape().num_elements(), 0.5), values.dims(), device);
        (values * (weights + 1.0)).sum()
    };
    let loss = weighted(output.clone(), 4) + weighted(state.h(), 5) + weighted(state.c(), 6);
    let gradients: Gradients = loss.backward();
    let cell = &lstm.layers[0];
    let mut results = vec![
        ("output", values(output)),
        ("h", values(state.h())),
        ("c", values(state.c())),
        ("grad x", values(x.grad(&gradients).unwrap())),
        ("grad weight_input", values(cell.weight_input.val().grad(&gradients).unwrap())),
        ("grad weight_recurrent", values(cell.weight_recurrent.val().grad(&gradients).unwrap())),
    ];
    if let Some(bias) = &cell.bias_recurrent {
        results.push(("grad bias", values(bias.val().grad(&gradients).unwrap())));
    }
    if with_state {
        results.push(("grad h", values(h.grad(&gradients).unwrap())));
        results.push(("grad c", values(c.grad(&gradients).unwrap())));
    }
    results
}

/// Compares a layer's outputs, final state and gradients with the reference's on the same device.
fn assert_reference(name: &str, shape: [usize; 3], tolerance: f64, device: &Device) {
    assert_reference_of(name, shape, tolerance, [device, device]);
}

/// Compares a layer's outputs, final state and gradients with those of the reference on another device.
fn assert_reference_of(
    name: &str,
    shape: [usize; 3],
    tolerance: f64,
    [device, other]: [&Device; 2],
) {
    let [steps, batch, hidden] = shape;
    let with_state = (steps + batch + hidden) % 2 == 0;
    let run = |implementation, device| {
        let lstm = LstmConfig::new(5, hidden).with_bias(hidden != 7).init(Seed::new(1), device);
        run(&lstm, implementation, [steps, batch, 5], with_state, device)
    };
    let expected = run(Implementation::Reference, other);
    let got = run(Implementation::Fused, device);
    for ((value, got), (_, expected)) in got.iter().zip(&expected) {
        let error = relative_error(got, expected);
        assert!(error <= tolerance, "{name}, {value}, T {steps}, B {batch}, H {hidden}: {error:e}");
    }
}

/// Whether they share the lanes or the units, and whether or not there are cores for all of them.
#[test]
fn any_number_of_threads_makes_the_reference() {
    for (name, device) in cpus() {
        let device = device.autodiff();
        for threads in [1, 2, 3, 5] {
            for shape in [[40, 1, 200], [30, 3, 130], [12, 33, 96], [40, 33, 300]] {
                with_threads(threads, || assert_reference(name, shape, 1e-5, &device));
            }
        }
    }
}

/// As the second layer of a stack has it: so wide that some machines form their products by pairs.
#[test]
fn vectors_as_wide_as_the_layer_are_read_as_the_reference_reads_them() {
    for (name, device) in cpus() {
        let device = device.autodiff();
        let lstm = LstmConfig::new(260, 256).init(Seed::new(1), &device);
        for threads in [1, 2, 5] {
            let run = |implementation| {
                with_threads(threads, || run(&lstm, implementation, [40, 33, 260], true, &device))
            };
            let (got, expected) = (run(Implementation::Fused), run(Implementation::Reference));
            for ((value, got), (_, expected)) in got.iter().zip(&expected) {
                let error = relative_error(got, expected);
                assert!(error <= 1e-5, "{name}, {value}, {threads} threads: {error:e}");
            }
        }
    }
}

/// Products by pairs are nearly as exact as others for what a layer puts out; it may begin with anything.
#[test]
fn a_layer_may_begin_with_large_states() {
    for (name, device) in cpus() {
        let (batch, hidden) = (33, 300);
        let lstm = LstmConfig::new(5, hidden).init(Seed::new(1), &device);
        let x = tensor(cosines(1, 40 * batch * 5, 1.0), [batch, 40, 5], &device);
        let state = |n| tensor(cosines(n, batch * hidden, 30.0), [1, batch, hidden], &device);
        for threads in [1, 3] {
            let [got, expected] = [Implementation::Fused, Implementation::Reference].map(|how| {
                let lstm = Lstm { implementation: how, ..lstm.clone() };
                let state = LstmState::from_tensors(state(2), state(3));
                with_threads(threads, || values(lstm.forward(x.clone(), Some(state)).0))
            });
            let error = relative_error(&got, &expected);
            assert!(error <= 1e-5, "{name}, {threads} threads: {error:e}");
        }
    }
}

/// However it divides the work. A card does the whole sweep, what plays one a few shapes. The reference is
/// the CPU's: the matrix products of a card may round.
#[test]
fn on_a_gpu_too_the_fused_layer_is_the_reference() {
    let cpu = cpus().next().map(|(_, device)| device.autodiff());
    for (name, device) in gpus() {
        let device = device.autodiff();
        let other = cpu.as_ref().unwrap_or(&device);
        let is_card = kinds::hardware(&device).is_some_and(|hardware| hardware.is_card);
        let few = vec![
            [1, 1, 1],
            [2, 3, 7],
            [7, 1, 64],
            [12, 8, 33],
            [100, 3, 129],
            [2, 131, 20],
            [5, 2, 270],
            [9_000, 1, 64],
        ];
        let shapes = if is_card { [few, sweep()].concat() } else { few };
        for shape in shapes {
            // The device's own exponentials differ by some units in the last place.
            assert_reference_of(name, shape, 1e-4, [&device, other]);
        }
    }
}

/// On a CPU, which computes in float32 whatever is asked, and on a GPU nearly.
#[test]
fn half_of_a_weight_is_nearly_all_of_it() {
    for (name, device) in devices() {
        assert!(!kinds::has_half(&device, 2_000), "{name}: too large a layer");
        let (has_half, device) = (kinds::has_half(&device, 40), device.autodiff());
        let lstm = LstmConfig::new(5, 40).init(Seed::new(1), &device);
        let run = |implementation| run(&lstm, implementation, [6, 3, 5], true, &device);
        let (expected, got) = (run(Implementation::Fused), run(Implementation::Half));
        assert_eq!(got != expected, has_half, "{name}: whether it rounds");
        for ((value, got), (_, expected)) in got.iter().zip(&expected) {
            let error = relative_error(got, expected);
            // float16 has 11 bits, bfloat16 8.
            assert!(error <= 1e-2, "{name}, {value}: {error:e}");
        }
        assert!(is_gpu(name) || !has_half, "{name} is a CPU");
    }
}

/// T, B and H.
fn sweep() -> Vec<[usize; 3]> {
    let mut shapes = Vec::new();
    for steps in [1, 2, 7, 100] {
        for batch in [1, 3, 8, 33] {
            shapes.extend([1, 7, 64, 129, 256].map(|hidden| [steps, batch, hidden]));
        }
    }
    // So large that threads divide the lanes, or where there are few the units.
    shapes.extend([[1, 34, 300], [8, 33, 290], [20, 12, 512], [9, 2, 520], [5, 7, 1000]]);
    shapes
}

#[test]
fn the_fused_layer_is_the_reference() {
    for (name, device) in cpus() {
        let device = device.autodiff();
        for shape in sweep() {
            // Both round in single precision, in another order.
            assert_reference(name, shape, 1e-5, &device);
        }
    }
}

#[test]
fn products_formed_beforehand_are_the_dense_input() {
    for (_, device) in cpus() {
        let device = device.autodiff();
        let cell = LstmConfig::new(5, 9).init_cell(Seed::new(2), &device);
        let [steps, batch] = [6, 3];
        let x = tensor(cosines(1, steps * batch * 5, 1.0), [steps, batch, 5], &device);
        let state = |n| tensor(cosines(n, batch * 9, 0.8), [batch, 9], &device);
        let products = x.clone().reshape([steps * batch, 5]).matmul(cell.weight_input.val())
            + cell.bias_input.as_ref().unwrap().val().unsqueeze()
            + cell.bias_recurrent.as_ref().unwrap().val().unsqueeze();
        let inputs = [
            SequenceInput::Dense(x),
            SequenceInput::Products(products.reshape([steps, batch, 36])),
        ];
        let [dense, formed] = inputs.map(|input| {
            let initial = CellState { h: state(2), c: state(3) };
            let (output, last) = cell.forward_sequence(input, initial, Implementation::Fused);
            let weights = tensor(cosines(4, steps * batch * 9, 1.0), [steps, batch, 9], &device);
            let gradients = ((output.clone() * weights).sum() + last.c.sum()).backward();
            let of = |weight: Tensor<2>| values(weight.grad(&gradients).unwrap());
            let of_weights = [of(cell.weight_input.val()), of(cell.weight_recurrent.val())];
            (values(output), of_weights.concat())
        });
        assert!(relative_error(&formed.0, &dense.0) < 1e-5);
        assert!(relative_error(&formed.1, &dense.1) < 1e-5);
    }
}

/// The loss, the final state and the gradients of all parameters of a language model.
fn learn(
    network: &CharLstm,
    implementation: Implementation,
    [steps, batch]: [usize; 2],
    device: &Device,
) -> Vec<Vec<f32>> {
    let mut network = network.clone();
    network.lstm.implementation = implementation;
    let (vocabulary, hidden) = (network.vocabulary(), network.lstm.d_hidden());
    // Some tokens often, some never.
    let ids: Vec<i32> = (0..=steps * batch).map(|k| (k * k % vocabulary) as i32).collect();
    let tokens = |from: usize| {
        let ids = ids[from..][..steps * batch].to_vec();
        Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, steps]), device)
    };
    let state = LstmState::from_tensors(
        tensor(cosines(1, 2 * batch * hidden, 0.8), [2, batch, hidden], device),
        tensor(cosines(2, 2 * batch * hidden, 0.8), [2, batch, hidden], device),
    );
    let (loss, state) = network.loss(tokens(0), tokens(1), Some(state), Some(Seed::new(5)));
    // A loss that counts twice has gradients twice as large.
    let gradients = (loss.clone() * 2.0).backward();
    let mut results = vec![values(loss), values(state.h()), values(state.c())];
    let mut visitor = AllGradients { gradients: &gradients, results: &mut results };
    network.visit(&mut visitor);
    results
}

struct AllGradients<'a> {
    gradients: &'a Gradients,
    results: &'a mut Vec<Vec<f32>>,
}

impl ModuleVisitor for AllGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.results.push(values(param.val().grad(self.gradients).unwrap()));
    }
}

#[test]
fn a_fused_language_model_is_the_reference() {
    for (name, device) in cpus() {
        let device = device.autodiff();
        let shapes = [
            (20, false, [1, 1]),
            (20, true, [7, 3]),
            (20, false, [100, 33]),
            (300, false, [9, 30]),
        ];
        for (hidden, tied, extent) in shapes {
            let config = CharLstmConfig::new(23, hidden)
                .with_layers(2)
                .with_dropout(0.3)
                .with_tied(tied)
                .with_d_embedding((!tied).then_some(6));
            let network = config.init(Seed::new(3), &device);
            let expected = learn(&network, Implementation::Reference, extent, &device);
            let got = learn(&network, Implementation::Fused, extent, &device);
            assert_learnt(&got, &expected, &format!("{name}, {extent:?}, tied {tied}"));
        }
    }
}

fn assert_learnt(got: &[Vec<f32>], expected: &[Vec<f32>], case: &str) {
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = relative_error(got, expected);
        // Gradients sum thousands of terms in another order.
        let limit = if index < 3 { 1e-5 } else { 2e-5 };
        assert!(error <= limit, "{case}, value {index}: {error:e}");
    }
}

/// A token's share of the gates too, when threads have some units each.
#[test]
fn any_number_of_threads_makes_the_language_model() {
    for (name, device) in cpus().map(|(name, device)| (name, device.autodiff())) {
        for (hidden, extent) in [(130, [40, 1]), (260, [1, 1]), (96, [12, 33])] {
            let config = CharLstmConfig::new(23, hidden).with_layers(2).with_d_embedding(Some(6));
            let network = config.init(Seed::new(3), &device);
            let expected = learn(&network, Implementation::Reference, extent, &device);
            for threads in [1, 2, 3, 5] {
                let run = || learn(&network, Implementation::Fused, extent, &device);
                let got = with_threads(threads, run);
                assert_learnt(&got, &expected, &format!("{name}, H {hidden}, {threads} threads"));
            }
        }
    }
}

#[test]
fn a_fused_language_model_is_the_reference_with_every_kind_of_dropout() {
    for (name, device) in cpus() {
        let device = device.autodiff();
        for locked in [false, true] {
            let config = CharLstmConfig::new(23, 20)
                .with_layers(2)
                .with_d_embedding(Some(6))
                .with_dropout(0.3)
                .with_dropout_input(0.2)
                .with_dropout_output(0.4)
                .with_dropout_embedding(0.1)
                .with_dropconnect(0.5)
                .with_locked(locked);
            let network = config.init(Seed::new(3), &device);
            let expected = learn(&network, Implementation::Reference, [9, 5], &device);
            let got = learn(&network, Implementation::Fused, [9, 5], &device);
            assert_learnt(&got, &expected, &format!("{name}, locked {locked}"));
            // What was dropped for the sequence has no gradient: about half of the recurrent weights.
            let recurrent = got.iter().find(|values| values.len() == 20 * 80).unwrap();
            let dropped = recurrent.iter().filter(|&&value| value == 0.0).count();
            assert!((600..1_000).contains(&dropped), "{name}: {dropped} of 1600");
        }
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    for (_, device) in cpus() {
        let device = device.autodiff();
        for hidden in [20, 300] {
            let config = CharLstmConfig::new(23, hidden).with_layers(2).with_dropout(0.3);
            let network = config.init(Seed::new(3), &device);
            let run = || learn(&network, Implementation::Fused, [30, 33], &device);
            let first = run();
            assert!((0..5).all(|_| run() == first), "H {hidden}");
        }
    }
}

#[test]
#[should_panic(expected = "token 31 is not below the vocabulary's 31")]
fn a_token_that_is_none() {
    let (_, device) = cpus().next().expect("a backend of this build has the operations");
    let network = CharLstmConfig::new(31, 4).init(Seed::new(4), &device);
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(vec![3, 31], [1, 2]), &device);
    network.forward(tokens, None);
}

#[test]
fn adamw_is_burns() {
    for (name, device) in devices() {
        let shape = [7, 5];
        let number = |n| tensor(cosines(n, 35, 1.0), shape, &device);
        let optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).build();
        let (mut expected, mut state) = (number(0), None);
        let (mut got, zeros) = (number(0), Tensor::zeros(shape, &device));
        let mut moments = [zeros.clone(), zeros];
        for time in 1..=10 {
            (expected, state) = Optimizer::step(&optimizer, 0.01, expected, number(time), state);
            let step = AdamWStep {
                learning_rate: 0.01,
                beta_1: 0.9,
                beta_2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
                time,
            };
            (got, moments) = step.apply(got, number(time), moments);
            let error = relative_error(&values(got.clone()), &values(expected.clone()));
            assert!(error < 1e-6, "{name}, step {time}: {error:e}");
        }
    }
}

#[test]
fn a_gradient_that_is_no_number_changes_nothing() {
    let step = AdamWStep {
        learning_rate: 0.01,
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        time: 3,
    };
    for (name, device) in devices() {
        let number = |n| tensor(cosines(n, 35, 1.0), [7, 5], &device);
        let mut numbers = cosines(1, 35, 1.0);
        numbers[3] = f32::NAN;
        numbers[34] = f32::NAN;
        let gradient = tensor(numbers, [7, 5], &device);
        let (moved, moments) = step.apply(number(0), gradient, [number(2), number(3).abs()]);
        let before = [number(0), number(2), number(3).abs()].map(values);
        let [moment_1, moment_2] = moments;
        for (before, after) in before.iter().zip([moved, moment_1, moment_2].map(values)) {
            for (index, (before, after)) in before.iter().zip(&after).enumerate() {
                assert_eq!(before == after, [3, 34].contains(&index), "{name}, {index}");
            }
        }
    }
}
