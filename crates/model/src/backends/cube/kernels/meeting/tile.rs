//! What the kernels of a shared sequence do of a tile, and how their cubes meet.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

use super::{Gates, Shares, UNITS_EACH};

/// A number of a chunk that this unit of the device fetches: its lane, and its place among the lane's.
#[cube]
pub(super) fn number_of(#[comptime] turn: usize, #[comptime] shares: Shares) -> (usize, usize) {
    let at = comptime!(turn * shares.of_cube()) + UNIT_POS_X as usize;
    (at / shares.chunk, at % shares.chunk)
}

/// Puts what was fetched into shared memory. All of it was on its way before the first is needed.
#[cube]
pub(super) fn lay_out<N: CubePrimitive>(
    fetched: &Array<N>,
    numbers: &mut Shared<[N]>,
    #[comptime] shares: Shares,
) {
    #[unroll]
    for turn in 0..shares.turns() {
        let (l, k) = number_of(turn, shares);
        if comptime!((turn + 1) * shares.of_cube() <= shares.lanes * shares.chunk)
            || l < shares.lanes
        {
            numbers[l * (shares.chunk + 1) + k] = fetched[turn];
        }
    }
}

/// Which part, lanes and hidden units are this unit's of the device.
#[cube]
pub(super) fn position(#[comptime] shares: Shares) -> (usize, usize, usize) {
    let unit = UNIT_POS_X as usize;
    let part = unit / comptime!(shares.of_part());
    let within = unit % comptime!(shares.of_part());
    let unit_groups = comptime!(shares.units / UNITS_EACH);
    (part, within / unit_groups, within % unit_groups)
}

/// The j-th hidden unit of a unit of the device, within its cube's.
#[cube]
pub(super) fn unit_of(
    unit_group: usize,
    #[comptime] j: usize,
    #[comptime] shares: Shares,
) -> usize {
    unit_group + comptime!(j * (shares.units / UNITS_EACH))
}

/// A place that this unit of the device ends: its lane and hidden unit, and whether they exist.
#[cube]
pub(super) fn place(
    #[comptime] index: usize,
    first_lane: usize,
    first_unit: usize,
    batch: usize,
    #[comptime] shares: Shares,
) -> (usize, usize, bool) {
    let at = comptime!(index * shares.of_cube()) + UNIT_POS_X as usize;
    let lane = first_lane + at / shares.units;
    let u = first_unit + at % shares.units;
    let mut exists = at < comptime!(shares.lanes * shares.units);
    exists = exists && lane < batch && u < shares.hidden;
    (lane, u, exists)
}

/// Adds the products of a chunk of the lanes' numbers with this unit's columns of the weight: of
/// hidden states, with all four gates, or of the gates' gradients, gate by gate.
#[cube]
pub(super) fn add_chunk<N: CubePrimitive>(
    sums: &mut Array<Gates>,
    numbers: &Shared<[N]>,
    weight: &[Gates],
    near: &ComptimeOption<Shared<[Gates]>>,
    first_k: usize,
    first_unit: usize,
    #[comptime] shares: Shares,
) {
    /// Rows whose numbers and weights are read before they are multiplied.
    const AT_ONCE: usize = 4;
    let rows = comptime!(shares.chunk / shares.parts);
    let at_once = comptime!(if rows.is_multiple_of(AT_ONCE) { AT_ONCE } else { 1 });
    let (part, lane_group, unit_group) = position(shares);
    let first_number = lane_group * comptime!(shares.lanes_each * (shares.chunk + 1));
    for some in 0..comptime!(rows / at_once) {
        #[unroll]
        for one in 0..at_once {
            let k = part * rows + some * at_once + one;
            if comptime!(shares.is_even()) || first_k + k < shares.hidden {
                let mut factors = Array::<Gates>::new(shares.lanes_each);
                #[unroll]
                for l in 0..shares.lanes_each {
                    let at = first_number + comptime!(l * (shares.chunk + 1)) + k;
                    factors[l] = Gates::cast_from(numbers[at]);
                }
                #[unroll]
                for j in 0..UNITS_EACH {
                    let within = unit_of(unit_group, j, shares);
                    let u = first_unit + within;
                    if comptime!(shares.is_even()) || u < shares.hidden {
                        let row = first_k + k;
                        #[comptime]
                        let w = match near {
                            ComptimeOption::Some(near) => near[row * shares.units + within],
                            ComptimeOption::None => weight[row * shares.hidden + u],
                        };
                        #[unroll]
                        for l in 0..shares.lanes_each {
                            sums[l * UNITS_EACH + j] += w * factors[l];
                        }
                    }
                }
            }
        }
    }
}

