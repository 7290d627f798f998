//! A layer over a sequence: forward, and back-propagation through time (Werbos 1990,
//! <https://doi.org/10.1109/5.58337>).
//!
//! The lanes of a batch never meet: each thread takes some of them all the way, with memory of
//! its own, and the threads wait for each other once per call.

use pulp::{Arch, Simd, WithSimd};

use super::cell::{step_backward, step_forward};
use super::parallel::{Piece, for_each, piece_length};
use super::product::{Blocks, DEPTH, Left, Packed, add_product};
use super::tokens::Distinct;

/// The extent of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dimensions {
    /// T.
    pub(crate) steps: usize,
    /// B.
    pub(crate) batch: usize,
    /// H.
    pub(crate) hidden: usize,
}

/// What a layer reads.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    /// The input's share of the gates, `[T, B, 4H]`.
    Products(&'a [f32]),
    /// Vectors.
    Dense {
        /// `[T, B, D]`.
        x: &'a [f32],
        /// `[D, 4H]`.
        weight: &'a [f32],
        /// `[4H]`.
        bias: &'a [f32],
    },
    /// Tokens.
    Tokens {
        /// Of `[T, B]`.
        distinct: &'a Distinct,
        /// The distinct tokens' shares of the gates, `[U, 4H]`.
        table: &'a [f32],
    },
}

/// What the forward pass keeps for the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct Saved(Vec<SavedLanes>);

/// The same of n lanes.
#[derive(Clone, Debug)]
struct SavedLanes {
    lanes: Piece,
    /// The gates behind their activations, `[T, n, 4H]`.
    gates: Vec<f32>,
    /// The cell states, `[T, n, H]`.
    cells: Vec<f32>,
}

/// Runs a layer.
///
/// Returns the outputs of every step followed by the last cell state, `[T + 1, B, H]`, and what
/// the backward pass needs. `weight` is `[H, 4H]`; `h` and `c` are `[B, H]`.
pub(crate) fn forward(
    dimensions: Dimensions,
    input: Input<'_>,
    weight: &[f32],
    h: &[f32],
    c: &[f32],
) -> (Vec<f32>, Saved) {
    let Dimensions { steps, batch, hidden } = dimensions;
    let plane = batch * hidden;
    let weight = Packed::new(weight, 4 * hidden);
    let input_weight = match input {
        Input::Dense { weight, .. } => Some(Packed::new(weight, 4 * hidden)),
        Input::Products(_) | Input::Tokens { .. } => None,
    };
    let mut outputs = vec![0.0; (steps + 1) * plane];
    let mut tasks: Vec<Forward<'_>> = groups_of_lanes(dimensions)
        .map(|lanes| Forward {
            dimensions,
            lanes,
            input,
            input_weight: input_weight.as_ref(),
            weight: &weight,
            h: &h[lanes.start * hidden..][..lanes.length * hidden],
            c: &c[lanes.start * hidden..][..lanes.length * hidden],
            outputs: Vec::with_capacity(steps + 1),
        })
        .collect();
    for mut outputs in outputs.chunks_exact_mut(plane) {
        for task in &mut tasks {
            let (own, others) = outputs.split_at_mut(task.lanes.length * hidden);
            task.outputs.push(own);
            outputs = others;
        }
    }
    let arch = Arch::new();
    let saved = for_each(tasks, |task| arch.dispatch(task));
    (outputs, Saved(saved))
}

/// The lanes of each thread: all of them where another thread would only cost.
fn groups_of_lanes(dimensions: Dimensions) -> impl Iterator<Item = Piece> {
    let Dimensions { steps, batch, hidden } = dimensions;
    let length = piece_length(batch, steps * batch * 4 * hidden * hidden);
    (0..batch).step_by(length).map(move |start| Piece { start, length: length.min(batch - start) })
}

/// Some lanes on their way forward.
struct Forward<'a> {
    dimensions: Dimensions,
    lanes: Piece,
    input: Input<'a>,
    input_weight: Option<&'a Packed>,
    weight: &'a Packed,
    h: &'a [f32],
    c: &'a [f32],
    /// What every step writes, and then the last cell state.
    outputs: Vec<&'a mut [f32]>,
}

