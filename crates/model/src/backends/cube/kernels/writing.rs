//! Many steps of writing in one launch.
//!
//! A unit of the device takes hidden units `UNIT_POS`, `UNIT_POS + CUBE_DIM` and so on; `of_unit` counts
//! them.

// The macro makes functions of its own for each of these, with more parameters still.
#![allow(missing_docs, clippy::too_many_arguments)]

use cubecl::prelude::*;

use super::{Gates, MOST_ROUNDS, activate, next_cell, squash};
use crate::kernels::decoding::Between;
use crate::layer_norm::EPSILON;

/// Rows of a weight that are read before they are multiplied.
const AT_ONCE: usize = 8;

/// A network's extent and how the work is divided: what the kernel is compiled for.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(in crate::backends::cube) struct WritingExtent {
    /// L.
    pub(in crate::backends::cube) layers: usize,
    /// H.
    pub(in crate::backends::cube) hidden: usize,
    /// V.
    pub(in crate::backends::cube) vocabulary: usize,
    pub(in crate::backends::cube) between: Between,
    /// Whether the likeliest token is chosen each time.
    pub(in crate::backends::cube) greedy: bool,
    /// Lanes of a cube.
    pub(in crate::backends::cube) lanes: usize,
    /// Hidden units of a unit of the device, at most.
    pub(in crate::backends::cube) of_unit: usize,
}

impl WritingExtent {
    /// Units of the device of a cube.
    pub(in crate::backends::cube) const fn units(self) -> usize {
        self.hidden.div_ceil(self.of_unit)
    }

    /// Steps of a launch, at the most.
    pub(in crate::backends::cube) fn most_steps(self) -> usize {
        /// On a slow device a fraction of the second or two after which a driver takes a launch for one
        /// that hangs.
        const STEPS: usize = 64;
        let Self { layers, hidden, vocabulary, lanes, .. } = self;
        // Two loops, one behind the other.
        let of_product = hidden / AT_ONCE + hidden % AT_ONCE + 2;
        let is_normalised = self.between == Between::Normalised;
        let of_norms = if is_normalised { 2 * lanes * (hidden + 1) } else { 0 };
        let of_layers = (2 * layers - 1) * of_product + layers * of_norms;
        let of_head = vocabulary.div_ceil(self.units()) * (1 + of_product) + 1;
        let of_choice = 3 * (vocabulary + 1) + (lanes * vocabulary).div_ceil(self.units()) + 1;
        (MOST_ROUNDS / (1 + of_layers + of_head + of_choice)).clamp(1, STEPS)
    }
}

