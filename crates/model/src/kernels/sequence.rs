//! A layer over a sequence: forward, and back-propagation through time (Werbos 1990,
//! <https://doi.org/10.1109/5.58337>).

use pulp::{Arch, Simd, WithSimd};

use super::activation::{sigmoid, tanh};
use super::product::Packed;

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

/// What the forward pass keeps for the backward pass.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    /// The gates behind their activations, `[T, B, 4H]`.
    pub(crate) gates: Vec<f32>,
    /// The cell states, `[T, B, H]`.
    pub(crate) cells: Vec<f32>,
}

/// Gradients with respect to what went in.
#[derive(Clone, Debug)]
pub(crate) struct Gradients {
    /// `[T, B, 4H]`.
    pub(crate) products: Vec<f32>,
    /// `[H, 4H]`.
    pub(crate) weight: Vec<f32>,
    /// `[B, H]`.
    pub(crate) h: Vec<f32>,
    /// `[B, H]`.
    pub(crate) c: Vec<f32>,
}

/// The least work, in multiplications, that is worth another thread.
const WORTH_A_THREAD: usize = 1 << 18;

/// Runs a layer. `gates` holds the input's share of the gates on entry, `[T, B, 4H]`.
///
/// Returns the outputs of every step followed by the last cell state, `[T + 1, B, H]`, and what
/// the backward pass needs.
pub(crate) fn forward(
    dimensions: Dimensions,
    mut gates: Vec<f32>,
    weight: &[f32],
    h: &[f32],
    c: &[f32],
) -> (Vec<f32>, Saved) {
    let Dimensions { steps, batch, hidden } = dimensions;
    let plane = batch * hidden;
    let packed = Packed::new(weight, hidden, 4 * hidden);
    let mut outputs = vec![0.0; (steps + 1) * plane];
    let mut cells = vec![0.0; steps * plane];
    let lanes = lanes_per_thread(dimensions);

    let mut groups: Vec<ForwardGroup<'_>> = h
        .chunks(lanes * hidden)
        .zip(c.chunks(lanes * hidden))
        .map(|(h, c)| ForwardGroup { packed: &packed, hidden, h, c, steps: Vec::new() })
        .collect();
    let planes =
        gates.chunks_mut(4 * plane).zip(outputs.chunks_mut(plane)).zip(cells.chunks_mut(plane));
    for ((gates, outputs), cells) in planes {
        let parts = gates
            .chunks_mut(4 * lanes * hidden)
            .zip(outputs.chunks_mut(lanes * hidden))
            .zip(cells.chunks_mut(lanes * hidden));
        for (group, ((gates, outputs), cells)) in groups.iter_mut().zip(parts) {
            group.steps.push(ForwardStep { gates, outputs, cells });
        }
    }
    in_parallel(groups);
    outputs[steps * plane..].copy_from_slice(&cells[(steps - 1) * plane..]);
    (outputs, Saved { gates, cells })
}

/// Some lanes on their way forward.
struct ForwardGroup<'a> {
    packed: &'a Packed,
    hidden: usize,
    h: &'a [f32],
    c: &'a [f32],
    steps: Vec<ForwardStep<'a>>,
}

/// What one step writes for these lanes.
struct ForwardStep<'a> {
    gates: &'a mut [f32],
    outputs: &'a mut [f32],
    cells: &'a mut [f32],
}

impl WithSimd for ForwardGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let hidden = self.hidden;
        let (mut h, mut c) = (self.h, self.c);
        for ForwardStep { gates, outputs, cells } in self.steps {
            self.packed.add_product(simd, h, gates);
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
    }
}

/// Activates the gates of a lane and makes its next state.
#[inline(always)]
fn step_forward<S: Simd>(
    simd: S,
    gates: &mut [f32],
    c: &[f32],
    h_next: &mut [f32],
    c_next: &mut [f32],
) {
    let [i, f, g, o] = four(gates);
    let units = i
        .chunks_mut(S::F32_LANES)
        .zip(f.chunks_mut(S::F32_LANES))
        .zip(g.chunks_mut(S::F32_LANES))
        .zip(o.chunks_mut(S::F32_LANES))
        .zip(c.chunks(S::F32_LANES))
        .zip(h_next.chunks_mut(S::F32_LANES))
        .zip(c_next.chunks_mut(S::F32_LANES));
    for ((((((i, f), g), o), c), h_next), c_next) in units {
        let load = |slice: &[f32]| simd.partial_load_f32s(slice);
        let (i_, f_) = (sigmoid(simd, load(i)), sigmoid(simd, load(f)));
        let (g_, o_) = (tanh(simd, load(g)), sigmoid(simd, load(o)));
        let c_ = simd.mul_add_e_f32s(f_, load(c), simd.mul_f32s(i_, g_));
        let h_ = simd.mul_f32s(o_, tanh(simd, c_));
        for (slice, values) in [(i, i_), (f, f_), (g, g_), (o, o_), (c_next, c_), (h_next, h_)] {
            simd.partial_store_f32s(slice, values);
        }
    }
}

