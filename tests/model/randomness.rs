use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use poquelin_model::{
    CharLstm, CharLstmConfig, Initialization, LstmConfig, Seed, identify_parameters,
};

use crate::support::{cosines, devices, tensor, values};

/// Path, id and bits of every parameter.
#[derive(Default, Debug, PartialEq)]
struct Parameters(Vec<(String, u64, Vec<u32>)>, Vec<String>);

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.1.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.1.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let bits = values(param.val()).into_iter().map(f32::to_bits).collect();
        self.0.push((self.1.join("."), param.id.val(), bits));
    }
}

fn parameters(model: &CharLstm) -> Parameters {
    let mut parameters = Parameters::default();
    model.visit(&mut parameters);
    parameters
}

fn config() -> CharLstmConfig {
    CharLstmConfig::new(11, 6).with_d_embedding(Some(4)).with_layers(2).with_dropout(0.5)
}

fn identified(config: &CharLstmConfig, seed: u64, device: &Device) -> Parameters {
    parameters(&identify_parameters(config.init(Seed::new(seed), device)))
}

#[test]
fn one_seed_gives_the_same_bits_and_ids_on_every_backend() {
    for initialization in [Initialization::Poquelin, Initialization::Pytorch] {
        let config = config().with_initialization(initialization);
        let all: Vec<_> =
            devices().into_iter().map(|(_, device)| identified(&config, 7, &device)).collect();
        assert!(all.iter().all(|parameters| *parameters == all[0]));
        let (_, device) = devices().remove(0);
        assert_eq!(identified(&config, 7, &device), all[0]);
        assert_ne!(identified(&config, 8, &device).0, all[0].0);
    }
}

#[test]
fn every_parameter_has_an_id_of_its_own() {
    let (_, device) = devices().remove(0);
    let Parameters(all, _) = identified(&config().with_layers(5), 7, &device);
    let ids: std::collections::HashSet<u64> = all.iter().map(|(_, id, _)| *id).collect();
    assert_eq!(ids.len(), all.len());
    assert!(all.iter().any(|(path, ..)| path == "lstm.layers.4.weight_recurrent"));
}

#[test]
fn two_lstms_of_one_model_do_not_share_ids() {
    // Their gradients would be mixed up.
    let (_, device) = devices().remove(0);
    let make = || LstmConfig::new(2, 3).init(Seed::new(0), &device);
    assert_ne!(make().layers[0].weight_input.id, make().layers[0].weight_input.id);
    let make = || config().init(Seed::new(0), &device);
    assert_ne!(make().embedding.id, make().embedding.id);
}

#[test]
fn masks_follow_from_their_seed_on_every_backend() {
    let outputs: Vec<_> = devices()
        .into_iter()
        .map(|(_, device)| {
            let lstm = LstmConfig::new(3, 8).with_layers(2).with_dropout(0.5);
            let lstm = lstm.init(Seed::new(1), &device);
            let x = tensor(cosines(0, 30, 1.0), [2, 5, 3], &device);
            let run = |seed| values(lstm.forward_with_dropout(x.clone(), None, Seed::new(seed)).0);
            let (first, again, other) = (run(1), run(1), run(2));
            assert_eq!(first, again);
            assert_ne!(first, other);
            assert_ne!(first, values(lstm.forward(x.clone(), None).0));
            first
        })
        .collect();
    for output in &outputs {
        // The masks are the same bits; the arithmetic differs by rounding.
        assert!(crate::support::relative_error(output, &outputs[0]) < 1e-5);
    }
}

#[test]
fn the_forget_gate_begins_open_and_recurrent_weights_orthogonal() {
    let (_, device) = devices().remove(0);
    let h = 5;
    let lstm = LstmConfig::new(3, h).init(Seed::new(1), &device);
    let layer = &lstm.layers[0];
    let bias = values(layer.bias_input.as_ref().unwrap().val());
    assert!(bias.iter().enumerate().all(|(i, &b)| b == f32::from((h..2 * h).contains(&i))));
    let forget = layer.weight_recurrent.val().narrow(1, h, h);
    let product = values(forget.clone().transpose().matmul(forget));
    for (i, value) in product.iter().enumerate() {
        assert!((value - f32::from(i % h == i / h)).abs() < 1e-5);
    }
}