/// The counter that closes the meeting, and what it becomes at the least.
const CLOSED: u32 = 1 << 31;

/// Finds out how many cubes the device runs at a time: this one's number among them, and how many.
/// Who comes late has nothing to do. So nobody waits for a cube that may never be started.
///
/// After Sorensen, Donaldson, Batty, Gopalakrishnan and Rakamarić, "Portable inter-workgroup
/// barrier synchronisation for GPUs" (2016).
#[cube]
pub(super) fn take_part(meeting: &[Atomic<u32>], #[comptime] shares: Shares) -> (usize, usize) {
    /// How often the first looks for others in vain.
    const PATIENCE: u32 = 2_000;
    if comptime!(shares.meets) {
        let mut found = Shared::<[u32]>::new_slice(2usize);
        if UNIT_POS == 0 {
            let number = meeting[0].fetch_add(1u32);
            let mut present = 0u32;
            if number == 0 {
                let mut seen = 0u32;
                let mut patience = 0u32;
                while seen < comptime!(shares.cubes() as u32) && patience < PATIENCE {
                    let now = meeting[0].load();
                    patience += 1u32;
                    if now > seen {
                        seen = now;
                        patience = 0u32;
                    }
                }
                present = meeting[0].fetch_add(CLOSED);
                meeting[1].store(present);
            } else if number < CLOSED {
                while present == 0 {
                    present = meeting[1].load();
                }
            }
            found[0] = number;
            found[1] = present;
            if number >= CLOSED {
                found[0] = comptime!(shares.cubes() as u32);
                found[1] = 1u32;
            }
        }
        sync_cube();
        (found[0] as usize, found[1] as usize)
    } else {
        (CUBE_POS_X as usize, comptime!(shares.cubes()).runtime())
    }
}

/// Shared memory for a cube's columns of the weight.
#[cube]
pub(super) fn hold(#[comptime] shares: Shares) -> ComptimeOption<Shared<[Gates]>> {
    if comptime!(shares.held) {
        ComptimeOption::new_Some(Shared::<[Gates]>::new_slice(comptime!(
            shares.hidden * shares.units
        )))
    } else {
        ComptimeOption::new_None()
    }
}

/// Fetches a share's columns of the weight.
#[cube]
pub(super) fn fetch(
    near: &mut ComptimeOption<Shared<[Gates]>>,
    weight: &[Gates],
    first_unit: usize,
    #[comptime] shares: Shares,
) {
    #[comptime]
    match near {
        ComptimeOption::Some(near) => {
            let mut at = UNIT_POS_X as usize;
            while at < comptime!(shares.hidden * shares.units) {
                let u = first_unit + at % shares.units;
                if u < shares.hidden {
                    near[at] = weight[(at / shares.units) * shares.hidden + u];
                }
                at += comptime!(shares.of_cube());
            }
            sync_cube();
        }
        ComptimeOption::None => {}
    }
}

/// Waits until every share of a tile has done so many steps, and sees what they wrote.
#[cube]
pub(super) fn wait_for_all(
    meeting: &[Atomic<u32>],
    tile: usize,
    steps: usize,
    #[comptime] shares: Shares,
) {
    if comptime!(shares.meets) {
        if UNIT_POS == 0 {
            let expected = (steps * comptime!(shares.groups())) as u32;
            while meeting[2 + tile].load() < expected {}
        }
        sync_storage();
    }
}

/// Lets the others see what this cube wrote of a tile.
#[cube]
pub(super) fn hand_over(meeting: &[Atomic<u32>], tile: usize, #[comptime] shares: Shares) {
    if comptime!(shares.meets) {
        sync_storage();
        if UNIT_POS == 0 {
            meeting[2 + tile].fetch_add(1u32);
        }
    } else {
        sync_cube();
    }
}