/// The blocks of i, f, g and o.
#[inline(always)]
fn four(gates: &mut [f32]) -> [&mut [f32]; 4] {
    let hidden = gates.len() / 4;
    let (i, rest) = gates.split_at_mut(hidden);
    let (f, rest) = rest.split_at_mut(hidden);
    let (g, o) = rest.split_at_mut(hidden);
    [i, f, g, o]
}

/// Goes back through a layer.
///
/// `outputs` is what [`forward`] returned and `grad` the gradient with respect to it,
/// `[T + 1, B, H]` both. The gates are overwritten with their gradients.
pub(crate) fn backward(
    dimensions: Dimensions,
    saved: Saved,
    outputs: &[f32],
    weight: &[f32],
    h: &[f32],
    c: &[f32],
    grad: &[f32],
) -> Gradients {
    let Dimensions { steps, batch, hidden } = dimensions;
    let plane = batch * hidden;
    let Saved { mut gates, cells } = saved;
    let packed = Packed::transposed(weight, 4 * hidden, hidden);
    let (grad, last_cell) = grad.split_at(steps * plane);
    let mut grad_h = vec![0.0; plane];
    let mut grad_c = last_cell.to_vec();
    let lanes = lanes_per_thread(dimensions);

    let mut groups: Vec<BackwardGroup<'_>> = grad_h
        .chunks_mut(lanes * hidden)
        .zip(grad_c.chunks_mut(lanes * hidden))
        .map(|(grad_h, grad_c)| BackwardGroup {
            packed: &packed,
            hidden,
            grad_h,
            grad_c,
            steps: Vec::with_capacity(steps),
        })
        .collect();
    let earlier = std::iter::once(c).chain(cells.chunks(plane));
    let planes =
        gates.chunks_mut(4 * plane).zip(cells.chunks(plane)).zip(earlier).zip(grad.chunks(plane));
    for (((gates, cells), earlier), grad) in planes {
        let parts = gates
            .chunks_mut(4 * lanes * hidden)
            .zip(cells.chunks(lanes * hidden))
            .zip(earlier.chunks(lanes * hidden))
            .zip(grad.chunks(lanes * hidden));
        for (group, (((gates, cells), earlier), grad)) in groups.iter_mut().zip(parts) {
            group.steps.push(BackwardStep { gates, cells, earlier, grad });
        }
    }
    in_parallel(groups);

    let products = gates;
    let mut grad_weight = vec![0.0; hidden * 4 * hidden];
    let (first, others) = products.split_at(4 * plane);
    add_outer_products(h, first, &mut grad_weight, dimensions);
    add_outer_products(&outputs[..(steps - 1) * plane], others, &mut grad_weight, dimensions);
    Gradients { products, weight: grad_weight, h: grad_h, c: grad_c }
}

/// Some lanes on their way back.
struct BackwardGroup<'a> {
    packed: &'a Packed,
    hidden: usize,
    /// Zero on entry, the gradient of the initial hidden state on return.
    grad_h: &'a mut [f32],
    /// The last cell state's gradient on entry, the initial one's on return.
    grad_c: &'a mut [f32],
    steps: Vec<BackwardStep<'a>>,
}

/// What one step reads and writes for these lanes.
struct BackwardStep<'a> {
    gates: &'a mut [f32],
    cells: &'a [f32],
    /// The cell states before the step.
    earlier: &'a [f32],
    grad: &'a [f32],
}

