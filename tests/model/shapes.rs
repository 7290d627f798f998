use burn::tensor::{Device, Tensor};
use poquelin_model::{Lstm, LstmConfig, LstmState, Seed};

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
