//! A layer over a sequence, there and back: in one launch, or step by step.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{FloatDType, Shape, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::FloatKind;
use cubecl::prelude::*;

use super::kernels::{self, Extent};
use super::reading::{Axes, Reading, swap_gates};
use super::{elementwise, empty, zeros};
use crate::backends::{Layer, Recurrence, WayBack};

/// The extent of a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    pub(super) steps: usize,
    pub(super) batch: usize,
    pub(super) hidden: usize,
}

/// How the work on a sequence is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Division {
    /// Lanes of a cube.
    pub(super) lanes: usize,
    /// Hidden units of a unit of the device, at most.
    pub(super) of_unit: usize,
    /// Rows of the weight that a cube keeps in shared memory.
    pub(super) held: usize,
}

/// What a device can do at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) units: usize,
    /// Numbers in shared memory.
    pub(super) shared: usize,
    /// Cubes that keep the device busy, before one takes more than one lane.
    pub(super) cubes: usize,
    /// Hidden units that each unit should have, so that it does more with what it reads.
    pub(super) of_unit: usize,
    /// Whether shared memory is nearer than the cache, which a program that plays a card makes of
    /// the same.
    pub(super) is_card: bool,
}

impl Limits {
    pub(super) fn of(client: &Client) -> Self {
        let properties = client.properties();
        let hardware = &properties.hardware;
        let is_card = properties.identity.physical.is_some();
        let (cubes, of_unit) = match is_card {
            // Many units hide each other's waiting.
            true => (hardware.num_streaming_multiprocessors.map_or(64, |n| n as usize), 1),
            // A program that plays a card has as many at a time as there are cores.
            false => (std::thread::available_parallelism().map_or(1, usize::from), 4),
        };
        Self {
            units: hardware.max_units_per_cube.min(hardware.max_cube_dim.0) as usize,
            shared: hardware.max_shared_memory_size / size_of::<f32>(),
            cubes,
            of_unit,
            is_card,
        }
    }
}

impl Sequence {
    /// How a cube takes some lanes through all steps; `None` where it should not: each cube reads
    /// the whole weight at every step, which pays as long as that is small.
    pub(super) fn division(self, limits: Limits, weight_type: ElemType) -> Option<Division> {
        /// Bytes of a weight up to which it is read again and again: those of 256 hidden units.
        const MOST_BYTES: usize = 1 << 20;
        const MOST_LANES: usize = 4;
        const MOST_UNITS: usize = 256;
        /// Hidden units whose sums fit a unit's registers.
        const MOST_OF_UNIT: usize = 4;
        let Self { batch, hidden, .. } = self;
        let units = hidden.div_ceil(limits.of_unit).min(MOST_UNITS).min(limits.units);
        let of_unit = hidden.div_ceil(units);
        // A row of the weight, and a lane's gates, of which there are two copies on the way back.
        let (row, of_lane) = (4 * hidden * weight_type.size(), 2 * 4 * hidden * size_of::<f32>());
        let room = limits.shared * size_of::<f32>();
        if hidden * row > MOST_BYTES || of_unit > MOST_OF_UNIT || room < of_lane {
            return None;
        }
        let lanes = (batch / limits.cubes).clamp(1, MOST_LANES.min(room / of_lane));
        // Where a multiprocessor has one cube, it has all of the memory.
        let is_alone = batch.div_ceil(lanes) <= limits.cubes;
        let held = match limits.is_card && is_alone && self.steps > 1 {
            true => hidden.min((room - lanes * of_lane) / row),
            false => 0,
        };
        Some(Division { lanes, of_unit, held })
    }
}

/// A layer in one launch, and one for the way back.
pub(super) fn in_one(
    sequence: Sequence,
    Division { lanes, of_unit, held }: Division,
    weight_type: ElemType,
    reading: Reading,
    Recurrence { weight, h, c, .. }: Recurrence<CubeBackend>,
    keep: bool,
) -> Layer<CubeBackend> {
    let Sequence { steps, batch, hidden } = sequence;
    let extent = Extent { hidden, lanes, of_unit, held, keep, by_token: reading.tokens.is_some() };
    let (h, c) = (into_contiguous(h), into_contiguous(c));
    let weight = in_type(swap_gates(weight, Axes::Blocks), weight_type);
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
        weight_type,
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
            weight_type,
        );
        reading.gradients(h, read, grad_products, states)
    });
    Layer { outputs, c: last, back: Some(back) }
}

/// A layer in two launches per step, and as many for the way back: the recurrent product, and all
/// that comes behind it.
pub(super) fn step_by_step(
    sequence: Sequence,
    reading: Reading,
    Recurrence { weight, h, c, .. }: Recurrence<CubeBackend>,
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

/// A tensor in numbers of another type.
pub(super) fn in_type(tensor: CubeTensor, numbers: ElemType) -> CubeTensor {
    match numbers {
        ElemType::Float(FloatKind::F16) => CubeBackend::float_cast(tensor, FloatDType::F16),
        ElemType::Float(FloatKind::BF16) => CubeBackend::float_cast(tensor, FloatDType::BF16),
        _ => tensor,
    }
}

/// A step of `[T, B, H]`, as `[B, H]`.
pub(super) fn step_of(tensor: CubeTensor, step: usize) -> CubeTensor {
    let [_, batch, hidden] = tensor.shape().dims();
    let step = CubeBackend::float_slice(tensor, &[Slice::from(step..step + 1)]);
    CubeBackend::float_reshape(step, Shape::new([batch, hidden]))
}
