//! A layer over a sequence, there and back: how its work is divided, and two of the ways.

use std::ops::Range;
use std::sync::LazyLock;

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{FloatDType, Shape, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::FloatKind;
use cubecl::prelude::*;

use super::kernels::{self, Extent, Shares};
use super::products::{Factor, product_in_parts, sum_rows};
use super::reading::{Axes, Reading, swap_gates};
use super::{copy, elementwise, empty, zeros};
use crate::backends::{Layer, Recurrence, WayBack, plain};

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
    /// Groups of units of the device, each with rows of the weight of its own.
    pub(super) parts: usize,
    /// Rows of a part that its units keep in registers.
    pub(super) in_registers: usize,
    /// Rows of a part that a cube keeps in shared memory.
    pub(super) held: usize,
    /// Steps of a launch, at the most.
    pub(super) most_steps: usize,
}

/// What a device can do at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) units: usize,
    /// Numbers in shared memory.
    pub(super) shared: usize,
    /// Multiprocessors, or what stands for them: cubes that keep the device busy.
    pub(super) cubes: usize,
    /// Hidden units that each unit should have, so that it does more with what it reads.
    pub(super) of_unit: usize,
    /// Whether shared memory is nearer than the cache, which a program that plays a card makes of
    /// the same.
    pub(super) is_card: bool,
}

/// What the system tells of them only after reading some files.
static CORES: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