impl WithSimd for Forward<'_> {
    type Output = SavedLanes;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> SavedLanes {
        let Dimensions { steps, hidden, .. } = self.dimensions;
        let (lanes, plane) = (self.lanes, self.lanes.length * hidden);
        let mut blocks = Blocks::default();
        let mut gates = self.begin_gates();
        if let (Input::Dense { x, .. }, Some(weight)) = (self.input, self.input_weight) {
            let x = gather_lanes(x, self.dimensions, lanes);
            let left = Left::Plain { numbers: &x, stride: x.len() / (steps * lanes.length) };
            add_product(simd, left, weight, &mut gates, &mut blocks);
        }
        let mut cells = vec![0.0; steps * plane];
        let (mut h, mut c) = (self.h, self.c);
        let mut outputs = self.outputs.into_iter();
        let steps = gates.chunks_exact_mut(4 * plane).zip(cells.chunks_exact_mut(plane));
        for ((gates, cells), outputs) in steps.zip(&mut outputs) {
            add_product(
                simd,
                Left::Plain { numbers: h, stride: hidden },
                self.weight,
                gates,
                &mut blocks,
            );
            let lanes = gates
                .chunks_exact_mut(4 * hidden)
                .zip(c.chunks_exact(hidden))
                .zip(outputs.chunks_exact_mut(hidden))
                .zip(cells.chunks_exact_mut(hidden));
            for (((gates, c), h_next), c_next) in lanes {
                step_forward(simd, gates, c, h_next, c_next);
            }
            (h, c) = (outputs, cells);
        }
        outputs.next().expect("the last cell state has a place").copy_from_slice(c);
        SavedLanes { lanes, gates, cells }
    }
}

impl Forward<'_> {
    /// What the gates are before any product is added, `[T, n, 4H]`.
    fn begin_gates(&self) -> Vec<f32> {
        let Dimensions { steps, batch, hidden } = self.dimensions;
        let (width, lanes) = (4 * hidden, self.lanes);
        match self.input {
            Input::Products(products) => gather_lanes(products, self.dimensions, lanes),
            Input::Dense { bias, .. } => bias.repeat(steps * lanes.length),
            Input::Tokens { distinct, table } => {
                let mut gates = Vec::with_capacity(steps * lanes.length * width);
                for step in 0..steps {
                    for &index in &distinct.indices()[step * batch + lanes.start..][..lanes.length]
                    {
                        gates.extend_from_slice(&table[index as usize * width..][..width]);
                    }
                }
                gates
            }
        }
    }
}

/// The rows of some lanes, from `[T, B, W]`: `[T, n, W]`.
fn gather_lanes(from: &[f32], dimensions: Dimensions, lanes: Piece) -> Vec<f32> {
    let Dimensions { steps, batch, .. } = dimensions;
    let width = from.len() / (steps * batch);
    let mut rows = Vec::with_capacity(steps * lanes.length * width);
    for step in from.chunks_exact(batch * width) {
        rows.extend_from_slice(&step[lanes.start * width..][..lanes.length * width]);
    }
    rows
}

/// Puts the rows of some lanes back to their places in `[T, B, W]`.
fn scatter_lanes(to: &mut [f32], rows: &[f32], dimensions: Dimensions, lanes: Piece) {
    let width = to.len() / (dimensions.steps * dimensions.batch);
    let steps = to.chunks_exact_mut(dimensions.batch * width);
    for (to, rows) in steps.zip(rows.chunks_exact(lanes.length * width)) {
        to[lanes.start * width..][..lanes.length * width].copy_from_slice(rows);
    }
}

/// Gradients with respect to what went in.
#[derive(Clone, Debug)]
pub(crate) struct Gradients {
    /// The input's.
    pub(crate) input: InputGradients,
    /// `[H, 4H]`.
    pub(crate) weight: Vec<f32>,
    /// `[B, H]`.
    pub(crate) h: Vec<f32>,
    /// `[B, H]`.
    pub(crate) c: Vec<f32>,
}

/// The gradients of an [`Input`].
#[derive(Clone, Debug)]
pub(crate) enum InputGradients {
    /// `[T, B, 4H]`.
    Products(Vec<f32>),
    /// As the input's.
    Dense { x: Vec<f32>, weight: Vec<f32>, bias: Vec<f32> },
    /// The table's, `[U, 4H]`.
    Tokens(Vec<f32>),
}

