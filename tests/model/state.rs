use burn::module::Param;
use burn::tensor::{DType, Int, Tensor, TensorData};
use poquelin_model::{CellState, CharLstmConfig, Decoder, LstmConfig, LstmState, Seed};

use crate::support::{cosines, cpus, devices, relative_error, tensor, values};

#[test]
fn a_sequence_in_pieces_is_the_sequence_whole() {
    for (name, device) in devices() {
        let lstm = LstmConfig::new(3, 5).with_layers(2).init(Seed::new(1), &device);
        let x = tensor(cosines(1, 2 * 9 * 3, 1.0), [2, 9, 3], &device);
        let (whole, last) = lstm.forward(x.clone(), None);
        for cuts in [vec![4, 5], vec![1; 9], vec![8, 1]] {
            let mut state = None;
            let mut start = 0;
            let mut pieces = Vec::new();
            for length in cuts {
                let (output, next) = lstm.forward(x.clone().narrow(1, start, length), state);
                pieces.push(output);
                state = Some(next.detach());
                start += length;
            }
            let error = relative_error(&values(Tensor::cat(pieces, 1)), &values(whole.clone()));
            assert!(error < 1e-6, "{name}: {error:e}");
            let error = relative_error(&values(state.unwrap().c()), &values(last.c()));
            assert!(error < 1e-6, "{name}: {error:e}");
        }
    }
}

#[test]
fn a_cell_makes_the_steps_of_its_layer() {
    for (name, device) in devices() {
        let lstm = LstmConfig::new(3, 4).init(Seed::new(2), &device);
        let x = tensor(cosines(2, 2 * 6 * 3, 1.0), [2, 6, 3], &device);
        let (output, _) = lstm.forward(x.clone(), None);
        let mut state =
            CellState { h: Tensor::zeros([2, 4], &device), c: Tensor::zeros([2, 4], &device) };
        for step in 0..6 {
            state = lstm.layers[0].forward(x.clone().narrow(1, step, 1).reshape([2, 3]), state);
            let expected = values(output.clone().narrow(1, step, 1));
            let error = relative_error(&values(state.h.clone()), &expected);
            assert!(error < 1e-6, "{name}, step {step}: {error:e}");
        }
    }
}

#[test]
fn lanes_do_not_see_each_other() {
    for (name, device) in devices() {
        let lstm = LstmConfig::new(3, 5).with_layers(2).init(Seed::new(3), &device);
        let x = tensor(cosines(3, 4 * 6 * 3, 1.0), [4, 6, 3], &device);
        let (_, state) = lstm.forward(x.clone(), None);

        let order = [2, 0, 3, 1];
        let reordered = values(state.clone().reorder(&order).h());
        let lanes = Tensor::<1, Int>::from_data(TensorData::new(vec![1i32, 1], [2]), &device);
        let selected = state.clone().select(lanes);
        assert_eq!(selected.dims(), [2, 2, 5]);
        for layer in 0..2 {
            for (place, &lane) in order.iter().enumerate() {
                let (_, alone) = lstm.forward(x.clone().narrow(0, lane, 1), None);
                let expected = &values(alone.h())[layer * 5..][..5];
                let got = &reordered[(layer * 4 + place) * 5..][..5];
                assert!(relative_error(got, expected) < 1e-6, "{name}, lane {lane}");
                if lane == 1 {
                    let picked = values(selected.h());
                    for copy in 0..2 {
                        let got = &picked[(layer * 2 + copy) * 5..][..5];
                        assert!(relative_error(got, expected) < 1e-6, "{name}, copy {copy}");
                    }
                }
            }
        }
    }
}

#[test]
fn detaching_truncates_the_gradient() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let lstm = LstmConfig::new(2, 3).with_layers(2).init(Seed::new(4), &device);
        let x = tensor(cosines(4, 8, 1.0), [1, 4, 2], &device).require_grad();
        let (_, state) = lstm.forward(x.clone(), None);
        let later = tensor(cosines(5, 4, 1.0), [1, 2, 2], &device);
        let gradient = |state: LstmState| {
            let (output, _) = lstm.forward(later.clone(), Some(state));
            x.grad(&output.sum().backward())
        };
        assert!(gradient(state.clone()).is_some(), "{name}: a state carries its history");
        assert!(gradient(state.detach()).is_none(), "{name}: a detached state has none");
    }
}

