//! One time step after the other, without gradients and without an allocation per step.
//!
//! Each thread owns some units of a layer with their weights, which stay in its cache from step
//! to step, and takes all lanes through them.

use pulp::{Arch, Simd, WithSimd};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};
use rayon::slice::{ParallelSlice, ParallelSliceMut};

use super::cell::step_forward;
use super::parallel::piece_length_awake;
use super::product::{Blocks, Left, Packed, add_product};

/// A layer's weights in row-major order.
pub(crate) struct Weights<'a> {
    /// What a lane's gates begin with, `[R, 4H]`: a row for every token, or one for all.
    pub(crate) start: &'a [f32],
    /// `[D, 4H]`, of a layer that reads the one below.
    pub(crate) input: Option<&'a [f32]>,
    /// `[H, 4H]`.
    pub(crate) recurrent: &'a [f32],
}

/// One layer and the state of its lanes.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    parts: Vec<Part>,
    /// `[B, H]`.
    h: Vec<f32>,
    hidden: usize,
}

/// Some units of a layer.
#[derive(Clone, Debug)]
struct Part {
    first: usize,
    units: usize,
    start: Vec<f32>,
    input: Option<Packed>,
    recurrent: Packed,
    /// `[B, 4 · units]`.
    gates: Vec<f32>,
    /// `[B, units]`, as all below.
    h: Vec<f32>,
    c: Vec<f32>,
    c_next: Vec<f32>,
    blocks: Blocks,
}

impl Layer {
    /// Packs the weights for so many lanes, with a state of zeros.
    pub(crate) fn new(weights: &Weights<'_>, hidden: usize, lanes: usize) -> Self {
        let length = piece_length_awake(hidden, lanes * 4 * hidden * hidden).next_multiple_of(16);
        let part = |first: usize| {
            let units = length.min(hidden - first);
            let pack = |matrix: &[f32]| {
                Packed::new(&gather_units(matrix, hidden, first, units), 4 * units)
            };
            Part {
                first,
                units,
                start: gather_units(weights.start, hidden, first, units),
                input: weights.input.map(pack),
                recurrent: pack(weights.recurrent),
                gates: vec![0.0; lanes * 4 * units],
                h: vec![0.0; lanes * units],
                c: vec![0.0; lanes * units],
                c_next: vec![0.0; lanes * units],
                blocks: Blocks::default(),
            }
        };
        let parts = (0..hidden).step_by(length).map(part).collect();
        Self { parts, h: vec![0.0; lanes * hidden], hidden }
    }

    /// Makes a step. `rows` tells which row of `start` each lane begins with; `below` has the
    /// hidden states of the layer below, `[B, D]`.
    pub(crate) fn step(&mut self, arch: Arch, rows: Option<&[u32]>, below: &[f32]) {
        let Self { parts, h, hidden } = self;
        let step = |part: &mut Part| arch.dispatch(Step { part, rows, below, h });
        match parts.as_mut_slice() {
            [part] => step(part),
            parts => parts.par_iter_mut().for_each(step),
        }
        for part in parts {
            let lanes = h.chunks_exact_mut(*hidden).zip(part.h.chunks_exact(part.units));
            for (to, from) in lanes {
                to[part.first..][..part.units].copy_from_slice(from);
            }
        }
    }

    /// The hidden states, `[B, H]`.
    pub(crate) fn h(&self) -> &[f32] {
        &self.h
    }

    /// Sets the state back to zeros.
    pub(crate) fn reset(&mut self) {
        self.h.fill(0.0);
        self.parts.iter_mut().for_each(|part| part.c.fill(0.0));
    }
}

/// The columns of some units from each of the four blocks of a matrix `[R, 4H]`.
fn gather_units(matrix: &[f32], hidden: usize, first: usize, units: usize) -> Vec<f32> {
    let mut result = Vec::with_capacity(matrix.len() / hidden * units);
    for block in matrix.chunks_exact(hidden) {
        result.extend_from_slice(&block[first..][..units]);
    }
    result
}

struct Step<'a> {
    part: &'a mut Part,
    rows: Option<&'a [u32]>,
    below: &'a [f32],
    h: &'a [f32],
}

impl WithSimd for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Part { units, start, input, recurrent, gates, h, c, c_next, blocks, .. } = self.part;
        let lanes = c.len() / *units;
        for (lane, gates) in gates.chunks_exact_mut(4 * *units).enumerate() {
            let row = self.rows.map_or(0, |rows| rows[lane] as usize);
            gates.copy_from_slice(&start[row * 4 * *units..][..4 * *units]);
        }
        if let Some(input) = input {
            let left = Left::Plain { numbers: self.below, stride: self.below.len() / lanes };
            add_product(simd, left, input, gates, blocks);
        }
        let left = Left::Plain { numbers: self.h, stride: self.h.len() / lanes };
        add_product(simd, left, recurrent, gates, blocks);
        let lanes = gates
            .chunks_exact_mut(4 * *units)
            .zip(c.chunks_exact(*units))
            .zip(h.chunks_exact_mut(*units))
            .zip(c_next.chunks_exact_mut(*units));
        for (((gates, c), h), c_next) in lanes {
            step_forward(simd, gates, c, h, c_next);
        }
        std::mem::swap(c, c_next);
    }
}

/// A linear layer on the lanes.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    weight: Packed,
    bias: Vec<f32>,
    d_input: usize,
    /// How many lanes a thread takes.
    lanes: usize,
    /// A room for each thread.
    blocks: Vec<Blocks>,
}

impl Head {
    /// Packs a weight `[H, V]` for so many lanes.
    pub(crate) fn new(weight: &[f32], bias: &[f32], lanes: usize) -> Self {
        let length = piece_length_awake(lanes, lanes * weight.len());
        Self {
            weight: Packed::new(weight, bias.len()),
            bias: bias.to_vec(),
            d_input: weight.len() / bias.len(),
            lanes: length,
            blocks: vec![Blocks::default(); lanes.div_ceil(length)],
        }
    }

    /// `[B, V]` from `[B, H]`.
    pub(crate) fn apply(&mut self, arch: Arch, input: &[f32], output: &mut [f32]) {
        let Self { weight, bias, d_input, lanes, blocks } = self;
        let apply = |((input, output), blocks)| {
            arch.dispatch(Apply { weight, bias, input, output, blocks });
        };
        if blocks.len() == 1 {
            return apply(((input, output), &mut blocks[0]));
        }
        let inputs = input.par_chunks(*lanes * *d_input);
        let outputs = output.par_chunks_mut(*lanes * bias.len());
        inputs.zip(outputs).zip(blocks.par_iter_mut()).for_each(apply);
    }
}

struct Apply<'a> {
    weight: &'a Packed,
    bias: &'a [f32],
    input: &'a [f32],
    output: &'a mut [f32],
    blocks: &'a mut Blocks,
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weight, bias, input, output, blocks } = self;
        for row in output.chunks_exact_mut(bias.len()) {
            row.copy_from_slice(bias);
        }
        let stride = input.len() / (output.len() / bias.len());
        add_product(simd, Left::Plain { numbers: input, stride }, weight, output, blocks);
    }
}
