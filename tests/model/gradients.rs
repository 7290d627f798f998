use burn::module::Module;
use burn::tensor::Tensor;
use poquelin_model::{CellState, Implementation, Lstm, LstmConfig, LstmState, Seed, SequenceInput};

use crate::support::{cosines, cpus, devices, relative_error, tensor, values};

#[test]
fn a_loss_of_a_part_of_the_results_reaches_all_that_went_in() {
    let losses: [fn(&Tensor<3>, &LstmState) -> Tensor<1>; 3] = [
        |output, _| output.clone().powi_scalar(2).sum(),
        |_, state| state.h().powi_scalar(2).sum(),
        |_, state| state.c().powi_scalar(2).sum(),
    ];
    for (name, device) in devices() {
        let device = device.autodiff();
        let lstm = LstmConfig::new(3, 6).init(Seed::new(5), &device);
        for (index, loss) in losses.into_iter().enumerate() {
            let gradients =
                [Implementation::Fused, Implementation::Reference].map(|implementation| {
                    let lstm = Lstm { implementation, ..lstm.clone() };
                    let x = tensor(cosines(1, 2 * 5 * 3, 1.0), [2, 5, 3], &device).require_grad();
                    let (output, state) = lstm.forward(x.clone(), None);
                    let gradients = loss(&output, &state).backward();
                    let cell = &lstm.layers[0];
                    [
                        values(x.grad(&gradients).unwrap()),
                        values(cell.weight_input.val().grad(&gradients).unwrap()),
                        values(cell.weight_recurrent.val().grad(&gradients).unwrap()),
                    ]
                });
            for (got, expected) in gradients[0].iter().zip(&gradients[1]) {
                let error = relative_error(got, expected);
                assert!(error <= 1e-5, "{name}, loss {index}: {error:e}");
            }
        }
    }
}

#[test]
fn weights_that_are_frozen_get_no_gradient_and_let_others_have_theirs() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let lstm = LstmConfig::new(3, 6).init(Seed::new(5), &device);
        let x = tensor(cosines(1, 2 * 5 * 3, 1.0), [2, 5, 3], &device).require_grad();
        let grad_x = |lstm: &Lstm| {
            let gradients = lstm.forward(x.clone(), None).0.sum().backward();
            let of_weight = lstm.layers[0].weight_recurrent.val().grad(&gradients);
            (values(x.grad(&gradients).unwrap()), of_weight.is_some())
        };
        let (free, has_one) = grad_x(&lstm);
        let (frozen, has_none) = grad_x(&lstm.no_grad());
        assert!(has_one && !has_none, "{name}");
        assert_eq!(free, frozen, "{name}");
    }
}

/// The sum of the outputs and of the last cell state of one lane from a zero state, in double
/// precision and by the equations as they stand at [`LstmCell`]. Row-major weights, no biases.
fn plain_loss(x: &[f64], weight_input: &[f64], weight_recurrent: &[f64], hidden: usize) -> f64 {
    let d_input = weight_input.len() / (4 * hidden);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (mut h, mut c, mut loss) = (vec![0.0; hidden], vec![0.0; hidden], 0.0);
    for x in x.chunks(d_input) {
        let gate = |block: usize, unit: usize| -> f64 {
            let column = block * hidden + unit;
            let times = |from: &[f64], weight: &[f64]| -> f64 {
                from.iter().enumerate().map(|(k, f)| f * weight[k * 4 * hidden + column]).sum()
            };
            times(x, weight_input) + times(&h, weight_recurrent)
        };
        let gates: Vec<[f64; 4]> =
            (0..hidden).map(|unit| [0, 1, 2, 3].map(|block| gate(block, unit))).collect();
        for (unit, [i, f, g, o]) in gates.into_iter().enumerate() {
            c[unit] = sigmoid(f) * c[unit] + sigmoid(i) * g.tanh();
            h[unit] = sigmoid(o) * c[unit].tanh();
        }
        loss += h.iter().sum::<f64>();
    }
    loss + c.iter().sum::<f64>()
}

/// Burn's sigmoid computes in single precision whatever it is given, so the differences are those
/// of a plain program.
#[test]
fn gradients_are_finite_differences_in_float64() {
    let (d_input, hidden, steps) = (3, 4, 6);
    for (name, device) in cpus() {
        let device = device.autodiff();
        let config = LstmConfig::new(d_input, hidden).with_bias(false);
        let cell = config.init_cell(Seed::new(6), &device);
        let numbers = cosines(1, steps * d_input, 1.0);
        let x = tensor(numbers.clone(), [steps, 1, d_input], &device).require_grad();
        let zeros = Tensor::zeros([1, hidden], &device);
        let state = CellState { h: zeros.clone(), c: zeros };
        let input = SequenceInput::Dense(x.clone());
        let (output, last) = cell.forward_sequence(input, state, Implementation::Fused);
        let gradients = (output.sum() + last.c.sum()).backward();
        let weights = [cell.weight_input.val(), cell.weight_recurrent.val()];
        let got = [
            values(x.grad(&gradients).unwrap()),
            values(weights[0].grad(&gradients).unwrap()),
            values(weights[1].grad(&gradients).unwrap()),
        ];
        let wide = |numbers: Vec<f32>| numbers.into_iter().map(f64::from).collect::<Vec<_>>();
        let [input, recurrent] = weights.map(|weight| wide(values(weight)));
        let places = [wide(numbers), input, recurrent];
        for (place, got) in got.iter().enumerate() {
            for (index, &gradient) in got.iter().enumerate() {
                let loss_at = |change: f64| {
                    let mut places = places.clone();
                    places[place][index] += change;
                    plain_loss(&places[0], &places[1], &places[2], hidden)
                };
                let difference = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5;
                let error = (difference - f64::from(gradient)).abs();
                // The gradient is of single precision.
                assert!(error < 1e-5, "{name}, {place}: {difference} {gradient}");
            }
        }
    }
}