/// What goes into [`backward`] beside what the forward pass kept: all as it was there.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a> {
    pub(crate) input: Input<'a>,
    pub(crate) weight: &'a [f32],
    pub(crate) h: &'a [f32],
    pub(crate) c: &'a [f32],
    /// What [`forward`] returned, `[T + 1, B, H]`.
    pub(crate) outputs: &'a [f32],
    /// The gradient with respect to that.
    pub(crate) grad: &'a [f32],
}

/// Goes back through a layer.
pub(crate) fn backward(
    dimensions: Dimensions,
    arguments: Arguments<'_>,
    Saved(saved): Saved,
) -> Gradients {
    let hidden = dimensions.hidden;
    let weight = Packed::transposed(arguments.weight, 4 * hidden);
    let input_weight = match arguments.input {
        Input::Dense { weight, .. } => Some(Packed::transposed(weight, 4 * hidden)),
        Input::Products(_) | Input::Tokens { .. } => None,
    };
    let tasks: Vec<Backward<'_>> = saved
        .into_iter()
        .map(|saved| {
            let (weight, input_weight) = (&weight, input_weight.as_ref());
            Backward { dimensions, arguments, saved, weight, input_weight }
        })
        .collect();
    let arch = Arch::new();
    let parts = for_each(tasks, |task| arch.dispatch(task));
    if parts.len() == 1 {
        return parts.into_iter().map(|(_, gradients)| gradients).next().expect("there is one");
    }
    join(dimensions, parts)
}

/// Puts the gradients of all lanes together.
fn join(dimensions: Dimensions, parts: Vec<(Piece, Gradients)>) -> Gradients {
    let rows = dimensions.steps * dimensions.batch;
    let mut parts = parts.into_iter();
    let (lanes, mut all) = parts.next().expect("a batch has at least one lane");
    let spread = |part: &mut Vec<f32>, lanes: Piece| {
        let mut whole = vec![0.0; part.len() / (dimensions.steps * lanes.length) * rows];
        scatter_lanes(&mut whole, part, dimensions, lanes);
        *part = whole;
    };
    match &mut all.input {
        InputGradients::Products(whole) | InputGradients::Dense { x: whole, .. } => {
            spread(whole, lanes);
        }
        InputGradients::Tokens(_) => {}
    }
    for (lanes, part) in parts {
        add(&mut all.weight, &part.weight);
        all.h.extend(part.h);
        all.c.extend(part.c);
        match (&mut all.input, part.input) {
            (InputGradients::Products(all), InputGradients::Products(part)) => {
                scatter_lanes(all, &part, dimensions, lanes);
            }
            (
                InputGradients::Dense { x, weight, bias },
                InputGradients::Dense { x: part, weight: weight_part, bias: bias_part },
            ) => {
                scatter_lanes(x, &part, dimensions, lanes);
                add(weight, &weight_part);
                add(bias, &bias_part);
            }
            (InputGradients::Tokens(all), InputGradients::Tokens(part)) => add(all, &part),
            _ => unreachable!("all lanes have the same kind of input"),
        }
    }
    all
}

#[inline(always)]
fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// Some lanes on their way back.
struct Backward<'a> {
    dimensions: Dimensions,
    arguments: Arguments<'a>,
    saved: SavedLanes,
    /// The transpose of the recurrent weight.
    weight: &'a Packed,
    input_weight: Option<&'a Packed>,
}

