//! What a layer reads, as the kernels want it.

use burn::backend::TensorMetadata;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::empty;
use super::kernels::{self, MOST_ROUNDS};
use super::layer::{Limits, Sequence};
use super::products::{Columns, Factor, product, product_to, sum_rows};
use crate::backends::{Kernels, LayerInput, Recurrence, plain};

/// What a layer reads. The kernels have the four gates of a hidden unit side by side, `[H, 4]`, which
/// weights and bias have in blocks, `[4, H]`.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) input: LayerInput<CubeBackend>,
    /// `[T, B]`, where the input is a vocabulary's embeddings, `[1, V, E]`: a text has far more
    /// places than distinct tokens, which are multiplied once each.
    pub(super) tokens: Option<CubeTensor>,
}

impl Reading {
    pub(super) fn new(input: LayerInput<CubeBackend>) -> Self {
        /// Tokens whose gradients are summed by looking for each at every place.
        const FEW: usize = 512;
        match input {
            LayerInput::Tokens { tokens, embedding, weight, bias }
                if embedding.shape()[0] <= FEW =>
            {
                let [vocabulary, width] = embedding.shape().dims();
                let x = CubeBackend::float_reshape(embedding, Shape::new([1, vocabulary, width]));
                let tokens = Some(into_contiguous(tokens));
                Self { input: LayerInput::Dense { x, weight, bias }, tokens }
            }
            input => Self { input, tokens: None },
        }
    }

    pub(super) fn extent(&self, recurrence: &Recurrence<CubeBackend>) -> Sequence {
        let [batch, hidden] = recurrence.h.shape().dims();
        let places = match (&self.tokens, &self.input) {
            (Some(tokens), _) | (None, LayerInput::Tokens { tokens, .. }) => tokens.shape(),
            (None, LayerInput::Products(products)) => products.shape(),
            (None, LayerInput::Dense { x, .. }) => x.shape(),
        };
        Sequence { steps: places[0], batch, hidden }
    }

    /// The input's share of the gates, side by side: of every place, or of every token.
    pub(super) fn products(&self) -> CubeTensor {
        match &self.input {
            LayerInput::Products(products) => swap_gates(products.clone(), Axes::Blocks),
            input => into_contiguous(plain::products_by(input, linear)),
        }
    }

    /// The tokens for a kernel, which wants some in any case, and their type.
    pub(super) fn token_argument(&self, like: &CubeTensor) -> (CubeTensor, ElemType) {
        let tokens = self.tokens.clone().unwrap_or_else(|| {
            let (client, device) = (like.client.clone(), like.device.clone());
            empty_device_contiguous_dtype(client, device, Shape::new([1]), DType::I32)
        });
        let element = dtype_to_storage_type(tokens.dtype);
        (tokens, element)
    }

    /// The gradients in the order of [`WayBack`], with the gates in blocks again. `read` is what each
    /// step read of the one before, `[T, B, H]`.
    pub(super) fn gradients(
        self,
        read: CubeTensor,
        grad_products: CubeTensor,
        grad_states: [CubeTensor; 2],
    ) -> Vec<CubeTensor> {
        let flat = |tensor: CubeTensor| {
            let [steps, batch, width] = tensor.shape().dims();
            Factor::columns(CubeBackend::float_reshape(tensor, Shape::new([steps * batch, width])))
        };
        let factors = [flat(read), flat(grad_products.clone())];
        let of_recurrent = product_to(Columns::InBlocks, factors, None);
        let mut results = match (self.tokens, self.input) {
            (_, LayerInput::Products(_)) => vec![swap_gates(grad_products, Axes::SideBySide)],
            (Some(tokens), input) => {
                let LayerInput::Dense { x, .. } = &input else {
                    unreachable!("a vocabulary's embeddings are vectors");
                };
                let [_, vocabulary, width] = x.shape().dims();
                let grad_table = sum_by_token(tokens, grad_products, vocabulary);
                let linear_back = CubeBackend::linear_back;
                let mut results = plain::input_gradients_by(input, grad_table, linear_back);
                let of_embedding = Shape::new([vocabulary, width]);
                results[0] = CubeBackend::float_reshape(results[0].clone(), of_embedding);
                results
            }
            (None, input) => plain::input_gradients_by(input, grad_products, linear_back),
        };
        results.push(of_recurrent);
        results.extend(grad_states);
        results
    }
}

/// input × weight + bias, with the gates side by side, of a weight and a bias that have them in blocks.
fn linear(input: CubeTensor, weight: CubeTensor, bias: CubeTensor) -> CubeTensor {
    let factors = [Factor::rows(input), Factor::columns(weight)];
    product_to(Columns::SideBySide, factors, Some(bias))
}

/// The way back through [`linear`].
fn linear_back(input: CubeTensor, weight: CubeTensor, grad: CubeTensor) -> [CubeTensor; 3] {
    let weight = swap_gates(weight, Axes::Blocks);
    let of_bias = swap_gates(sum_rows(grad.clone()), Axes::SideBySide);
    let of_input = product([Factor::rows(grad.clone()), Factor::rows(weight)], None);
    let factors = [Factor::columns(input), Factor::columns(grad)];
    [of_input, product_to(Columns::InBlocks, factors, None), of_bias]
}

/// The sums of the rows that belong to the same token: `[1, V, 4H]` from `[T, B, 4H]`, whose gates are
/// side by side and become blocks.
pub(super) fn sum_by_token(
    tokens: CubeTensor,
    grad_products: CubeTensor,
    vocabulary: usize,
) -> CubeTensor {
    const MOST_UNITS: usize = 32;
    /// Places whose sums are formed by themselves, at the least.
    const LEAST_PLACES: usize = 64;
    /// And at the most: a round of a loop for every eight.
    const MOST_PLACES: usize = 4 * MOST_ROUNDS;
    let [steps, batch, width] = grad_products.shape().dims();
    let (places, hidden) = (steps * batch, width / 4);
    let element = dtype_to_storage_type(tokens.dtype);
    let client = grad_products.client.clone();
    let limits = Limits::of(&client);
    let room = limits.shared / (4 * vocabulary);
    let units = 1 << MOST_UNITS.min(room).min(limits.units).max(1).ilog2();
    let groups = hidden.div_ceil(units);
    let parts = (4 * limits.cubes / groups).min(places / LEAST_PLACES);
    let parts = parts.max(places.div_ceil(MOST_PLACES));
    let each = places.div_ceil(parts);
    let parts = places.div_ceil(each);
    let tables = empty(&grad_products, [parts, vocabulary * width]);
    kernels::sum_by_token::launch(
        &client,
        CubeCount::Static(groups as u32, parts as u32, 1),
        CubeDim::new_1d(units as u32),
        tokens.into_buffer_arg(),
        grad_products.into_buffer_arg(),
        tables.clone().into_buffer_arg(),
        places,
        each,
        vocabulary,
        hidden,
        units,
        element,
    );
    let table = if parts > 1 { sum_rows(tables) } else { tables };
    CubeBackend::float_reshape(table, Shape::new([1, vocabulary, width]))
}

/// How the last axis of a tensor holds the gates.
#[derive(Clone, Copy)]
pub(super) enum Axes {
    /// `[4, H]`.
    Blocks,
    /// `[H, 4]`.
    SideBySide,
}

/// The gates the other way than they are, `from`.
pub(super) fn swap_gates(tensor: CubeTensor, from: Axes) -> CubeTensor {
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