/// Reads and writes `steps` tokens in every lane, from row `first` of the tokens on: each step reads
/// a row, scores what may follow, and writes what it chose to the next row, if that is not one of the
/// `given` ones. A cube owns some lanes.
///
/// tokens `[G + N, B]`, of which G rows are given; uniforms `[N, B]`, numbers in [0, 1); start
/// `[V, H]` of gates, what the lowest layer's begin with; layers, of gates: the recurrent weight
/// `[H, H]` of the lowest, and of each one above its bias `[H]`, its input weight `[H, H]` and its
/// recurrent weight; head: its bias `[V]` and its weight `[H, V]`; state `[L, 2, B, H]`, h and c.
/// The scores' differences are multiplied with `sharpness`, 1 over the temperature.
#[cube(launch)]
pub(in crate::backends::cube) fn write(
    tokens: &mut [i32],
    uniforms: &[f32],
    start: &[Gates],
    layers: &[Gates],
    head: &[f32],
    state: &mut [f32],
    first: usize,
    steps: usize,
    given: usize,
    batch: usize,
    sharpness: f32,
    #[comptime] extent: WritingExtent,
) {
    let hidden = comptime!(extent.hidden);
    let vocabulary = comptime!(extent.vocabulary);
    let lanes = comptime!(extent.lanes);
    let of_unit = comptime!(extent.of_unit);
    let plain = comptime!(extent.between == Between::Nothing);
    let first_lane = CUBE_POS_X as usize * lanes;
    let unit = UNIT_POS_X as usize;
    let units = CUBE_DIM_X as usize;

    let mut h = Shared::<[f32]>::new_slice(comptime!(extent.layers * lanes * hidden));
    // What a layer gives to the one above, or the head, where that is not its hidden states.
    let mut given_up =
        Shared::<[f32]>::new_slice(comptime!(if plain { 1 } else { lanes * hidden }));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(lanes * vocabulary));
    let mut highest = Shared::<[f32]>::new_slice(lanes);
    let mut latest = Shared::<[i32]>::new_slice(lanes);
    let mut cell = Array::<f32>::new(comptime!(extent.layers * of_unit * lanes));
    let mut sums = Array::<Gates>::new(comptime!(of_unit * lanes));

    #[unroll]
    for layer in 0..extent.layers {
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                if u < hidden {
                    // Lanes beyond the last go through the motions; what they read are numbers.
                    let mut hidden_state = 0.0f32;
                    let mut cell_state = 0.0f32;
                    if lane < batch {
                        hidden_state = state[(2 * layer * batch + lane) * hidden + u];
                        cell_state = state[((2 * layer + 1) * batch + lane) * hidden + u];
                    }
                    h[(layer * lanes + l) * hidden + u] = hidden_state;
                    cell[(layer * of_unit + own) * lanes + l] = cell_state;
                }
            }
        }
    }
    if unit < lanes {
        latest[unit] = 0i32;
        if first_lane + unit < batch {
            latest[unit] = tokens[first * batch + first_lane + unit];
        }
    }
    sync_cube();

    for step in first..first + steps {
        #[unroll]
        for layer in 0..extent.layers {
            // Where the layer's weights begin, behind those of the layers below.
            let weights = comptime!(match layer {
                0 => 0,
                _ => layer * hidden * hidden + (layer - 1) * (hidden + hidden * hidden),
            });
            #[unroll]
            for own in 0..of_unit {
                let u = own * units + unit;
                #[unroll]
                for l in 0..lanes {
                    sums[own * lanes + l] = Gates::new(0.0f32);
                    if u < hidden {
                        if comptime!(layer == 0) {
                            sums[own * lanes + l] = start[latest[l] as usize * hidden + u];
                        } else {
                            sums[own * lanes + l] = layers[weights + u];
                        }
                    }
                }
            }
            if comptime!(layer > 0) {
                let input = comptime!(weights + hidden);
                if comptime!(plain) {
                    let below = comptime!((layer - 1) * lanes * hidden);
                    add_products(&mut sums, layers, input, &h, below, extent);
                } else {
                    add_products(&mut sums, layers, input, &given_up, 0usize, extent);
                }
            }
            let recurrent =
                comptime!(if layer == 0 { 0 } else { weights + hidden + hidden * hidden });
            let own_states = comptime!(layer * lanes * hidden);
            add_products(&mut sums, layers, recurrent, &h, own_states, extent);
            // Everyone has read what is about to change.
            sync_cube();
            #[unroll]
            for own in 0..of_unit {
                let u = own * units + unit;
                if u < hidden {
                    #[unroll]
                    for l in 0..lanes {
                        let at = (layer * of_unit + own) * lanes + l;
                        let activated = activate(sums[own * lanes + l]);
                        let next = next_cell(activated, cell[at]);
                        cell[at] = next;
                        let next_state = activated.extract(3usize) * squash(next);
                        h[(layer * lanes + l) * hidden + u] = next_state;
                        if comptime!(extent.between == Between::Added) {
                            let mut sum = next_state;
                            if comptime!(layer > 0) {
                                sum += given_up[l * hidden + u];
                            }
                            given_up[l * hidden + u] = sum;
                        }
                    }
                }
            }
            sync_cube();
            if comptime!(extent.between == Between::Normalised) {
                normalise(&h, own_states, &mut given_up, extent);
                sync_cube();
            }
        }

        // The head: a unit takes some tokens' scores.
        let mut token = unit;
        while token < vocabulary {
            let mut score = Array::<f32>::new(lanes);
            #[unroll]
            for l in 0..lanes {
                score[l] = head[token];
            }
            for some in 0..comptime!(hidden / AT_ONCE) {
                #[unroll]
                for one in 0..AT_ONCE {
                    let k = some * AT_ONCE + one;
                    add_score(&mut score, head, &h, &given_up, token, k, extent);
                }
            }
            for k in comptime!(hidden / AT_ONCE * AT_ONCE)..hidden {
                add_score(&mut score, head, &h, &given_up, token, k, extent);
            }
            #[unroll]
            for l in 0..lanes {
                scores[l * vocabulary + token] = score[l];
            }
            token += units;
        }
        sync_cube();

        // The choice: a unit takes a lane's, but all take part in the exponentials.
        if unit < lanes {
            let row = unit * vocabulary;
            let mut best = 0usize;
            let mut best_score = scores[row];
            for token in 1..vocabulary {
                let score = scores[row + token];
                if score >= best_score {
                    best = token;
                    best_score = score;
                }
            }
            highest[unit] = best_score;
            latest[unit] = best as i32;
        }
        if comptime!(!extent.greedy) {
            sync_cube();
            let mut at = unit;
            while at < comptime!(lanes * vocabulary) {
                let distance = (scores[at] - highest[at / vocabulary]) * sharpness;
                scores[at] = max(distance, -87.0f32).exp();
                at += units;
            }
            sync_cube();
        }
        if unit < lanes {
            let lane = first_lane + unit;
            if lane < batch {
                let next = (step + 1) * batch + lane;
                if step + 1 < given {
                    latest[unit] = tokens[next];
                } else {
                    if comptime!(!extent.greedy) {
                        let row = unit * vocabulary;
                        let mut total = 0.0f32;
                        for token in 0..vocabulary {
                            total += scores[row + token];
                        }
                        let mut left = total * uniforms[(step + 1 - given) * batch + lane];
                        // Rounding can leave a crumb behind the last: then the likeliest stays.
                        let mut found = false;
                        for token in 0..vocabulary {
                            left -= scores[row + token];
                            if !found && left < 0.0f32 {
                                latest[unit] = token as i32;
                                found = true;
                            }
                        }
                    }
                    tokens[next] = latest[unit];
                }
            }
        }
        sync_cube();
    }

    #[unroll]
    for layer in 0..extent.layers {
        #[unroll]
        for own in 0..of_unit {
            let u = own * units + unit;
            #[unroll]
            for l in 0..lanes {
                let lane = first_lane + l;
                if u < hidden && lane < batch {
                    state[(2 * layer * batch + lane) * hidden + u] =
                        h[(layer * lanes + l) * hidden + u];
                    state[((2 * layer + 1) * batch + lane) * hidden + u] =
                        cell[(layer * of_unit + own) * lanes + l];
                }
            }
        }
    }
}