impl WithSimd for Backward<'_> {
    type Output = (Piece, Gradients);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (Piece, Gradients) {
        let Self { dimensions, arguments, saved, weight, input_weight } = self;
        let SavedLanes { lanes, mut gates, cells } = saved;
        let Dimensions { steps, batch, hidden } = dimensions;
        let (plane, whole) = (lanes.length * hidden, batch * hidden);
        let mut blocks = Blocks::default();
        let of_lanes = |all, step| {
            let all: &[f32] = all;
            &all[step * whole + lanes.start * hidden..][..plane]
        };

        let mut grad_h = vec![0.0; plane];
        let mut grad_c = of_lanes(arguments.grad, steps).to_vec();
        for step in (0..steps).rev() {
            add(&mut grad_h, of_lanes(arguments.grad, step));
            let gates = &mut gates[step * 4 * plane..][..4 * plane];
            let earlier = match step {
                0 => of_lanes(arguments.c, 0),
                _ => &cells[(step - 1) * plane..][..plane],
            };
            let rows = gates
                .chunks_exact_mut(4 * hidden)
                .zip(cells[step * plane..][..plane].chunks_exact(hidden))
                .zip(earlier.chunks_exact(hidden))
                .zip(grad_h.chunks_exact(hidden))
                .zip(grad_c.chunks_exact_mut(hidden));
            for ((((gates, cells), earlier), grad_h), grad_c) in rows {
                step_backward(simd, gates, cells, earlier, grad_h, grad_c);
            }
            grad_h.fill(0.0);
            let left = Left::Plain { numbers: gates, stride: 4 * hidden };
            add_product(simd, left, weight, &mut grad_h, &mut blocks);
        }

        let mut h = of_lanes(arguments.h, 0).to_vec();
        h.reserve_exact((steps - 1) * plane);
        (0..steps - 1).for_each(|step| h.extend_from_slice(of_lanes(arguments.outputs, step)));
        let mut factors = vec![WeightGradient::new(h, hidden, 4 * hidden)];
        if let Input::Dense { x, .. } = arguments.input {
            let x = gather_lanes(x, dimensions, lanes);
            let width = x.len() / (steps * lanes.length);
            factors.push(WeightGradient::new(x, width, 4 * hidden));
        }
        add_outer_products(simd, &mut factors, &gates, 4 * hidden, &mut blocks);
        let mut sums = factors.into_iter().map(|factor| factor.sum);
        let weight = sums.next().expect("the recurrent weight has a gradient");
        let input = match arguments.input {
            Input::Products(_) => InputGradients::Products(gates),
            Input::Tokens { distinct, table } => {
                let indices = distinct.indices();
                let rows = (0..steps)
                    .flat_map(|step| &indices[step * batch + lanes.start..][..lanes.length]);
                let mut sums = vec![0.0; table.len()];
                for (&index, grad) in rows.zip(gates.chunks_exact(4 * hidden)) {
                    add(&mut sums[index as usize * 4 * hidden..][..4 * hidden], grad);
                }
                InputGradients::Tokens(sums)
            }
            Input::Dense { bias, .. } => {
                let weight = sums.next().expect("so has the input weight");
                let transposed = input_weight.expect("it was packed");
                let mut x = vec![0.0; weight.len() / bias.len() * steps * lanes.length];
                let left = Left::Plain { numbers: &gates, stride: 4 * hidden };
                add_product(simd, left, transposed, &mut x, &mut blocks);
                let mut sums = vec![0.0; bias.len()];
                gates.chunks_exact(bias.len()).for_each(|row| add(&mut sums, row));
                InputGradients::Dense { x, weight, bias: sums }
            }
        };
        (lanes, Gradients { input, weight, h: grad_h, c: grad_c })
    }
}

/// The gradient of a weight: the sum of the outer products of what it was multiplied with and
/// the gradient of what came out.
struct WeightGradient {
    /// `[N, W]`.
    factor: Vec<f32>,
    width: usize,
    /// `[W, 4H]`.
    sum: Vec<f32>,
}

impl WeightGradient {
    fn new(factor: Vec<f32>, width: usize, columns: usize) -> Self {
        Self { factor, width, sum: vec![0.0; width * columns] }
    }
}

/// Adds up the outer products with the rows of `grad`, `[N, columns]`.
#[inline(always)]
fn add_outer_products<S: Simd>(
    simd: S,
    gradients: &mut [WeightGradient],
    grad: &[f32],
    columns: usize,
    blocks: &mut Blocks,
) {
    let mut packed = Packed::default();
    for (index, grad) in grad.chunks(DEPTH * columns).enumerate() {
        packed.pack(grad, columns);
        for WeightGradient { factor, width, sum } in &mut *gradients {
            let numbers = &factor[index * DEPTH * *width..];
            let left = Left::Transposed { numbers, stride: *width };
            add_product(simd, left, &packed, sum, blocks);
        }
    }
}
