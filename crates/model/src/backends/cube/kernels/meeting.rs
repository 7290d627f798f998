//! A sequence whose cubes share the lanes, and meet at every step.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

mod tile;

use cubecl::prelude::*;

use self::tile::{
    add_chunk, fetch, hand_over, hold, lay_out, number_of, place, position, take_part, unit_of,
    wait_for_all,
};
use super::{Gates, activate, next_cell, row_of, squash, unit_backward};

/// Hidden units of a unit of the device.
pub(in crate::backends::cube) const UNITS_EACH: usize = 2;

/// How a sequence is divided: what the kernels are compiled for. A cube has a share, some hidden units
/// of some lanes, and goes through its lanes by tiles.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(in crate::backends::cube) struct Shares {
    /// H.
    pub(in crate::backends::cube) hidden: usize,
    /// Hidden units of a cube.
    pub(in crate::backends::cube) units: usize,
    /// Lanes of a tile.
    pub(in crate::backends::cube) lanes: usize,
    /// Lanes of a unit of the device.
    pub(in crate::backends::cube) lanes_each: usize,
    /// Into how many shares the tiles are divided.
    pub(in crate::backends::cube) splits: usize,
    /// Groups of units of the device, each with rows of the weight of its own.
    pub(in crate::backends::cube) parts: usize,
    /// Numbers of each lane that lie in shared memory at a time; `parts` divides them.
    pub(in crate::backends::cube) chunk: usize,
    /// Whether a cube keeps its columns of the weight in shared memory.
    pub(in crate::backends::cube) held: bool,
    /// Whether the launch is of many steps.
    pub(in crate::backends::cube) meets: bool,
    /// Whether gates and cell states of all steps are kept.
    pub(in crate::backends::cube) keep: bool,
    /// Whether products are those of the vocabulary, a row for each token.
    pub(in crate::backends::cube) by_token: bool,
}

impl Shares {
    /// Units of the device of a part.
    pub(in crate::backends::cube) const fn of_part(self) -> usize {
        (self.lanes / self.lanes_each) * (self.units / UNITS_EACH)
    }

    /// Units of the device of a cube.
    pub(in crate::backends::cube) const fn of_cube(self) -> usize {
        self.parts * self.of_part()
    }

    const fn groups(self) -> usize {
        self.hidden.div_ceil(self.units)
    }

    /// Cubes that have all of it.
    pub(in crate::backends::cube) const fn cubes(self) -> usize {
        self.groups() * self.splits
    }

    /// Places of a tile that a unit of the device ends.
    const fn places(self) -> usize {
        (self.lanes * self.units).div_ceil(self.of_cube())
    }

    /// Numbers of a chunk that a unit of the device fetches.
    const fn turns(self) -> usize {
        (self.lanes * self.chunk).div_ceil(self.of_cube())
    }

    /// Whether no tile has hidden units beyond the last, nor a chunk numbers.
    const fn is_even(self) -> bool {
        self.hidden.is_multiple_of(self.units) && self.hidden.is_multiple_of(self.chunk)
    }

    /// About how many cycles a GPU needs for a tile of a step.
    pub(in crate::backends::cube) const fn cycles(self) -> usize {
        /// Products of a cycle, of which a multiprocessor could do 128; bytes that it reads from the
        /// cache; and what the steps' beginning and end take.
        const PRODUCTS: usize = 50;
        const BYTES: usize = 28;
        const ELSE: usize = 800;
        let products = self.lanes * self.units * 4 * self.hidden;
        // Hidden states on the way forward, four times as much on the way back.
        let numbers = self.lanes * self.hidden * 10;
        let weights = if self.held { 0 } else { self.units * self.hidden * 16 };
        products / PRODUCTS + (numbers + weights) / BYTES + ELSE
    }

