//! The kernels for CubeCL's devices where Burn's fusion stands before them: what is still waiting to
//! be fused is done first, and what comes out goes on as any other tensor.

use burn::backend::TensorMetadata;
use burn::backend::fusion::client::GlobalFusionClient;
use burn::backend::fusion::custom::StreamId;
use burn::backend::fusion::{Fusion, FusionBackend, NoOp};
use burn::backend::ir::{BackendIr, InitOperationIr, OperationIr, OperationOutput};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{Kernels, Layer, LayerInput, Recurrence, WayBack};
use crate::AdamWStep;

type Fused = Fusion<CubeBackend>;
type Client = GlobalFusionClient<<CubeBackend as FusionBackend>::FusionRuntime>;

/// Takes a tensor out.
fn unfused(tensor: FloatTensor<Fused>) -> CubeTensor {
    tensor.client.clone().resolve_tensor_float::<CubeBackend>(tensor)
}

fn unfused_int(tensor: IntTensor<Fused>) -> CubeTensor {
    tensor.client.clone().resolve_tensor_int::<CubeBackend>(tensor)
}

/// Puts a tensor in.
fn fused(client: &Client, tensor: CubeTensor) -> FloatTensor<Fused> {
    let (shape, dtype) = (tensor.shape(), tensor.dtype);
    let handle = CubeBackend::float_tensor_handle(tensor);
    let begun = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
    let operation = OperationIr::Init(begun);
    client.register(StreamId::current(), operation, NoOp::<CubeBackend>::new()).output()
}

impl Kernels for Fused {
    fn layer(
        input: LayerInput<Self>,
        Recurrence { weight, h, c, half }: Recurrence<Self>,
        with_back: bool,
    ) -> Layer<Self> {
        let client = weight.client.clone();
        let recurrence = Recurrence { weight: unfused(weight), h: unfused(h), c: unfused(c), half };
        let input = match input {
            LayerInput::Products(products) => LayerInput::Products(unfused(products)),
            LayerInput::Dense { x, weight, bias } => {
                LayerInput::Dense { x: unfused(x), weight: unfused(weight), bias: unfused(bias) }
            }
            LayerInput::Tokens { tokens, embedding, weight, bias } => LayerInput::Tokens {
                tokens: unfused_int(tokens),
                embedding: unfused(embedding),
                weight: unfused(weight),
                bias: unfused(bias),
            },
        };
        let layer = CubeBackend::layer(input, recurrence, with_back);
        let outputs = fused(&client, layer.outputs);
        let c = fused(&client, layer.c);
        let back = layer.back.map(|back| {
            WayBack::new(move |grad_outputs, grad_c| {
                let gradients = back.go(unfused(grad_outputs), grad_c.map(unfused));
                gradients.into_iter().map(|gradient| fused(&client, gradient)).collect()
            })
        });
        Layer { outputs, c, back }
    }

    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let client = input.client.clone();
        let result =
            <CubeBackend as Kernels>::linear(unfused(input), unfused(weight), unfused(bias));
        fused(&client, result)
    }

    fn linear_back(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let client = input.client.clone();
        let gradients = CubeBackend::linear_back(unfused(input), unfused(weight), unfused(grad));
        gradients.map(|gradient| fused(&client, gradient))
    }

    fn linear_cross_entropy(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        with_gradients: bool,
    ) -> (FloatTensor<Self>, Option<[FloatTensor<Self>; 3]>) {
        let client = input.client.clone();
        let (loss, gradients) = CubeBackend::linear_cross_entropy(
            unfused(input),
            unfused(weight),
            unfused(bias),
            unfused_int(targets),
            with_gradients,
        );
        let gradients = gradients.map(|all| all.map(|gradient| fused(&client, gradient)));
        (fused(&client, loss), gradients)
    }

    fn adamw(
        step: AdamWStep,
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moments: [FloatTensor<Self>; 2],
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        let client = parameter.client.clone();
        let (parameter, moments) =
            CubeBackend::adamw(step, unfused(parameter), unfused(gradient), moments.map(unfused));
        (fused(&client, parameter), moments.map(|moment| fused(&client, moment)))
    }
}
