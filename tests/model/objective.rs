use burn::tensor::{Int, Tensor, TensorData, activation};
use poquelin_model::{CharLstmConfig, Seed, SequenceInput};

use crate::support::{devices, relative_error, values};

#[test]
fn what_training_minimises_is_its_definition() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let config = CharLstmConfig::new(11, 8)
            .with_d_embedding(Some(5))
            .with_activation(2.0)
            .with_temporal_activation(3.0)
            .with_label_smoothing(0.1);
        let network = config.init(Seed::new(3), &device);
        let ids = |from: i32| {
            let ids: Vec<i32> = (from..from + 3 * 9).map(|k| k * k % 11).collect();
            Tensor::<2, Int>::from_data(TensorData::new(ids, [3, 9]), &device)
        };
        let seed = Seed::new(4);
        let got = network.training_loss(ids(0), ids(1), None, seed);
        let (nats, _) = network.loss(ids(0), ids(1), None, None);
        let error = relative_error(&values(got.nats), &values(nats.clone()));
        assert!(error < 1e-6, "{name}: {error:e}");

        let (logits, _) = network.forward(ids(0), None);
        let uniform = activation::log_softmax(logits, 2).mean().neg();
        let (tokens, embedding) = (ids(0).swap_dims(0, 1), network.embedding.val());
        let input = SequenceInput::Tokens { tokens, embedding };
        let (outputs, _) = network.lstm.forward_sequence(input, None, None);
        let change = outputs.clone().narrow(0, 1, 8) - outputs.clone().narrow(0, 0, 8);
        let penalties = outputs.square().mean() * 2.0 + change.square().mean() * 3.0;
        let expected = nats * 0.9 + uniform * 0.1 + penalties;
        let error = relative_error(&values(got.objective.clone()), &values(expected.clone()));
        assert!(error < 1e-4, "{name}: {error:e}");
        let [got, expected] = [got.objective, expected].map(|objective| {
            let gradients = objective.backward();
            values(network.embedding.val().grad(&gradients).expect("it depends on the embedding"))
        });
        let error = relative_error(&got, &expected);
        assert!(error < 1e-4, "the gradient, {name}: {error:e}");
    }
}
