//! The operations as kernels for CubeCL's devices: wgpu, vulkan, metal and cuda.
//!
//! What a GPU waits for at these sizes are launches. A whole sequence is one, there and back: lanes
//! never meet, so a cube owns some and goes through time by itself. What is left — the products of
//! all steps at once — the backend's own matrix product does.

mod kernels;
mod layer;
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

use self::layer::{Limits, Sequence, in_one, step_by_step};
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
        match sequence.division(limits, weight) {
            Some(division) => in_one(sequence, division, weight, reading, recurrence, with_back),
            None => step_by_step(sequence, reading, recurrence, with_back),
        }
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
            return plain::linear_cross_entropy::<Self>(
                input,
                weight,
                bias,
                targets,
                with_gradients,
            );
        }
        let [rows, _] = input.shape().dims();
        let logits = into_contiguous(plain::linear::<Self>(input.clone(), weight.clone(), bias));
        // Its numbers are about to change: nobody else may have them.
        let logits = if logits.can_mut() { logits } else { logits.copy() };
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
        let gradients = with_gradients.then(|| plain::linear_back::<Self>(input, weight, logits));
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

/// A tensor of f32 numbers that nobody has written yet, on the device of another.
fn empty(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), DType::F32)
}

fn zeros(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    zeros_client(client, device, shape.into(), DType::F32)
}
