use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use poquelin_model::{
    AdamWStep, CellState, Implementation, Lstm, LstmCell, LstmConfig, LstmState, Seed,
    SequenceInput,
};

use crate::support::devices;

fn device() -> Device {
    devices().remove(0).1
}

fn lstm(device: &Device) -> Lstm {
    LstmConfig::new(3, 5).with_layers(2).init(Seed::new(0), device)
}

#[test]
#[should_panic(expected = "the input's width: expected 3, got 4")]
fn an_input_of_the_wrong_width() {
    let device = device();
    lstm(&device).forward(Tensor::zeros([1, 2, 4], &device), None);
}

#[test]
#[should_panic(expected = "the shape [L, B, H] of the initial state")]
fn a_state_of_the_wrong_depth() {
    let device = device();
    let state = LstmState::zeros(1, 1, 5, &device);
    lstm(&device).forward(Tensor::zeros([1, 2, 3], &device), Some(state));
}

#[test]
#[should_panic(expected = "at least one time step")]
fn a_sequence_without_steps() {
    let device = device();
    lstm(&device).forward(Tensor::zeros([1, 0, 3], &device), None);
}

#[test]
#[should_panic(expected = "dropout: expected [0, 1), got 1")]
fn a_dropout_that_leaves_nothing() {
    LstmConfig::new(3, 5).with_dropout(1.0).init(Seed::new(0), &device());
}

#[test]
#[should_panic(expected = "each named once, got [0, 0]")]
fn an_order_that_is_none() {
    LstmState::zeros(1, 2, 3, &device()).reorder(&[0, 0]);
}

#[test]
#[should_panic(expected = "at least one lane")]
fn a_cell_without_lanes() {
    let device = device();
    let input = SequenceInput::Dense(Tensor::zeros([2, 0, 3], &device));
    let state = CellState { h: Tensor::zeros([0, 5], &device), c: Tensor::zeros([0, 5], &device) };
    lstm(&device).layers[0].forward_sequence(input, state, Implementation::Fused);
}

#[test]
#[should_panic(expected = "weight_recurrent: expected [20, 80], got [20, 5]")]
fn weights_as_pytorch_has_them() {
    let device = device();
    let mut lstm = LstmConfig::new(20, 5).with_bias(false).init(Seed::new(0), &device);
    let cell = &mut lstm.layers[0];
    let turned = cell.weight_recurrent.val().transpose();
    cell.weight_input = Param::from_tensor(Tensor::zeros([20, 80], &device));
    cell.weight_recurrent = Param::from_tensor(turned);
    lstm.forward(Tensor::zeros([1, 2, 20], &device), None);
}

#[test]
#[should_panic(expected = "the width 4H of a bias")]
fn biases_of_the_wrong_width() {
    let zeros = |rows, columns| Tensor::zeros([rows, columns], &device());
    let biases = [Tensor::zeros([20], &device()), Tensor::zeros([5], &device())];
    LstmCell::from_pytorch(zeros(20, 3), zeros(20, 5), Some(biases));
}

#[test]
#[should_panic(expected = "the types of tensors that are to be computed with together")]
fn an_input_of_another_type() {
    let device = device();
    lstm(&device).forward(Tensor::zeros([1, 2, 3], (&device, DType::F64)), None);
}

#[test]
#[should_panic(expected = "the types of tensors that are to be computed with together")]
fn a_state_of_another_type() {
    let device = device();
    let state = LstmState::zeros(2, 1, 5, &device).cast(DType::F64);
    lstm(&device).forward(Tensor::zeros([1, 2, 3], &device), Some(state));
}

#[test]
#[should_panic(expected = "tensors that are to be of one shape")]
fn a_gradient_of_another_shape() {
    let device = device();
    let zeros = |shape: [usize; 2]| Tensor::<2>::zeros(shape, &device);
    let step = AdamWStep {
        learning_rate: 0.1,
        beta_1: 0.9,
        beta_2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.0,
        time: 1,
    };
    let moments = [zeros([2, 3]), zeros([2, 3])];
    step.apply(zeros([2, 3]), zeros([3, 2]), moments);
}
