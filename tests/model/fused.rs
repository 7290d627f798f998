use burn::tensor::{Device, Gradients, Tensor};
use poquelin_model::{Implementation, Lstm, LstmConfig, LstmState, Seed};

use crate::support::{cosines, devices, relative_error, tensor, values};

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
    let weighted = |tensor_: Tensor<3>, n: usize| {
        let shape = tensor_.dims();
        (tensor_ * tensor(cosines(n, shape.iter().product(), 1.0), shape, device)).sum()
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

#[test]
fn the_fused_operation_is_the_reference() {
    for (name, device) in devices() {
        if name == "wgpu" {
            // It has no fused operation yet: both are the reference.
            continue;
        }
        let device = device.autodiff();
        for steps in [1, 2, 7, 100] {
            for batch in [1, 3, 8, 33] {
                for hidden in [1, 7, 64] {
                    let with_state = (steps + batch + hidden) % 2 == 0;
                    let lstm = LstmConfig::new(5, hidden)
                        .with_bias(hidden != 7)
                        .init(Seed::new(1), &device);
                    let run = |implementation| {
                        run(&lstm, implementation, [steps, batch, 5], with_state, &device)
                    };
                    let expected = run(Implementation::Reference);
                    for ((value, got), (_, expected)) in
                        run(Implementation::Fused).iter().zip(&expected)
                    {
                        let error = relative_error(got, expected);
                        // Both round in single precision, in another order.
                        assert!(
                            error <= 1e-5,
                            "{name}, {value}, T {steps}, B {batch}, H {hidden}: {error:e}"
                        );
                    }
                }
            }
        }
    }
}
