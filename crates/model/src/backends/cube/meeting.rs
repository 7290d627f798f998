//! A layer whose cubes share the lanes: in one launch where they may meet, or in one per step.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::{empty_device_contiguous_dtype, zeros_client};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::kernels::{self, Shares};
use super::layer::{Limits, Sequence, room_to_keep, some_steps, step_of, transposed};
use super::reading::{Axes, Reading, swap_gates};
use super::{copy, empty, zeros};
use crate::backends::{Layer, Recurrence, WayBack};

impl Sequence {
    /// How cubes share the lanes, on the way forward or back; `None` on a device too small for it.
    pub(super) fn shares(self, limits: Limits, meets: bool, is_back: bool) -> Option<Shares> {
        const LANES: [usize; 6] = [16, 32, 8, 4, 2, 1];
        const UNITS: [usize; 4] = [16, 8, 4, 2];
        let all = LANES.into_iter().flat_map(|lanes| UNITS.map(|units| (lanes, units)));
        all.filter_map(|(lanes, units)| {
            let shares = self.share(limits, meets, is_back, [lanes, units])?;
            Some((self.cycles(shares, limits), shares))
        })
        .min_by_key(|&(cycles, _)| cycles)
        .map(|(_, shares)| shares)
    }

    /// About how many cycles a step takes.
    pub(super) fn cycles(self, shares: Shares, limits: Limits) -> usize {
        /// What the host needs for a launch.
        const LAUNCH: usize = 32_000;
        match shares.meets {
            true => self.batch.div_ceil(shares.lanes).div_ceil(shares.splits) * shares.cycles(),
            false => LAUNCH.max(shares.cubes().div_ceil(limits.cubes) * shares.cycles()),
        }
    }

    /// The same with so many lanes and hidden units of a cube.
    fn share(
        self,
        limits: Limits,
        meets: bool,
        is_back: bool,
        [lanes, units]: [usize; 2],
    ) -> Option<Shares> {
        const UNITS: usize = 256;
        const MOST_PARTS: usize = 32;
        /// Numbers that a unit of the device fetches at a time.
        const MOST_TURNS: usize = 16;
        let Self { batch, hidden, .. } = self;
        let (groups, tiles) = (hidden.div_ceil(units), batch.div_ceil(lanes));
        let splits = if meets { tiles.min(limits.cubes / groups) } else { tiles };
        let lanes_each = lanes.min(4);
        let of_part = (lanes / lanes_each) * (units / kernels::UNITS_EACH);
        let most_parts = (UNITS.min(limits.units) / of_part).min(MOST_PARTS);
        if splits == 0 || most_parts == 0 || lanes > batch.next_power_of_two() {
            return None;
        }
        let with = |held, parts, chunk| Shares {
            hidden,
            units,
            lanes,
            lanes_each,
            splits,
            parts,
            chunk,
            held,
            meets,
            keep: false,
            by_token: false,
        };
        let room = limits.shared * size_of::<f32>();
        let fits = |shares: &Shares| {
            let Shares { chunk, parts, .. } = *shares;
            let is_needed = chunk == 32 || chunk <= hidden.next_power_of_two();
            let is_fetched = lanes * chunk <= MOST_TURNS * of_part * parts;
            is_needed && is_fetched && chunk >= parts && shares.shared_bytes(is_back) <= room
        };
        // Rather fewer parts, where memory is short, than a smaller tile.
        let parts = (0..=most_parts.ilog2()).rev().map(|power| 1 << power);
        let sizes = parts.flat_map(|parts| [512, 256, 128, 64, 32].map(|chunk| (parts, chunk)));
        [meets && limits.is_card, false].into_iter().find_map(|held| {
            sizes.clone().map(|(parts, chunk)| with(held, parts, chunk)).find(fits)
        })
    }
}