/// Adds to the lanes' scores of a token what number k of their outputs says.
#[cube]
fn add_score(
    score: &mut Array<f32>,
    head: &[f32],
    h: &Shared<[f32]>,
    given_up: &Shared<[f32]>,
    token: usize,
    k: usize,
    #[comptime] extent: WritingExtent,
) {
    let hidden = comptime!(extent.hidden);
    let lanes = comptime!(extent.lanes);
    let vocabulary = comptime!(extent.vocabulary);
    let w = head[vocabulary + k * vocabulary + token];
    #[unroll]
    for l in 0..lanes {
        if comptime!(extent.between == Between::Nothing) {
            score[l] += w * h[comptime!((extent.layers - 1) * lanes + l) * hidden + k];
        } else {
            score[l] += w * given_up[l * hidden + k];
        }
    }
}

/// Adds the products of the lanes' vectors with the own hidden units' columns of a weight, `[H, H]`
/// of gates, which begins at `first`; the vectors begin at `place`.
#[cube]
fn add_products(
    sums: &mut Array<Gates>,
    weights: &[Gates],
    #[comptime] first: usize,
    vectors: &Shared<[f32]>,
    #[comptime] place: usize,
    #[comptime] extent: WritingExtent,
) {
    let hidden = comptime!(extent.hidden);
    for some in 0..comptime!(hidden / AT_ONCE) {
        #[unroll]
        for one in 0..AT_ONCE {
            add_row(sums, weights, first, vectors, place, some * AT_ONCE + one, extent);
        }
    }
    for k in comptime!(hidden / AT_ONCE * AT_ONCE)..hidden {
        add_row(sums, weights, first, vectors, place, k, extent);
    }
}

/// The same for row k of the weight.
#[cube]
fn add_row(
    sums: &mut Array<Gates>,
    weights: &[Gates],
    #[comptime] first: usize,
    vectors: &Shared<[f32]>,
    #[comptime] place: usize,
    k: usize,
    #[comptime] extent: WritingExtent,
) {
    let hidden = comptime!(extent.hidden);
    let lanes = comptime!(extent.lanes);
    let unit = UNIT_POS_X as usize;
    let units = CUBE_DIM_X as usize;
    let mut factors = Array::<f32>::new(lanes);
    #[unroll]
    for l in 0..lanes {
        factors[l] = vectors[place + l * hidden + k];
    }
    #[unroll]
    for own in 0..extent.of_unit {
        let u = own * units + unit;
        if u < hidden {
            let w = weights[first + k * hidden + u];
            #[unroll]
            for l in 0..lanes {
                sums[own * lanes + l] += w * Gates::new(factors[l]);
            }
        }
    }
}

/// The lanes' vectors, which begin at `place`, with mean 0 and deviation 1: each unit those of its
/// hidden units.
#[cube]
fn normalise(
    from: &Shared<[f32]>,
    #[comptime] place: usize,
    to: &mut Shared<[f32]>,
    #[comptime] extent: WritingExtent,
) {
    let hidden = comptime!(extent.hidden);
    let share = comptime!(1.0 / extent.hidden as f32);
    let epsilon = comptime!(EPSILON as f32);
    let unit = UNIT_POS_X as usize;
    let units = CUBE_DIM_X as usize;
    #[unroll]
    for l in 0..extent.lanes {
        let row = place + l * hidden;
        let mut mean = 0.0f32;
        for k in 0..hidden {
            mean += from[row + k] * share;
        }
        let mut variance = 0.0f32;
        for k in 0..hidden {
            variance += (from[row + k] - mean) * (from[row + k] - mean) * share;
        }
        let scale = 1.0f32 / (variance + epsilon).sqrt();
        #[unroll]
        for own in 0..extent.of_unit {
            let u = own * units + unit;
            if u < hidden {
                to[l * hidden + u] = (from[row + u] - mean) * scale;
            }
        }
    }
}