    /// Bytes of shared memory on the way forward or back.
    pub(in crate::backends::cube) const fn shared_bytes(self, is_back: bool) -> usize {
        /// What cubes agree upon when they meet.
        const ELSE: usize = 64;
        let (number, sum) = if is_back { (16, 4) } else { (4, 16) };
        let numbers = number * self.lanes * (self.chunk + 1);
        let sums = sum * self.parts * self.lanes * self.units;
        let weights = if self.held { 16 * self.hidden * self.units } else { 0 };
        numbers + sums + weights + ELSE
    }
}

/// The steps from `first` to `last` of a layer's recurrence.
///
/// products `[T, B, H]` of gates, or `[V, H]` with tokens `[T, B]`; weight `[H, H]` of gates, c
/// `[B, H]`; states `[T + 1, B, H]`, of which the first is given; kept `[T, B, H]` of gates behind
/// their activations and cells `[T, B, H]`, or without `keep` nothing and `[B, H]`; meeting zeros,
/// two and one for every tile.
#[cube(launch)]
pub(in crate::backends::cube) fn meeting_forward<I: Int>(
    tokens: &[I],
    products: &[Gates],
    weight: &[Gates],
    c: &[f32],
    states: &mut [f32],
    kept: &mut [Gates],
    cells: &mut [f32],
    meeting: &[Atomic<u32>],
    first: usize,
    last: usize,
    batch: usize,
    #[comptime] shares: Shares,
    #[define(I)] _token: ElemType,
) {
    let hidden = comptime!(shares.hidden);
    let mut numbers = Shared::<[f32]>::new_slice(comptime!(shares.lanes * (shares.chunk + 1)));
    let mut partial =
        Shared::<[Gates]>::new_slice(comptime!(shares.parts * shares.lanes * shares.units));
    let mut sums = Array::<Gates>::new(comptime!(shares.lanes_each * UNITS_EACH));
    let mut fetched = Array::<f32>::new(comptime!(shares.turns()));
    let mut inputs = Array::<Gates>::new(comptime!(shares.places()));
    let mut before = Array::<f32>::new(comptime!(shares.places()));

    let (own, present) = take_part(meeting, shares);
    let mut near = hold(shares);
    let tiles = batch.div_ceil(shares.lanes);
    let share_tiles = tiles.div_ceil(shares.splits);

    for step in first..last {
        let mut share = own;
        while share < comptime!(shares.cubes()) {
            let first_unit = (share % comptime!(shares.groups())) * shares.units;
            let split = share / comptime!(shares.groups());
            if step == first || present < comptime!(shares.cubes()) {
                fetch(&mut near, weight, first_unit, shares);
            }
            for round in 0..share_tiles {
                let tile = split * share_tiles + round;
                if tile < tiles {
                    let first_lane = tile * shares.lanes;
                    // What nobody hands over is read before the others are waited for.
                    #[unroll]
                    for index in 0..shares.places() {
                        let (lane, u, is_place) =
                            place(index, first_lane, first_unit, batch, shares);
                        inputs[index] = Gates::new(0.0f32);
                        before[index] = 0.0f32;
                        if is_place {
                            let row = row_of::<I>(tokens, step * batch + lane, shares.by_token);
                            inputs[index] = products[row * hidden + u];
                            if step == 0 {
                                before[index] = c[lane * hidden + u];
                            } else {
                                if comptime!(shares.keep) {
                                    before[index] = cells[((step - 1) * batch + lane) * hidden + u];
                                } else {
                                    before[index] = cells[lane * hidden + u];
                                }
                            }
                        }
                    }
                    wait_for_all(meeting, tile, step - first, shares);
                    #[unroll]
                    for index in 0..shares.lanes_each * UNITS_EACH {
                        sums[index] = Gates::new(0.0f32);
                    }
                    for chunk in 0..comptime!(hidden.div_ceil(shares.chunk)) {
                        let first_k = chunk * shares.chunk;
                        #[unroll]
                        for turn in 0..shares.turns() {
                            let (l, k) = number_of(turn, shares);
                            let lane = first_lane + l;
                            fetched[turn] = 0.0f32;
                            if lane < batch && (comptime!(shares.is_even()) || first_k + k < hidden)
                            {
                                fetched[turn] =
                                    states[(step * batch + lane) * hidden + first_k + k];
                            }
                        }
                        sync_cube();
                        lay_out::<f32>(&fetched, &mut numbers, shares);
                        sync_cube();
                        add_chunk::<f32>(
                            &mut sums, &numbers, weight, &near, first_k, first_unit, shares,
                        );
                    }
                    let (part, lane_group, unit_group) = position(shares);
                    #[unroll]
                    for l in 0..shares.lanes_each {
                        #[unroll]
                        for j in 0..UNITS_EACH {
                            let row = part * shares.lanes + lane_group * shares.lanes_each + l;
                            partial[row * shares.units + unit_of(unit_group, j, shares)] =
                                sums[l * UNITS_EACH + j];
                        }
                    }
                    sync_cube();
                    #[unroll]
                    for index in 0..shares.places() {
                        let (lane, u, is_place) =
                            place(index, first_lane, first_unit, batch, shares);
                        if is_place {
                            let mut sum = inputs[index];
                            #[unroll]
                            for part in 0..shares.parts {
                                sum += partial[part * comptime!(shares.lanes * shares.units)
                                    + index * comptime!(shares.of_cube())
                                    + UNIT_POS_X as usize];
                            }
                            let activated = activate(sum);
                            let next = next_cell(activated, before[index]);
                            let at = (step * batch + lane) * hidden + u;
                            states[at + batch * hidden] = activated.extract(3usize) * squash(next);
                            if comptime!(shares.keep) {
                                kept[at] = activated;
                                cells[at] = next;
                            } else {
                                cells[lane * hidden + u] = next;
                            }
                        }
                    }
                    hand_over(meeting, tile, shares);
                }
            }
            share += present;
        }
    }
}