/// Whether cubes may wait for one another, and see what another wrote: on a card that promises the
/// second and tells how many cubes it runs at a time, as NVIDIA's do through CUDA. On others nobody has
/// tried it.
pub(super) fn can_meet(client: &Client) -> bool {
    let properties = client.properties();
    properties.features.device_memory_scope
        && properties.hardware.num_streaming_multiprocessors.is_some()
}

/// A layer in one launch, and one for the way back; or as many of each as there are steps.
pub(super) fn shared(
    sequence: Sequence,
    [shares, shares_back]: [Shares; 2],
    reading: Reading,
    Recurrence { weight, h, c, .. }: Recurrence<CubeBackend>,
    keep: bool,
) -> Layer<CubeBackend> {
    let Sequence { steps, batch, hidden } = sequence;
    let shares = Shares { keep, by_token: reading.tokens.is_some(), ..shares };
    let (h, c) = (into_contiguous(h), into_contiguous(c));
    let weight = swap_gates(weight, Axes::Blocks);
    let products = reading.products();
    let (tokens, element) = reading.token_argument(&products);
    // The initial states, and those behind each step.
    let states = into_contiguous(CubeBackend::float_slice_assign(
        empty(&products, [steps + 1, batch, hidden]),
        &[Slice::from(0..1)],
        CubeBackend::float_reshape(h, Shape::new([1, batch, hidden])),
    ));
    let [kept, cells] = room_to_keep(&products, sequence, keep);
    let client = products.client.clone();
    let cubes = CubeCount::Static(shares.cubes() as u32, 1, 1);
    let units = CubeDim::new_1d(shares.of_cube() as u32);
    let meeting = meeting(shares, batch, &products);
    let stride = if shares.meets { steps } else { 1 };
    for first in (0..steps).step_by(stride) {
        kernels::meeting_forward::launch(
            &client,
            cubes.clone(),
            units,
            tokens.clone().into_buffer_arg(),
            products.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            c.clone().into_buffer_arg(),
            states.clone().into_buffer_arg(),
            kept.clone().into_buffer_arg(),
            cells.clone().into_buffer_arg(),
            meeting.clone().into_buffer_arg(),
            first,
            first + stride,
            batch,
            shares,
            element,
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
        let grad_c = match grad_last {
            // Its numbers are about to change.
            Some(grad) => copy(grad),
            None => zeros(&states, [batch, hidden]),
        };
        let shares = shares_back;
        let cubes = CubeCount::Static(shares.cubes() as u32, 1, 1);
        let units = CubeDim::new_1d(shares.of_cube() as u32);
        let meeting = self::meeting(shares, batch, &states);
        // One round more than steps, for the gradient of the initial state.
        let rounds = if shares.meets { steps + 1 } else { 1 };
        for last in (0..=steps).rev().step_by(rounds) {
            kernels::meeting_backward::launch(
                &client,
                cubes.clone(),
                units,
                transposed.clone().into_buffer_arg(),
                kept.clone().into_buffer_arg(),
                cells.clone().into_buffer_arg(),
                c.clone().into_buffer_arg(),
                grad_outputs.clone().into_buffer_arg(),
                grad_products.clone().into_buffer_arg(),
                grad_h.clone().into_buffer_arg(),
                grad_c.clone().into_buffer_arg(),
                meeting.clone().into_buffer_arg(),
                last,
                rounds,
                steps,
                batch,
                shares,
            );
        }
        reading.gradients(some_steps(&states, 0..steps), grad_products, [grad_h, grad_c])
    });
    Layer { outputs, c: last, back: Some(back) }
}

/// Where cubes meet: zeros.
fn meeting(shares: Shares, batch: usize, like: &CubeTensor) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    match shares.meets {
        true => {
            let shape = Shape::new([2 + batch.div_ceil(shares.lanes)]);
            zeros_client(client, device, shape, DType::U32)
        }
        false => empty_device_contiguous_dtype(client, device, Shape::new([1]), DType::U32),
    }
}
