//! Held against the kernels, which are held against the reference.

use burn::backend::NdArray;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::TensorData;

use super::*;
use crate::backends::Kernels;
use crate::backends::cpu::CpuTensors;

type Floats = FloatTensor<NdArray>;

/// `cos` of multiples of an angle that follows from `n`.
fn tensor<const D: usize>(n: usize, shape: [usize; D]) -> Floats {
    let angle = 1.0 + n as f32 / 7.0;
    let count = shape.iter().product();
    let numbers = (0..count).map(|k| 0.5 * (k as f32 * angle + n as f32).cos()).collect();
    NdArray::tensor(numbers, shape)
}

fn tokens(places: &[i32], shape: [usize; 2]) -> IntTensor<NdArray> {
    NdArray::int_from_data(TensorData::new(places.to_vec(), shape), &Default::default())
}

fn assert_close(name: &str, got: &Floats, expected: &Floats) {
    assert_eq!(got.shape(), expected.shape(), "the shape of {name}");
    let (got, expected) = (NdArray::numbers(got), NdArray::numbers(expected));
    let largest = expected.iter().fold(1e-30_f32, |most, value| most.max(value.abs()));
    for (got, expected) in got.iter().zip(expected.iter()) {
        assert!((got - expected).abs() <= 1e-5 * largest, "{name}: {got}, not {expected}");
    }
}

#[test]
fn layers_are_those_of_the_kernels_there_and_back() {
    let (batch, hidden, d_input) = (3, 5, 4);
    for steps in [1, 6] {
        let places: Vec<i32> = (0..steps * batch).map(|k| (k * k % 7) as i32).collect();
        let places = tokens(&places, [steps, batch]);
        let (weight, bias) = (tensor(1, [d_input, 4 * hidden]), tensor(2, [4 * hidden]));
        let inputs = [
            LayerInput::<NdArray>::Products(tensor(0, [steps, batch, 4 * hidden])),
            LayerInput::Dense {
                x: tensor(0, [steps, batch, d_input]),
                weight: weight.clone(),
                bias: bias.clone(),
            },
            LayerInput::Tokens { tokens: places, embedding: tensor(0, [7, d_input]), weight, bias },
        ];
        for (input, grad_c) in inputs.into_iter().flat_map(|input| {
            [None, Some(tensor(7, [batch, hidden]))].map(|grad_c| (input.clone(), grad_c))
        }) {
            let recurrence = Recurrence {
                weight: tensor(3, [hidden, 4 * hidden]),
                h: tensor(4, [batch, hidden]),
                c: tensor(5, [batch, hidden]),
                half: false,
            };
            let got = layer::<NdArray>(input.clone(), recurrence.clone(), true);
            let expected = NdArray::layer(input, recurrence, true);
            assert_close("outputs", &got.outputs, &expected.outputs);
            assert_close("c", &got.c, &expected.c);
            let grad = tensor(6, [steps, batch, hidden]);
            let [got, expected] = [got, expected]
                .map(|layer| layer.back.expect("asked for").go(grad.clone(), grad_c.clone()));
            assert_eq!(got.len(), expected.len());
            for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                assert_close(&format!("gradient {index}, T {steps}"), got, expected);
            }
        }
    }
}

#[test]
fn head_loss_and_optimizer_are_those_of_the_kernels() {
    let (input, weight, bias) = (tensor(0, [6, 4]), tensor(1, [4, 9]), tensor(2, [9]));
    assert_close(
        "linear",
        &linear::<NdArray>(input.clone(), weight.clone(), bias.clone()),
        &<NdArray as Kernels>::linear(input.clone(), weight.clone(), bias.clone()),
    );
    let targets = tokens(&[0, 3, 8, 3, 1, 0], [1, 6]);
    let targets = NdArray::int_reshape(targets, Shape::new([6]));
    let arguments = || (input.clone(), weight.clone(), bias.clone(), targets.clone(), true);
    let (i, w, b, t, with) = arguments();
    let (loss, gradients) = linear_cross_entropy::<NdArray>(i, w, b, t, with);
    let (i, w, b, t, with) = arguments();
    let (expected_loss, expected) = <NdArray as Kernels>::linear_cross_entropy(i, w, b, t, with);
    assert_close("loss", &loss, &expected_loss);
    for (got, expected) in gradients.iter().flatten().zip(expected.iter().flatten()) {
        assert_close("gradient of the loss", got, expected);
    }
    assert_close(
        "sum of squares",
        &sum_of_squares::<NdArray>(input.clone()),
        &<NdArray as Kernels>::sum_of_squares(input),
    );
    let half = NdArray::tensor(vec![0.5], [1]);
    let half_weight = scaled::<NdArray>(weight.clone(), &half);
    assert_close("scaled", &half_weight, &NdArray::scaled(weight.clone(), &half));

    let nearer = lerp::<NdArray>(weight.clone(), tensor(3, [4, 9]), 0.3);
    assert_close(
        "lerp",
        &nearer,
        &<NdArray as Kernels>::lerp(weight.clone(), tensor(3, [4, 9]), 0.3),
    );

    let forces = || [3, 4, 5, 6].map(|seed| tensor(seed, [4, 9]));
    let adapted = <NdArray as Kernels>::adapt(weight.clone(), forces());
    assert_close("adapted", &adapt::<NdArray>(weight.clone(), forces()), &adapted);

    let step = AdamWStep {
        learning_rate: 0.01,
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        time: 3,
    };
    let moments = || [tensor(4, [4, 9]), NdArray::float_abs(tensor(5, [4, 9]))];
    let gradient = tensor(3, [4, 9]);
    let (got, got_moments) = adamw::<NdArray>(step, weight.clone(), gradient.clone(), moments());
    let (expected, expected_moments) =
        <NdArray as Kernels>::adamw(step, weight, gradient, moments());
    assert_close("parameter", &got, &expected);
    for (got, expected) in got_moments.iter().zip(&expected_moments) {
        assert_close("moment", got, expected);
    }
}