/// Back through [`meeting_forward`]: so many rounds, the first one through the step before `last`. The
/// round behind step 0 is for the gradient of the initial state.
///
/// weight `[H, H]` has rows and columns changed places; kept, cells and c are as there;
/// grad_outputs `[T, B, H]`; grad_products `[T, B, H]` of gates; grad_h `[B, H]`; grad_c
/// `[B, H]`, the gradient of the last cell states, becomes that of the first.
#[cube(launch)]
pub(in crate::backends::cube) fn meeting_backward(
    weight: &[Gates],
    kept: &[Gates],
    cells: &[f32],
    c: &[f32],
    grad_outputs: &[f32],
    grad_products: &mut [Gates],
    grad_h: &mut [f32],
    grad_c: &mut [f32],
    meeting: &[Atomic<u32>],
    last: usize,
    rounds: usize,
    steps: usize,
    batch: usize,
    #[comptime] shares: Shares,
) {
    let hidden = comptime!(shares.hidden);
    let mut numbers = Shared::<[Gates]>::new_slice(comptime!(shares.lanes * (shares.chunk + 1)));
    let mut partial =
        Shared::<[f32]>::new_slice(comptime!(shares.parts * shares.lanes * shares.units));
    let mut sums = Array::<Gates>::new(comptime!(shares.lanes_each * UNITS_EACH));
    let mut fetched = Array::<Gates>::new(comptime!(shares.turns()));
    let mut activated = Array::<Gates>::new(comptime!(shares.places()));
    // The cell states behind and before the step, and the gradients of outputs and cells.
    let mut cell = Array::<f32>::new(comptime!(shares.places()));
    let mut earlier = Array::<f32>::new(comptime!(shares.places()));
    let mut of_h = Array::<f32>::new(comptime!(shares.places()));
    let mut of_c = Array::<f32>::new(comptime!(shares.places()));

    let (own, present) = take_part(meeting, shares);
    let mut near = hold(shares);
    let tiles = batch.div_ceil(shares.lanes);
    let share_tiles = tiles.div_ceil(shares.splits);

    for round in 0..rounds {
        let mut share = own;
        while share < comptime!(shares.cubes()) {
            let first_unit = (share % comptime!(shares.groups())) * shares.units;
            let split = share / comptime!(shares.groups());
            if round == 0 || present < comptime!(shares.cubes()) {
                fetch(&mut near, weight, first_unit, shares);
            }
            for tile_round in 0..share_tiles {
                let tile = split * share_tiles + tile_round;
                if tile < tiles {
                    let first_lane = tile * shares.lanes;
                    let behind = last - round;
                    #[unroll]
                    for index in 0..shares.places() {
                        let (lane, u, is_place) =
                            place(index, first_lane, first_unit, batch, shares);
                        activated[index] = Gates::new(0.0f32);
                        cell[index] = 0.0f32;
                        earlier[index] = 0.0f32;
                        of_h[index] = 0.0f32;
                        of_c[index] = 0.0f32;
                        if is_place {
                            of_c[index] = grad_c[lane * hidden + u];
                            if behind > 0 {
                                let at = ((behind - 1) * batch + lane) * hidden + u;
                                activated[index] = kept[at];
                                cell[index] = cells[at];
                                of_h[index] = grad_outputs[at];
                                if behind > 1 {
                                    earlier[index] = cells[at - batch * hidden];
                                } else {
                                    earlier[index] = c[lane * hidden + u];
                                }
                            }
                        }
                    }
                    wait_for_all(meeting, tile, round, shares);
                    #[unroll]
                    for index in 0..shares.lanes_each * UNITS_EACH {
                        sums[index] = Gates::new(0.0f32);
                    }
                    if behind < steps {
                        for chunk in 0..comptime!(hidden.div_ceil(shares.chunk)) {
                            let first_k = chunk * shares.chunk;
                            #[unroll]
                            for turn in 0..shares.turns() {
                                let (l, k) = number_of(turn, shares);
                                let lane = first_lane + l;
                                fetched[turn] = Gates::new(0.0f32);
                                if lane < batch
                                    && (comptime!(shares.is_even()) || first_k + k < hidden)
                                {
                                    fetched[turn] = grad_products
                                        [(behind * batch + lane) * hidden + first_k + k];
                                }
                            }
                            sync_cube();
                            lay_out::<Gates>(&fetched, &mut numbers, shares);
                            sync_cube();
                            add_chunk::<Gates>(
                                &mut sums, &numbers, weight, &near, first_k, first_unit, shares,
                            );
                        }
                    }
                    let (part, lane_group, unit_group) = position(shares);
                    #[unroll]
                    for l in 0..shares.lanes_each {
                        #[unroll]
                        for j in 0..UNITS_EACH {
                            let row = part * shares.lanes + lane_group * shares.lanes_each + l;
                            let sum = sums[l * UNITS_EACH + j];
                            partial[row * shares.units + unit_of(unit_group, j, shares)] = sum
                                .extract(0usize)
                                + sum.extract(1usize)
                                + sum.extract(2usize)
                                + sum.extract(3usize);
                        }
                    }
                    sync_cube();
                    #[unroll]
                    for index in 0..shares.places() {
                        let (lane, u, is_place) =
                            place(index, first_lane, first_unit, batch, shares);
                        if is_place {
                            let mut sum = of_h[index];
                            #[unroll]
                            for part in 0..shares.parts {
                                sum += partial[part * comptime!(shares.lanes * shares.units)
                                    + index * comptime!(shares.of_cube())
                                    + UNIT_POS_X as usize];
                            }
                            if behind > 0 {
                                let (of_sums, of_earlier) = unit_backward(
                                    activated[index],
                                    cell[index],
                                    earlier[index],
                                    sum,
                                    of_c[index],
                                );
                                grad_c[lane * hidden + u] = of_earlier;
                                grad_products[((behind - 1) * batch + lane) * hidden + u] = of_sums;
                            } else {
                                grad_h[lane * hidden + u] = sum;
                            }
                        }
                    }
                    hand_over(meeting, tile, shares);
                }
            }
            share += present;
        }
    }
}