#[test]
fn tensors_of_pytorchs_shape_come_back_as_they_were() {
    let (_, device) = devices().remove(0);
    let h = tensor(cosines(6, 24, 1.0), [3, 2, 4], &device);
    let c = tensor(cosines(7, 24, 1.0), [3, 2, 4], &device);
    let state = LstmState::from_tensors(h.clone(), c.clone());
    assert_eq!(state.dims(), [3, 2, 4]);
    assert_eq!(values(state.h()), values(h));
    assert_eq!(values(state.c()), values(c));
    assert_eq!(values(LstmState::zeros(2, 1, 3, &device).h()), vec![0.0; 6]);
}

#[test]
fn a_character_model_carries_its_state_too() {
    for (name, device) in devices() {
        let model = CharLstmConfig::new(7, 5).with_layers(2).init(Seed::new(5), &device);
        let ids: Vec<i32> = (0..12).map(|k| (k * k) % 7).collect();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 6]), &device);
        let (whole, _) = model.forward(tokens.clone(), None);
        assert_eq!(whole.dims(), [2, 6, 7]);
        let (first, state) = model.forward(tokens.clone().narrow(1, 0, 2), None);
        let (second, _) = model.forward(tokens.narrow(1, 2, 4), Some(state));
        let error = relative_error(&values(Tensor::cat(vec![first, second], 1)), &values(whole));
        assert!(error < 1e-6, "{name}: {error:e}");
    }
}

#[test]
fn tied_weights_score_with_the_embedding() {
    let (_, device) = devices().remove(0);
    let model = CharLstmConfig::new(7, 5).with_tied(true).init(Seed::new(6), &device);
    assert!(model.head.is_none());
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(vec![1i32, 2, 3], [1, 3]), &device);
    let (logits, state) = model.forward(tokens, None);
    let embedding = model.embedding.val();
    let h = state.h().reshape([1, 5]);
    let expected = h.matmul(embedding.transpose()) + model.head_bias.val().unsqueeze();
    let got = values(logits.narrow(1, 2, 1));
    assert!(relative_error(&got, &values(expected)) < 1e-6);
}

#[test]
fn tied_weights_of_two_widths_score_behind_a_projection() {
    let (_, device) = devices().remove(0);
    let config = CharLstmConfig::new(7, 5).with_d_embedding(Some(3)).with_tied(true);
    let model = config.init(Seed::new(6), &device);
    let projection = model.projection.as_ref().expect("E is not H").val();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(vec![1i32, 2, 3], [1, 3]), &device);
    let (logits, state) = model.forward(tokens, None);
    let read = state.h().reshape([1, 5]).matmul(projection);
    let expected =
        values(read.matmul(model.embedding.val().transpose()) + model.head_bias.val().unsqueeze());
    assert!(relative_error(&values(logits.narrow(1, 2, 1)), &expected) < 1e-6);
    // One step at a time too.
    let mut decoder = Decoder::new(&model, 1);
    let [_, _, last] = [1, 2, 3].map(|token| decoder.step(&[token]).to_vec());
    assert!(relative_error(&last, &expected) < 1e-5);
}

