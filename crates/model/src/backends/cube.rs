//! The operations as kernels for CubeCL's devices: wgpu, vulkan, metal and cuda.
//!
//! What a GPU waits for at these sizes are launches. A layer goes through a sequence in one, there and
//! back, by cubes that own some lanes each or share them (`layer.rs`, `meeting.rs`); or else step by step.
//! The products of all steps at once are matrix products of our own (`products.rs`).

mod kernels;
mod layer;
mod meeting;
mod products;
mod reading;
#[cfg(all(test, feature = "wgpu"))]
mod tests;
mod writing;

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, zeros_client};
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::FloatKind;
use cubecl::ir::features::TypeUsage;
use cubecl::prelude::*;

use self::layer::{Limits, Sequence, Way, alone, by_products};
use self::meeting::shared;
use self::products::Factor;
use self::reading::Reading;
pub(crate) use self::writing::Writing;
use super::{Kernels, Layer, LayerInput, Recurrence, plain};
use crate::AdamWStep;

impl Kernels for CubeBackend {
    fn layer(
        input: LayerInput<Self>,
        recurrence: Recurrence<Self>,
        with_back: bool,
    ) -> Layer<Self> {
        let client = &recurrence.h.client;
        if !has_room_for_buffers(client) {
            return plain::layer::<Self>(input, recurrence, with_back);
        }
        let limits = Limits::of(client);
        let reading = Reading::new(input);
        let sequence = reading.extent(&recurrence);
        let half = if recurrence.half { half(client) } else { None };
        let weight = half.unwrap_or(ElemType::Float(FloatKind::F32));
        match sequence.way(limits, weight, meeting::can_meet(client)) {
            Way::Alone(division) => {
                alone(sequence, division, weight, reading, recurrence, with_back)
            }
            Way::Shared(shares) => shared(sequence, shares, reading, recurrence, with_back),
            Way::ByProducts => by_products(sequence, reading, recurrence, with_back),
        }
    }

    fn linear(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if input.dtype != DType::F32 {
            return plain::linear::<Self>(input, weight, bias);
        }
        products::product([Factor::rows(input), Factor::columns(weight)], Some(bias))
    }

    fn linear_back(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        if input.dtype != DType::F32 {
            return plain::linear_back::<Self>(input, weight, grad);
        }
        let of_bias = products::sum_rows(grad.clone());
        [
            products::product([Factor::rows(grad.clone()), Factor::rows(weight)], None),
            products::product([Factor::columns(input), Factor::columns(grad)], None),
            of_bias,
        ]
    }

    fn linear_cross_entropy(
        input: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        with_gradients: bool,
    ) -> (FloatTensor<Self>, Option<[FloatTensor<Self>; 3]>) {
        /// Columns that one unit of the device goes through by itself.
        const NARROW: usize = 1024;
        let [vocabulary] = bias.shape().dims();
        if vocabulary > NARROW {
            return plain::linear_cross_entropy_by::<Self>(
                [input, weight, bias],
                targets,
                with_gradients,
                <Self as Kernels>::linear,
                <Self as Kernels>::linear_back,
            );
        }
        let [rows, _] = input.shape().dims();
        let logits = <Self as Kernels>::linear(input.clone(), weight.clone(), bias);
        let losses = empty(&logits, [rows]);
        let targets = into_contiguous(targets);
        let index = dtype_to_storage_type(targets.dtype);
        let client = logits.client.clone();
        let (count, dim) = elementwise(&client, rows);
        kernels::softmax_loss::launch(
            &client,
            count,
            dim,
            logits.clone().into_buffer_arg(),
            targets.into_buffer_arg(),
            losses.clone().into_buffer_arg(),
            rows,
            1.0 / rows as f32,
            vocabulary,
            index,
        );
        let loss = Self::float_reshape(Self::float_sum(losses), Shape::new([1]));
        let gradients =
            with_gradients.then(|| <Self as Kernels>::linear_back(input, weight, logits));
        (loss, gradients)
    }

    fn adamw(
        step: AdamWStep,
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moments: [FloatTensor<Self>; 2],
    ) -> (FloatTensor<Self>, [FloatTensor<Self>; 2]) {
        let AdamWStep { learning_rate, beta_1, beta_2, epsilon, weight_decay, .. } = step;
        let [correction_1, correction_2] = step.corrections();
        let [parameter, gradient] = [parameter, gradient].map(into_contiguous);
        let [moment_1, moment_2] = moments.map(into_contiguous);
        let shape = parameter.shape();
        let results: [CubeTensor; 3] = std::array::from_fn(|_| empty(&parameter, shape.clone()));
        let [new, new_1, new_2] = results;
        let client = parameter.client.clone();
        let (count, dim) = elementwise(&client, shape.num_elements());
        kernels::adamw::launch(
            &client,
            count,
            dim,
            parameter.into_buffer_arg(),
            gradient.into_buffer_arg(),
            moment_1.into_buffer_arg(),
            moment_2.into_buffer_arg(),
            new.clone().into_buffer_arg(),
            new_1.clone().into_buffer_arg(),
            new_2.clone().into_buffer_arg(),
            shape.num_elements(),
            (1.0 - learning_rate * f64::from(weight_decay)) as f32,
            (learning_rate / correction_1) as f32,
            (1.0 / correction_2) as f32,
            beta_1,
            beta_2,
            epsilon,
        );
        (new, [new_1, new_2])
    }
}

/// Whether a kernel may have as many buffers as the largest here.
fn has_room_for_buffers(client: &Client) -> bool {
    /// With one for their lengths and the numbers.
    const BUFFERS: u32 = 10;
    client.properties().hardware.max_bindings >= BUFFERS
}

/// The 16-bit numbers that a device reads, the more exact ones first.
fn half(client: &Client) -> Option<ElemType> {
    let can_read = |element: &ElemType| {
        let usage = client.properties().type_usage(*element);
        usage.is_superset(TypeUsage::Buffer | TypeUsage::Conversion)
    };
    [FloatKind::F16, FloatKind::BF16].map(ElemType::Float).into_iter().find(can_read)
}

/// Whether a device reads the weights of layers of so many hidden units as those.
pub(crate) fn has_half(client: &Client, hidden: usize) -> bool {
    let sequence = Sequence { steps: 1, batch: 1, hidden };
    has_room_for_buffers(client)
        && half(client).is_some_and(|half| sequence.division(Limits::of(client), half).is_some())
}

/// A unit of the device for each of so many elements.
fn elementwise(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(client, count);
    (cubecl::calculate_cube_count_elemwise(client, count, dim), dim)
}

/// A tensor of f32 numbers that nobody has written yet, on the device of another, without gaps between
/// its rows.
fn empty(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), DType::F32)
}

fn zeros(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    into_contiguous(zeros_client(client, device, shape.into(), DType::F32))
}

/// The same numbers in memory that is nobody else's, without gaps between their rows.
fn copy(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(into_contiguous(tensor).copy())
}