impl Limits {
    pub(super) fn of(client: &Client) -> Self {
        let properties = client.properties();
        let hardware = &properties.hardware;
        let is_card = properties.identity.physical.is_some();
        let (cubes, of_unit) = match is_card {
            // Many units hide each other's waiting.
            true => (hardware.num_streaming_multiprocessors.map_or(128, |n| n as usize), 1),
            // A program that plays a card has as many at a time as there are cores.
            false => (*CORES, 4),
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

/// How a layer goes through a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// A cube by itself, with all hidden units of its lanes.
    Alone(Division),
    /// Cubes that share the lanes, forward and back.
    Shared([Shares; 2]),
    /// Step by step, by products of matrices.
    ByProducts,
}

impl Sequence {
    /// What takes a GPU the least time, by what was measured on one (docs/gpu.md).
    pub(super) fn way(self, limits: Limits, weight_type: ElemType, can_meet: bool) -> Way {
        let division = self.division(limits, weight_type);
        let is_half = weight_type != ElemType::Float(FloatKind::F32);
        let is_held = |d: Division| d.in_registers + d.held == self.hidden.div_ceil(d.parts);
        // What cannot meet reads a weight of this size again at every step; a single one is read once.
        if let Some(division) = division
            && (is_half || is_held(division) || self.steps == 1 || !can_meet)
        {
            return Way::Alone(division);
        }
        let shares = [false, true].map(|is_back| self.shares(limits, can_meet, is_back));
        match shares {
            [Some(forward), Some(back)]
                if self.cycles(forward, limits) + self.cycles(back, limits)
                    < 2 * self.cycles_of_product(limits) =>
            {
                Way::Shared([forward, back])
            }
            _ => Way::ByProducts,
        }
    }

    /// About how many cycles a step takes by a product of matrices.
    fn cycles_of_product(self, limits: Limits) -> usize {
        /// What the host needs for two launches; products that a multiprocessor does in a cycle, of 128;
        /// and what comes behind them.
        const LAUNCHES: usize = 53_000;
        const PRODUCTS: usize = 62;
        const ELSE: usize = 13_000;
        let products = 4 * self.batch * self.hidden * self.hidden;
        LAUNCHES.max(products / (PRODUCTS * limits.cubes) + ELSE)
    }

    /// How a cube takes some lanes through all steps; `None` where it should not: each cube reads
    /// the whole weight at every step, which pays as long as that is small.
    pub(super) fn division(self, limits: Limits, weight_type: ElemType) -> Option<Division> {
        /// Bytes of a weight up to which it is read again and again: those of 256 hidden units.
        const MOST_BYTES: usize = 1 << 20;
        const MOST_LANES: usize = 4;
        const MOST_UNITS: usize = 256;
        /// Hidden units whose sums fit a unit's registers.
        const MOST_OF_UNIT: usize = 4;
        /// Units of the device that hide each other's waiting, and have registers enough.
        const UNITS: usize = 512;
        const MOST_PARTS: usize = 8;
        /// Rows that fit a unit's registers beside all else.
        const MOST_IN_REGISTERS: usize = 16;
        let Self { batch, hidden, .. } = self;
        let units = hidden.div_ceil(limits.of_unit).min(MOST_UNITS).min(limits.units);
        let of_unit = hidden.div_ceil(units);
        let units = hidden.div_ceil(of_unit);
        let parts = match limits.is_card {
            true => (UNITS.min(limits.units) / units).clamp(1, MOST_PARTS.min(hidden)),
            false => 1,
        };
        let rows = hidden.div_ceil(parts);
        // A row of the weight; and of a lane the gates, of which there are two copies on the way back,
        // and the sums of all parts but one.
        let row = 4 * hidden * weight_type.size();
        let of_lane = (2 * rows * parts + (parts - 1) * units * of_unit) * 4 * size_of::<f32>();
        let room = limits.shared * size_of::<f32>();
        if hidden * row > MOST_BYTES || of_unit > MOST_OF_UNIT || room < of_lane {
            return None;
        }
        let lanes = batch.div_ceil(limits.cubes).clamp(1, MOST_LANES.min(room / of_lane));
        let (in_registers, held) = match limits.is_card && self.steps > 1 {
            true => {
                let in_registers = if of_unit == 1 { rows.min(MOST_IN_REGISTERS) } else { 0 };
                let held = (room - lanes * of_lane) / (parts * row);
                (in_registers, held.min(rows - in_registers))
            }
            false => (0, 0),
        };
        let most_steps = kernels::most_steps(held, rows - in_registers - held);
        Some(Division { lanes, of_unit, parts, in_registers, held, most_steps })
    }
}

/// A layer in one launch, and one for the way back; or in some, where it has thousands of steps.
pub(super) fn alone(
    sequence: Sequence,
    Division { lanes, of_unit, parts, in_registers, held, most_steps }: Division,
    weight_type: ElemType,
    reading: Reading,
    Recurrence { weight, h, c, .. }: Recurrence<CubeBackend>,
    keep: bool,
) -> Layer<CubeBackend> {
    let Sequence { steps, batch, hidden } = sequence;
    let by_token = reading.tokens.is_some();
    let extent = Extent { hidden, lanes, of_unit, parts, in_registers, held, keep, by_token };
    let (h, c) = (into_contiguous(h), into_contiguous(c));
    let weight = in_type(swap_gates(weight, Axes::Blocks), weight_type);
    let products = reading.products();
    let (tokens, element) = reading.token_argument(&products);
    let cubes = CubeCount::Static(batch.div_ceil(lanes) as u32, 1, 1);
    let units = CubeDim::new_1d((extent.parts * extent.units()) as u32);
    // The initial states, and those behind each step.
    let states = empty(&products, [steps + 1, batch, hidden]);
    let [kept, cells] = room_to_keep(&products, sequence, keep);
    let client = products.client.clone();
    for first in (0..steps).step_by(most_steps) {
        kernels::sequence_forward::launch(
            &client,
            cubes.clone(),
            units,
            tokens.clone().into_buffer_arg(),
            products.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            h.clone().into_buffer_arg(),
            c.clone().into_buffer_arg(),
            states.clone().into_buffer_arg(),
            kept.clone().into_buffer_arg(),
            cells.clone().into_buffer_arg(),
            first,
            steps.min(first + most_steps),
            batch,
            extent,
            element,
            weight_type,
        );
    }
    let outputs = some_steps(&states, 1..steps + 1);
    if !keep {
        return Layer { outputs, c: cells, back: None };
    }
    let last = step_of(cells.clone(), steps - 1);
    let back = WayBack::new(move |grad_outputs, grad_last| {
        let grad_outputs = into_contiguous(grad_outputs);
        let transposed = transposed(weight, hidden);
        let grad_products = empty(&states, [steps, batch, 4 * hidden]);
        let grad_h = empty(&states, [batch, hidden]);
        let mut has_last = grad_last.is_some();
        // A kernel wants some in any case.
        let mut grad_c = grad_last.map_or_else(|| c.clone(), into_contiguous);
        // One round more than steps, for the gradient of the initial state.
        for first in (0..=steps).step_by(most_steps) {
            let grad_earlier = empty(&states, [batch, hidden]);
            kernels::sequence_backward::launch(
                &client,
                cubes.clone(),
                units,
                transposed.clone().into_buffer_arg(),
                kept.clone().into_buffer_arg(),
                cells.clone().into_buffer_arg(),
                c.clone().into_buffer_arg(),
                grad_outputs.clone().into_buffer_arg(),
                grad_c.into_buffer_arg(),
                grad_products.clone().into_buffer_arg(),
                grad_h.clone().into_buffer_arg(),
                grad_earlier.clone().into_buffer_arg(),
                first,
                (steps + 1).min(first + most_steps),
                steps,
                batch,
                has_last,
                extent,
                weight_type,
            );
            (grad_c, has_last) = (grad_earlier, true);
        }
        reading.gradients(some_steps(&states, 0..steps), grad_products, [grad_h, grad_c])
    });
    Layer { outputs, c: last, back: Some(back) }
}

/// A layer in two launches per step, and as many for the way back: the recurrent product, and all
/// that comes behind it.
pub(super) fn by_products(
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
        let factors = [Factor::rows(state), Factor::columns(weight.clone())];
        let recurrent = product_in_parts(factors);
        let [parts, ..] = recurrent.shape().dims::<3>();
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
            parts,
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
            let grad_products = empty(&read, [steps, batch, 4 * hidden]);
            let of_c = match grad_c {
                // Its numbers are about to change.
                Some(grad) => copy(grad),
                None => zeros(&read, [batch, hidden]),
            };
            let mut recurrent = zeros(&read, [1, batch, hidden]);
            let mut cell = last;
            for (step, earlier) in cells.into_iter().enumerate().rev() {
                let [parts, ..] = recurrent.shape().dims::<3>();
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
                    parts,
                );
                let factors = [Factor::rows(grad_gates), Factor::rows(weight.clone())];
                recurrent = product_in_parts(factors);
                cell = earlier;
            }
            let flat = |tensor: CubeTensor, rows| {
                CubeBackend::float_reshape(tensor, Shape::new([rows, batch * hidden]))
            };
            let [parts, ..] = recurrent.shape().dims::<3>();
            let grad_h = sum_rows(flat(recurrent, parts));
            let grad_h = CubeBackend::float_reshape(grad_h, Shape::new([batch, hidden]));
            let read = plain::read_by_steps::<CubeBackend>(first_h, read);
            reading.gradients(read, grad_products, [grad_h, of_c])
        })
    });
    Layer { outputs, c: cell, back }
}