impl WithSimd for BackwardGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { packed, hidden, grad_h, grad_c, steps } = self;
        for BackwardStep { gates, cells, earlier, grad } in steps.into_iter().rev() {
            for (carried, grad) in grad_h.iter_mut().zip(grad) {
                *carried += grad;
            }
            let lanes = gates
                .chunks_exact_mut(4 * hidden)
                .zip(cells.chunks_exact(hidden))
                .zip(earlier.chunks_exact(hidden))
                .zip(grad_h.chunks_exact(hidden))
                .zip(grad_c.chunks_exact_mut(hidden));
            for ((((gates, cells), earlier), grad_h), grad_c) in lanes {
                step_backward(simd, gates, cells, earlier, grad_h, grad_c);
            }
            grad_h.fill(0.0);
            packed.add_product(simd, gates, grad_h);
        }
    }
}

/// Turns the gates of a lane into their gradients, and moves the cell's gradient a step back.
#[inline(always)]
fn step_backward<S: Simd>(
    simd: S,
    gates: &mut [f32],
    cells: &[f32],
    earlier: &[f32],
    grad_h: &[f32],
    grad_c: &mut [f32],
) {
    let [i, f, g, o] = four(gates);
    let units = i
        .chunks_mut(S::F32_LANES)
        .zip(f.chunks_mut(S::F32_LANES))
        .zip(g.chunks_mut(S::F32_LANES))
        .zip(o.chunks_mut(S::F32_LANES))
        .zip(cells.chunks(S::F32_LANES))
        .zip(earlier.chunks(S::F32_LANES))
        .zip(grad_h.chunks(S::F32_LANES))
        .zip(grad_c.chunks_mut(S::F32_LANES));
    for (((((((i, f), g), o), cells), earlier), grad_h), grad_c) in units {
        let load = |slice: &[f32]| simd.partial_load_f32s(slice);
        let times = |a: S::f32s, b: S::f32s| simd.mul_f32s(a, b);
        let one = simd.splat_f32s(1.0);
        let (i_, f_, g_, o_) = (load(i), load(f), load(g), load(o));
        // The derivatives: σ' = σ (1 − σ), tanh' = 1 − tanh².
        let slope = |s: S::f32s| times(s, simd.sub_f32s(one, s));
        let slope_of_tanh = |t: S::f32s| simd.sub_f32s(one, times(t, t));
        let (grad_h_, squashed) = (load(grad_h), tanh(simd, load(cells)));
        let through_h = times(times(grad_h_, o_), slope_of_tanh(squashed));
        let grad = simd.add_f32s(load(grad_c), through_h);
        let of_i = times(times(grad, g_), slope(i_));
        let of_f = times(times(grad, load(earlier)), slope(f_));
        let of_g = times(times(grad, i_), slope_of_tanh(g_));
        let of_o = times(times(grad_h_, squashed), slope(o_));
        for (slice, values) in
            [(i, of_i), (f, of_f), (g, of_g), (o, of_o), (grad_c, times(grad, f_))]
        {
            simd.partial_store_f32s(slice, values);
        }
    }
}

/// `to += Σ leftᵀ right` over all steps and lanes: the weight's gradient, `[H, 4H]`.
fn add_outer_products(left: &[f32], right: &[f32], to: &mut [f32], dimensions: Dimensions) {
    let hidden = dimensions.hidden;
    let rows = left.len() / hidden;
    if rows == 0 {
        return;
    }
    let (m, k, n) = (hidden, rows, 4 * hidden);
    assert!(left.len() == k * m && right.len() == k * n && to.len() == m * n);
    // SAFETY: the lengths were checked above. `left` is read as its transpose, [m, k] with
    // strides 1 and m; `right` as [k, n] and `to` as [m, n], row major; `to` is not aliased.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            left.as_ptr(),
            1,
            m as isize,
            right.as_ptr(),
            n as isize,
            1,
            1.0,
            to.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}

/// How many lanes a thread takes: all of them where another thread would only cost.
fn lanes_per_thread(dimensions: Dimensions) -> usize {
    let Dimensions { steps, batch, hidden } = dimensions;
    let work = steps * batch * 4 * hidden * hidden;
    let threads = rayon::current_num_threads().min(batch).min(work / WORTH_A_THREAD).max(1);
    batch.div_ceil(threads)
}

/// Does each group's work, on a thread of its own where there are several.
fn in_parallel<W: WithSimd<Output = ()> + Send>(mut groups: Vec<W>) {
    let Some(last) = groups.pop() else { return };
    let arch = Arch::new();
    rayon::in_place_scope(|scope| {
        for group in groups {
            scope.spawn(move |_| arch.dispatch(group));
        }
        arch.dispatch(last);
    });
}