#[test]
fn normalised_outputs_are_those_of_the_equation_in_pieces_and_step_by_step() {
    for (name, device) in devices() {
        let config = CharLstmConfig::new(7, 20).with_layers(2).with_layer_norm(true);
        let mut model = config.init(Seed::new(6), &device);
        for (n, norm) in model.lstm.norms.iter_mut().enumerate() {
            norm.gain = Param::from_tensor(tensor(cosines(n, 20, 2.0), [20], &device));
            norm.bias = Param::from_tensor(tensor(cosines(n + 5, 20, 0.5), [20], &device));
        }
        let ids = [1u32, 2, 3, 6, 0, 2];
        let data = TensorData::new(ids.map(|id| id as i32).to_vec(), [1, 6]);
        let tokens = Tensor::<2, Int>::from_data(data, &device);
        let (whole, _) = model.forward(tokens.clone(), None);
        let (first, state) = model.forward(tokens.clone().narrow(1, 0, 2), None);
        let (second, _) = model.forward(tokens.narrow(1, 2, 4), Some(state));
        let pieces = values(Tensor::cat(vec![first, second], 1));
        assert!(relative_error(&pieces, &values(whole.clone())) < 1e-5, "{name}");
        // The decoder normalises by itself, and folds gain and bias into what is behind.
        let mut decoder = Decoder::new(&model, 1);
        let steps: Vec<f32> = ids.iter().flat_map(|&id| decoder.step(&[id]).to_vec()).collect();
        let error = relative_error(&steps, &values(whole));
        assert!(error < 1e-5, "{name}: {error:e}");
    }
}

#[test]
fn a_residual_stack_adds_what_its_layers_read_and_steps_alike() {
    for (name, device) in devices() {
        let config = CharLstmConfig::new(7, 20).with_layers(3).with_residual(true);
        let model = config.init(Seed::new(6), &device);
        let ids = [1u32, 2, 3, 6, 0, 2];
        let data = TensorData::new(ids.map(|id| id as i32).to_vec(), [1, 6]);
        let tokens = Tensor::<2, Int>::from_data(data, &device);
        let (logits, _) = model.forward(tokens, None);
        // Layer by layer, each an LSTM of its own.
        let rows = ids.map(|id| model.embedding.val().narrow(0, id as usize, 1)).to_vec();
        let mut sequence = Tensor::cat(rows, 0).unsqueeze::<3>();
        for (index, cell) in model.lstm.layers.iter().enumerate() {
            let mut layer = LstmConfig::new(20, 20).init(Seed::new(0), &device);
            layer.layers = vec![cell.clone()];
            let (output, _) = layer.forward(sequence.clone(), None);
            sequence = if index == 0 { output } else { output + sequence };
        }
        let head = model.head.as_ref().expect("it is not tied").val();
        let scores = sequence.squeeze_dim::<2>(0).matmul(head);
        let expected = values(scores + model.head_bias.val().unsqueeze());
        let error = relative_error(&values(logits), &expected);
        assert!(error < 1e-5, "{name}: {error:e}");
        let mut decoder = Decoder::new(&model, 1);
        for _ in 0..2 {
            let steps: Vec<f32> = ids.iter().flat_map(|&id| decoder.step(&[id]).to_vec()).collect();
            let error = relative_error(&steps, &expected);
            assert!(error < 1e-5, "{name}, step by step: {error:e}");
            decoder.reset();
        }
    }
}

#[test]
fn float64_goes_through_the_reference() {
    for (name, device) in cpus() {
        let single = LstmConfig::new(3, 5).with_layers(2).init(Seed::new(7), &device);
        let x = tensor(cosines(8, 2 * 4 * 3, 1.0), [2, 4, 3], &device);
        let (expected, last) = single.forward(x.clone(), None);
        let mut double = single.clone();
        for cell in &mut double.layers {
            for weight in [&mut cell.weight_input, &mut cell.weight_recurrent] {
                *weight = Param::from_tensor(weight.val().cast(DType::F64));
            }
            for bias in [&mut cell.bias_input, &mut cell.bias_recurrent].into_iter().flatten() {
                *bias = Param::from_tensor(bias.val().cast(DType::F64));
            }
        }
        let (output, state) = double.forward(x.cast(DType::F64), None);
        assert_eq!((output.dtype(), state.c().dtype()), (DType::F64, DType::F64), "{name}");
        let state = state.cast(DType::F32);
        for (got, expected) in [(output.cast(DType::F32), expected), (state.c(), last.c())] {
            let error = relative_error(&values(got), &values(expected));
            assert!(error < 1e-6, "{name}: {error:e}");
        }
    }
}