/// Some of the steps of `[T, B, H]`.
pub(super) fn some_steps(tensor: &CubeTensor, steps: Range<usize>) -> CubeTensor {
    into_contiguous(CubeBackend::float_slice(tensor.clone(), &[Slice::from(steps)]))
}

/// Room for the gates and cell states of all steps, or for the last cell states alone.
pub(super) fn room_to_keep(
    like: &CubeTensor,
    Sequence { steps, batch, hidden }: Sequence,
    keep: bool,
) -> [CubeTensor; 2] {
    match keep {
        true => [empty(like, [steps, batch, 4 * hidden]), empty(like, [steps, batch, hidden])],
        // A kernel wants some in any case.
        false => [empty(like, [4]), empty(like, [batch, hidden])],
    }
}

/// A weight, `[H, H]` of gates, with rows and columns changed places.
pub(super) fn transposed(weight: CubeTensor, hidden: usize) -> CubeTensor {
    let of_gates = CubeBackend::float_reshape(weight, Shape::new([hidden, hidden, 4]));
    into_contiguous(CubeBackend::float_swap_dims(of_gates, 0, 1))
}

/// A tensor in numbers of another type.
pub(super) fn in_type(tensor: CubeTensor, numbers: ElemType) -> CubeTensor {
    match numbers {
        ElemType::Float(FloatKind::F16) => {
            into_contiguous(CubeBackend::float_cast(tensor, FloatDType::F16))
        }
        ElemType::Float(FloatKind::BF16) => {
            into_contiguous(CubeBackend::float_cast(tensor, FloatDType::BF16))
        }
        _ => tensor,
    }
}

/// A step of `[T, B, H]`, as `[B, H]`.
pub(super) fn step_of(tensor: CubeTensor, step: usize) -> CubeTensor {
    let [_, batch, hidden] = tensor.shape().dims();
    let step = CubeBackend::float_slice(tensor, &[Slice::from(step..step + 1)]);
    CubeBackend::float_reshape(step, Shape::new([batch, hidden]))
}
