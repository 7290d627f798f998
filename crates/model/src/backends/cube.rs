//! The operations as kernels for CubeCL's devices: wgpu, vulkan, metal and cuda.
//!
//! What a GPU waits for at these sizes are launches. A whole sequence is one, there and back: lanes
//! never meet, so a cube owns some and goes through time by itself. What is left — the products of
//! all steps at once — the backend's own matrix product does.

mod kernels;

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, zeros_client};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use self::kernels::Extent;
use super::{Kernels, Layer, LayerInput, Recurrence, WayBack, plain};
use crate::AdamWStep;

impl Kernels for CubeBackend {
    fn layer(
        input: LayerInput<Self>,
        recurrence: Recurrence<Self>,
        with_back: bool,
    ) -> Layer<Self> {
        let reading = Reading::new(input);
        let sequence = reading.extent(&recurrence);
        let limits = Limits::of(&recurrence.h.client);
        match sequence.division(limits) {
            Some(division) => in_one(sequence, division, reading, recurrence, with_back),
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

/// What a layer reads, with the four gates of a hidden unit side by side, as the kernels have them:
/// the last axis of products, weights and bias is `[H, 4]` and no longer `[4, H]`.
#[derive(Clone)]
struct Reading {
    input: LayerInput<CubeBackend>,
    /// `[T, B]`, where the input is a vocabulary's embeddings, `[1, V, E]`: a text has far more
    /// places than distinct tokens, which are multiplied once each.
    tokens: Option<CubeTensor>,
}

impl Reading {
    fn new(input: LayerInput<CubeBackend>) -> Self {
        /// Tokens whose gradients are summed by looking for each at every place.
        const FEW: usize = 512;
        let side_by_side = |tensor| swap_gates(tensor, Axes::Blocks);
        let (input, tokens) = match input {
            LayerInput::Products(products) => (LayerInput::Products(side_by_side(products)), None),
            LayerInput::Dense { x, weight, bias } => {
                let (weight, bias) = (side_by_side(weight), side_by_side(bias));
                (LayerInput::Dense { x, weight, bias }, None)
            }
            LayerInput::Tokens { tokens, embedding, weight, bias } => {
                let (weight, bias) = (side_by_side(weight), side_by_side(bias));
                let [vocabulary, width] = embedding.shape().dims();
                if vocabulary <= FEW {
                    let shape = Shape::new([1, vocabulary, width]);
                    let x = CubeBackend::float_reshape(embedding, shape);
                    (LayerInput::Dense { x, weight, bias }, Some(into_contiguous(tokens)))
                } else {
                    (LayerInput::Tokens { tokens, embedding, weight, bias }, None)
                }
            }
        };
        Self { input, tokens }
    }

    fn extent(&self, recurrence: &Recurrence<CubeBackend>) -> Sequence {
        let [batch, hidden] = recurrence.h.shape().dims();
        let places = match (&self.tokens, &self.input) {
            (Some(tokens), _) | (None, LayerInput::Tokens { tokens, .. }) => tokens.shape(),
            (None, LayerInput::Products(products)) => products.shape(),
            (None, LayerInput::Dense { x, .. }) => x.shape(),
        };
        Sequence { steps: places[0], batch, hidden }
    }

    /// The input's share of the gates: of every place, or of every token.
    fn products(&self) -> CubeTensor {
        into_contiguous(plain::products::<CubeBackend>(&self.input))
    }

    /// The tokens for a kernel, which wants some in any case, and their type.
    fn token_argument(&self, like: &CubeTensor) -> (CubeTensor, ElemType) {
        let tokens = self.tokens.clone().unwrap_or_else(|| {
            let (client, device) = (like.client.clone(), like.device.clone());
            empty_device_contiguous_dtype(client, device, Shape::new([1]), DType::I32)
        });
        let element = dtype_to_storage_type(tokens.dtype);
        (tokens, element)
    }

    /// The gradients in the order of [`WayBack`], with the gates in blocks again. `outputs` is
    /// `[T, B, H]`, `h` the initial state.
    fn gradients(
        self,
        h: CubeTensor,
        outputs: CubeTensor,
        grad_products: CubeTensor,
        grad_states: [CubeTensor; 2],
    ) -> Vec<CubeTensor> {
        let of_recurrent =
            plain::recurrent_gradient::<CubeBackend>(h, outputs, grad_products.clone());
        let mut results = match (self.tokens, &self.input) {
            (Some(tokens), LayerInput::Dense { x, .. }) => {
                let shape = x.shape();
                let grad_table = sum_by_token(tokens, grad_products, shape[1]);
                let mut results =
                    plain::input_gradients::<CubeBackend>(self.input.clone(), grad_table);
                let of_embedding = results.remove(0);
                let shape = Shape::new([shape[1], shape[2]]);
                results.insert(0, CubeBackend::float_reshape(of_embedding, shape));
                results
            }
            _ => plain::input_gradients::<CubeBackend>(self.input.clone(), grad_products),
        };
        // All but a vector's or an embedding's have gates.
        let first = usize::from(!matches!(self.input, LayerInput::Products(_)));
        results.push(of_recurrent);
        for gradient in &mut results[first..] {
            *gradient = swap_gates(gradient.clone(), Axes::SideBySide);
        }
        results.extend(grad_states);
        results
    }
}

/// The sums of the rows that belong to the same token: `[1, V, 4H]` from `[T, B, 4H]`.
fn sum_by_token(tokens: CubeTensor, grad_products: CubeTensor, vocabulary: usize) -> CubeTensor {
    let [steps, batch, width] = grad_products.shape().dims();
    let grad_table = empty(&grad_products, [1, vocabulary, width]);
    let (hidden, element) = (width / 4, dtype_to_storage_type(tokens.dtype));
    let client = grad_products.client.clone();
    let (cubes, units) = elementwise(&client, vocabulary * hidden);
    kernels::sum_by_token::launch(
        &client,
        cubes,
        units,
        tokens.into_buffer_arg(),
        grad_products.into_buffer_arg(),
        grad_table.clone().into_buffer_arg(),
        steps * batch,
        vocabulary * hidden,
        hidden,
        element,
    );
    grad_table
}

/// How the last axis of a tensor holds the gates.
#[derive(Clone, Copy)]
enum Axes {
    /// `[4, H]`.
    Blocks,
    /// `[H, 4]`.
    SideBySide,
}

/// The gates the other way than they are, `from`.
fn swap_gates(tensor: CubeTensor, from: Axes) -> CubeTensor {
    let shape = tensor.shape();
    let width = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / width;
    let (first, second) = match from {
        Axes::Blocks => (4, width / 4),
        Axes::SideBySide => (width / 4, 4),
    };
    let split = CubeBackend::float_reshape(tensor, Shape::new([rows, first, second]));
    let swapped = into_contiguous(CubeBackend::float_swap_dims(split, 1, 2));
    CubeBackend::float_reshape(swapped, shape)
}

/// The extent of a sequence.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    steps: usize,
    batch: usize,
    hidden: usize,
}

/// How the work on a sequence is divided.
#[derive(Clone, Copy, Debug)]
struct Division {
    /// Lanes of a cube.
    lanes: usize,
    /// Hidden units of a unit of the device, at most.
    of_unit: usize,
}

/// What a device can do at a time.
#[derive(Clone, Copy, Debug)]
struct Limits {
    units: usize,
    /// Numbers in shared memory.
    shared: usize,
    /// Cubes that keep the device busy, before one takes more than one lane.
    cubes: usize,
}

impl Limits {
    fn of(client: &Client) -> Self {
        let properties = client.properties();
        let hardware = &properties.hardware;
        let cubes = match properties.identity.physical {
            Some(_) => hardware.num_streaming_multiprocessors.map_or(64, |count| count as usize),
            // A program that plays a card runs as many at a time as there are cores.
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        Self {
            units: hardware.max_units_per_cube.min(hardware.max_cube_dim.0) as usize,
            shared: hardware.max_shared_memory_size / size_of::<f32>(),
            cubes,
        }
    }
}

impl Sequence {
    /// How a cube takes some lanes through all steps; `None` where it should not: each cube reads
    /// the whole weight at every step, which pays as long as that is small.
    fn division(self, limits: Limits) -> Option<Division> {
        /// Hidden units up to which a weight, 1 MiB then, is read again and again.
        const MOST_HIDDEN: usize = 256;
        const MOST_LANES: usize = 4;
        /// Hidden units whose sums fit a unit's registers.
        const MOST_OF_UNIT: usize = 4;
        let Self { batch, hidden, .. } = self;
        let of_unit = hidden.div_ceil(Self::units(hidden, limits));
        // On the way back, two copies of the four gates of each lane.
        let room = limits.shared / (8 * hidden);
        if hidden > MOST_HIDDEN || of_unit > MOST_OF_UNIT || room == 0 {
            return None;
        }
        let lanes = (batch / limits.cubes).clamp(1, MOST_LANES.min(room));
        Some(Division { lanes, of_unit })
    }

    /// Units of a cube.
    fn units(hidden: usize, limits: Limits) -> usize {
        hidden.next_multiple_of(32).min(256).min(limits.units)
    }
}

/// A layer in one launch, and one for the way back.
fn in_one(
    sequence: Sequence,
    Division { lanes, of_unit }: Division,
    reading: Reading,
    Recurrence { weight, h, c }: Recurrence<CubeBackend>,
    keep: bool,
) -> Layer<CubeBackend> {
    let Sequence { steps, batch, hidden } = sequence;
    let extent = Extent { hidden, lanes, of_unit, keep, by_token: reading.tokens.is_some() };
    let (h, c) = (into_contiguous(h), into_contiguous(c));
    let weight = swap_gates(weight, Axes::Blocks);
    let products = reading.products();
    let (tokens, element) = reading.token_argument(&products);
    let cubes = CubeCount::Static(batch.div_ceil(lanes) as u32, 1, 1);
    let units = CubeDim::new_1d(hidden.div_ceil(of_unit) as u32);
    let outputs = empty(&products, [steps, batch, hidden]);
    let (kept, cells) = match keep {
        true => {
            (empty(&products, [steps, batch, 4 * hidden]), empty(&products, [steps, batch, hidden]))
        }
        false => (empty(&products, [4]), empty(&products, [batch, hidden])),
    };
    let client = products.client.clone();
    kernels::sequence_forward::launch(
        &client,
        cubes.clone(),
        units,
        tokens.into_buffer_arg(),
        products.into_buffer_arg(),
        weight.clone().into_buffer_arg(),
        h.clone().into_buffer_arg(),
        c.clone().into_buffer_arg(),
        outputs.clone().into_buffer_arg(),
        kept.clone().into_buffer_arg(),
        cells.clone().into_buffer_arg(),
        steps,
        batch,
        extent,
        element,
    );
    if !keep {
        return Layer { outputs, c: cells, back: None };
    }
    let last = step_of(cells.clone(), steps - 1);
    let read = outputs.clone();
    let back = WayBack::new(move |grad_outputs, grad_c| {
        let grad_outputs = into_contiguous(grad_outputs);
        let grad_last = grad_c.map_or_else(|| zeros(&read, [batch, hidden]), into_contiguous);
        let of_gates = CubeBackend::float_reshape(weight, Shape::new([hidden, hidden, 4]));
        let transposed = into_contiguous(CubeBackend::float_swap_dims(of_gates, 0, 1));
        let grad_products = empty(&read, [steps, batch, 4 * hidden]);
        let states = [(); 2].map(|()| empty(&read, [batch, hidden]));
        let [grad_h, grad_c] = states.clone();
        kernels::sequence_backward::launch(
            &client,
            cubes,
            units,
            transposed.into_buffer_arg(),
            kept.into_buffer_arg(),
            cells.into_buffer_arg(),
            c.into_buffer_arg(),
            grad_outputs.into_buffer_arg(),
            grad_last.into_buffer_arg(),
            grad_products.clone().into_buffer_arg(),
            grad_h.into_buffer_arg(),
            grad_c.into_buffer_arg(),
            steps,
            batch,
            extent,
        );
        reading.gradients(h, read, grad_products, states)
    });
    Layer { outputs, c: last, back: Some(back) }
}

/// A layer in two launches per step, and as many for the way back: the recurrent product, and all
/// that comes behind it.
fn step_by_step(
    sequence: Sequence,
    reading: Reading,
    Recurrence { weight, h, c }: Recurrence<CubeBackend>,
    with_back: bool,
) -> Layer<CubeBackend> {
    let Sequence { steps, batch, hidden } = sequence;
    let (first_h, first_c) = (into_contiguous(h), into_contiguous(c));
    let weight = swap_gates(weight, Axes::Blocks);
    let products = reading.products();
    let (tokens, element) = reading.token_argument(&products);
    let outputs = empty(&products, [steps, batch, hidden]);
    let kept = match with_back {
        true => empty(&products, [steps, batch, 4 * hidden]),
        false => empty(&products, [4]),
    };
    let client = products.client.clone();
    let (cubes, units) = elementwise(&client, batch * hidden);
    let (mut state, mut cell) = (first_h.clone(), first_c.clone());
    // The cell states before each step.
    let mut cells = Vec::with_capacity(if with_back { steps } else { 0 });
    for step in 0..steps {
        let recurrent = into_contiguous(CubeBackend::float_matmul(state, weight.clone()));
        let next = [(); 2].map(|()| empty(&products, [batch, hidden]));
        let [next_state, next_cell] = next.clone();
        kernels::step_forward::launch(
            &client,
            cubes.clone(),
            units,
            tokens.clone().into_buffer_arg(),
            products.clone().into_buffer_arg(),
            recurrent.into_buffer_arg(),
            cell.clone().into_buffer_arg(),
            next_state.into_buffer_arg(),
            next_cell.into_buffer_arg(),
            outputs.clone().into_buffer_arg(),
            kept.clone().into_buffer_arg(),
            step,
            batch,
            hidden,
            with_back,
            reading.tokens.is_some(),
            element,
        );
        let [next_state, next_cell] = next;
        let earlier = std::mem::replace(&mut cell, next_cell);
        if with_back {
            cells.push(earlier);
        }
        state = next_state;
    }
    let back = with_back.then(|| {
        let (read, last) = (outputs.clone(), cell.clone());
        WayBack::new(move |grad_outputs, grad_c| {
            let grad_outputs = into_contiguous(grad_outputs);
            let transposed = CubeBackend::float_transpose(weight);
            let grad_products = empty(&read, [steps, batch, 4 * hidden]);
            let of_c = match grad_c {
                // Its numbers are about to change.
                Some(grad) => into_contiguous(grad).copy(),
                None => zeros(&read, [batch, hidden]),
            };
            let mut recurrent = zeros(&read, [batch, hidden]);
            let mut cell = last;
            for (step, earlier) in cells.into_iter().enumerate().rev() {
                let grad_gates = empty(&read, [batch, 4 * hidden]);
                kernels::step_backward::launch(
                    &client,
                    cubes.clone(),
                    units,
                    kept.clone().into_buffer_arg(),
                    cell.into_buffer_arg(),
                    earlier.clone().into_buffer_arg(),
                    grad_outputs.clone().into_buffer_arg(),
                    recurrent.into_buffer_arg(),
                    of_c.clone().into_buffer_arg(),
                    grad_gates.clone().into_buffer_arg(),
                    grad_products.clone().into_buffer_arg(),
                    step,
                    batch * hidden,
                );
                recurrent =
                    into_contiguous(CubeBackend::float_matmul(grad_gates, transposed.clone()));
                cell = earlier;
            }
            reading.gradients(first_h, read, grad_products, [recurrent, of_c])
        })
    });
    Layer { outputs, c: cell, back }
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

/// A step of `[T, B, H]`, as `[B, H]`.
fn step_of(tensor: CubeTensor, step: usize) -> CubeTensor {
    let [_, batch, hidden] = tensor.shape().dims();
    let step = CubeBackend::float_slice(tensor, &[Slice::from(step..step + 1)]);
    CubeBackend::float_reshape(step, Shape::new([batch, hidden]))
}

#[cfg(all(test, feature = "wgpu"))]
mod tests {
    use burn::backend::DispatchDevice;
    use burn::backend::ops::IntTensorOps;
    use burn::tensor::{Device, DeviceType, TensorData};
    use burn_cubecl::cubecl::Device as CubeDevice;

    use super::*;

    fn device() -> Option<CubeDevice> {
        let device = Device::enumerate(DeviceType::Wgpu).into_vec().into_iter().next();
        match device.as_ref().map(Device::as_dispatch) {
            Some(DispatchDevice::Cube(device)) => Some(device.clone()),
            _ => {
                eprintln!("SKIPPED: the kernels for a GPU, for no adapter exists");
                None
            }
        }
    }

    /// `cos` of multiples of an angle that follows from `n`.
    fn tensor<const D: usize>(n: usize, shape: [usize; D], device: &CubeDevice) -> CubeTensor {
        let angle = 1.0 + n as f32 / 7.0;
        let count = shape.iter().product();
        let numbers: Vec<f32> =
            (0..count).map(|k| 0.5 * (k as f32 * angle + n as f32).cos()).collect();
        CubeBackend::float_from_data(TensorData::new(numbers, shape), device)
    }

    fn numbers(tensor: CubeTensor) -> Vec<f32> {
        let data = pollster(CubeBackend::float_into_data(tensor));
        data.try_into_vec().expect("float32")
    }

    /// Reading from a device that is not the web's is done when it returns.
    fn pollster<T, E: std::fmt::Debug>(future: impl Future<Output = Result<T, E>>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut future = std::pin::pin!(future);
        loop {
            if let std::task::Poll::Ready(result) = future.as_mut().poll(&mut context) {
                return result.expect("the device answers");
            }
            std::thread::yield_now();
        }
    }

    fn assert_close(name: &str, got: CubeTensor, expected: CubeTensor) {
        assert_eq!(got.shape(), expected.shape(), "the shape of {name}");
        let (got, expected) = (numbers(got), numbers(expected));
        let largest = expected.iter().fold(1e-30_f32, |most, value| most.max(value.abs()));
        for (got, expected) in got.iter().zip(&expected) {
            // Not a number is not close either.
            assert!((got - expected).abs() <= 1e-5 * largest, "{name}: {got}, not {expected}");
        }
    }

    /// However the work is divided over cubes and units, and step by step.
    #[test]
    fn every_division_of_the_work_makes_the_plain_layer() {
        let Some(device) = device() else { return };
        let divisions = [(1, 1), (2, 1), (1, 2), (3, 4)];
        let divisions = divisions.map(|(lanes, of_unit)| Some(Division { lanes, of_unit }));
        for [steps, batch, hidden] in [[1, 1, 1], [5, 3, 7], [4, 5, 33]] {
            let sequence = Sequence { steps, batch, hidden };
            let (weight, bias) =
                (tensor(1, [4, 4 * hidden], &device), tensor(2, [4 * hidden], &device));
            let tokens: Vec<i32> = (0..steps * batch).map(|k| (k * k % 6) as i32).collect();
            let tokens = TensorData::new(tokens, [steps, batch]);
            // A small vocabulary, whose products are formed once, and a large one.
            let inputs = [
                LayerInput::Products(tensor(0, [steps, batch, 4 * hidden], &device)),
                LayerInput::Dense {
                    x: tensor(0, [steps, batch, 4], &device),
                    weight: weight.clone(),
                    bias: bias.clone(),
                },
                LayerInput::Tokens {
                    tokens: CubeBackend::int_from_data(tokens.clone(), &device),
                    embedding: tensor(0, [7, 4], &device),
                    weight: weight.clone(),
                    bias: bias.clone(),
                },
                LayerInput::Tokens {
                    tokens: CubeBackend::int_from_data(tokens, &device),
                    embedding: tensor(0, [700, 4], &device),
                    weight,
                    bias,
                },
            ];
            let recurrence = Recurrence {
                weight: tensor(3, [hidden, 4 * hidden], &device),
                h: tensor(4, [batch, hidden], &device),
                c: tensor(5, [batch, hidden], &device),
            };
            let grad = tensor(6, [steps, batch, hidden], &device);
            for (index, input) in inputs.into_iter().enumerate() {
                let grad_c = (index % 2 == 0).then(|| tensor(7, [batch, hidden], &device));
                let plain = plain::layer::<CubeBackend>(input.clone(), recurrence.clone(), true);
                let expected = plain.back.expect("asked for").go(grad.clone(), grad_c.clone());
                for division in divisions.into_iter().chain([None]) {
                    let name = format!("input {index}, {division:?}, {sequence:?}");
                    let run = |keep| {
                        let (reading, recurrence) =
                            (Reading::new(input.clone()), recurrence.clone());
                        match division {
                            Some(division) => in_one(sequence, division, reading, recurrence, keep),
                            None => step_by_step(sequence, reading, recurrence, keep),
                        }
                    };
                    let (without, got) = (run(false), run(true));
                    for layer in [&without, &got] {
                        let name = format!("{name}: outputs");
                        assert_close(&name, layer.outputs.clone(), plain.outputs.clone());
                        assert_close(&name, layer.c.clone(), plain.c.clone());
                    }
                    let got = got.back.expect("asked for").go(grad.clone(), grad_c.clone());
                    assert_eq!(got.len(), expected.len());
                    for (index, (got, expected)) in got.into_iter().zip(&expected).enumerate() {
                        assert_close(&format!("{name}: gradient {index}"), got, expected.clone());
                    }
                }
            }
        }
    }

    #[test]
    fn losses_are_the_plain_ones() {
        let Some(device) = device() else { return };
        for vocabulary in [1, 76, 1500] {
            let (input, weight) = (tensor(0, [6, 4], &device), tensor(1, [4, vocabulary], &device));
            let bias = tensor(2, [vocabulary], &device);
            let targets: Vec<i32> = (0..6).map(|k| (k * 5 % vocabulary) as i32).collect();
            let targets = CubeBackend::int_from_data(TensorData::new(targets, [6]), &device);
            let arguments = || (input.clone(), weight.clone(), bias.clone(), targets.clone());
            let (i, w, b, t) = arguments();
            let (loss, gradients) = CubeBackend::linear_cross_entropy(i, w, b, t, true);
            let (i, w, b, t) = arguments();
            let (expected_loss, expected) =
                plain::linear_cross_entropy::<CubeBackend>(i, w, b, t, true);
            assert_close("loss", loss, expected_loss);
            for (got, expected) in
                gradients.into_iter().flatten().zip(expected.into_iter().flatten())
            {
                assert_close("gradient", got, expected);
            }
        }
    }

    /// What is no number comes out as none, and is not clamped into one.
    #[test]
    fn what_is_no_number_is_told() {
        let Some(device) = device() else { return };
        let products = || {
            let numbers = vec![f32::NAN; 4 * 3];
            CubeBackend::float_from_data(TensorData::new(numbers, [1, 1, 12]), &device)
        };
        let recurrence = Recurrence {
            weight: tensor(3, [3, 12], &device),
            h: tensor(4, [1, 3], &device),
            c: tensor(5, [1, 3], &device),
        };
        let layer = CubeBackend::layer(LayerInput::Products(products()), recurrence, false);
        assert!(numbers(layer.outputs).iter().all(|number| number.is_nan()));
    }

    #[test]
    fn large_weights_and_small_devices_go_step_by_step() {
        let division = |hidden, batch, units, shared| {
            Sequence { steps: 9, batch, hidden }.division(Limits { units, shared, cubes: 64 })
        };
        let (lanes, of_unit) = (|d: Division| d.lanes, |d: Division| d.of_unit);
        assert_eq!(division(128, 1, 1024, 8192).map(lanes), Some(1));
        assert_eq!(division(128, 256, 1024, 8192).map(lanes), Some(4));
        assert_eq!(division(256, 256, 1024, 4096).map(lanes), Some(2), "what memory allows");
        assert_eq!(division(256, 1, 128, 4096).map(of_unit), Some(2));
        assert_eq!(division(256, 1, 32, 4096).map(lanes), None, "too many for a unit");
        assert_eq!(division(256, 1, 256, 2000).map(lanes), None, "too many for a group's memory");
        assert_eq!(division(257, 1, 1024, 8192).map(lanes), None, "a large weight");
    }
}
#[cfg(all(test, feature = "wgpu"))]
#[allow(unused_qualifications, clippy::all)]
mod timing {
    use super::*;
    use burn::backend::ops::*;
    use burn::tensor::{Device, DeviceType, TensorData};
    fn sync(d: &burn_cubecl::cubecl::Device) {
        <CubeBackend as burn::backend::Backend>::sync(d).unwrap();
    }
    fn time(name: &str, d: &burn_cubecl::cubecl::Device, mut f: impl FnMut()) {
        for _ in 0..3 {
            f();
        }
        sync(d);
        let n = 10;
        let t = std::time::Instant::now();
        for _ in 0..n {
            f();
        }
        sync(d);
        println!("{name:30} {:.2} ms", t.elapsed().as_secs_f64() * 1e3 / n as f64);
    }
    #[test]
    #[ignore]
    fn timing() {
        let device = Device::enumerate(DeviceType::Wgpu).into_vec().into_iter().next().unwrap();
        let burn::backend::DispatchDevice::Cube(d) = device.as_dispatch().clone() else { panic!() };
        let t = |shape: Vec<usize>| {
            let n: usize = shape.iter().product();
            let v: Vec<f32> = (0..n).map(|k| (k as f32).cos() * 0.1).collect();
            CubeBackend::float_from_data(TensorData::new(v, shape), &d)
        };
        let (steps, batch, h, v) = (50, 8, 64, 76);
        let tokens: Vec<i32> = (0..steps * batch).map(|k| (k * 7919 % v) as i32).collect();
        let tok = CubeBackend::int_from_data(TensorData::new(tokens, [steps, batch]), &d);
        let input = LayerInput::<CubeBackend>::Tokens {
            tokens: tok.clone(),
            embedding: t(vec![v, h]),
            weight: t(vec![h, 4 * h]),
            bias: t(vec![4 * h]),
        };
        let rec = Recurrence::<CubeBackend> {
            weight: t(vec![h, 4 * h]),
            h: t(vec![batch, h]),
            c: t(vec![batch, h]),
        };
        time("products", &d, || {
            plain::products::<CubeBackend>(&input);
        });
        time("layer no back", &d, || {
            CubeBackend::layer(input.clone(), rec.clone(), false);
        });
        time("layer with back", &d, || {
            CubeBackend::layer(input.clone(), rec.clone(), true);
        });
        time("layer there and back", &d, || {
            let l = CubeBackend::layer(input.clone(), rec.clone(), true);
            l.back.unwrap().go(l.outputs, None);
        });
        let gp = t(vec![steps, batch, 4 * h]);
        let (fx, fw, fb) = (t(vec![400, h]), t(vec![h, v]), t(vec![v]));
        let tg = CubeBackend::int_reshape(tok, Shape::new([400]));
        time("linear 400x64x76", &d, || {
            plain::linear::<CubeBackend>(fx.clone(), fw.clone(), fb.clone());
        });
        let gl = t(vec![400, v]);
        time("linear back", &d, || {
            plain::linear_back::<CubeBackend>(fx.clone(), fw.clone(), gl.clone());
        });
        time("cross entropy", &d, || {
            CubeBackend::linear_cross_entropy(fx.clone(), fw.clone(), fb.clone(), tg.clone(), true);
        });
        time("sum", &d, || {
            CubeBackend::float_sum(gl.clone());
        });
        time("sum dim", &d, || {
            CubeBackend::float_sum_dim(gl.clone(), 0);
        });
        time("matmul 400x64x256", &d, || {
            CubeBackend::float_matmul(fx.clone(), rec.weight.clone());
        });
        time("matmul 64x400x256", &d, || {
            CubeBackend::float_matmul(
                CubeBackend::float_transpose(fx.clone()),
                CubeBackend::float_reshape(gp.clone(), Shape::new([400, 256])),
            );
        });
        let step = AdamWStep {
            learning_rate: 1e-3,
            beta_1: 0.9,
            beta_2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.01,
            time: 3,
        };
        time("adamw 64x256", &d, || {
            CubeBackend::adamw(
                step,
                rec.weight.clone(),
                rec.weight.clone(),
                [rec.weight.clone(), rec.weight.clone()],
            );
        });
        time("add [400,256]", &d, || {
            CubeBackend::float_add(gp.clone(), gp.clone());
        });
        let (a, b) = (t(vec![1024, 1024]), t(vec![1024, 1024]));
        time("matmul 1024", &d, || {
            CubeBackend::float_matmul(a.clone(), b.clone());
        });
    }
}
