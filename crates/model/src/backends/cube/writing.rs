//! Writing many lanes of text on the device: dozens of steps, with the choice of each token, are one
//! launch.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::TensorData;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::Device;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::has_room_for_buffers;
use super::kernels::{self, WritingExtent};
use super::layer::Limits;
use crate::kernels::decoding::{Between, NetworkWeights};

/// Lanes that write on a device.
#[derive(Debug)]
pub(crate) struct Writing {
    device: Device,
    extent: WritingExtent,
    lanes: usize,
    sharpness: f32,
    /// What the lowest layer's gates begin with, `[V, H]` of gates.
    start: CubeTensor,
    /// All other weights of the layers, of gates.
    layers: CubeTensor,
    head: CubeTensor,
    /// `[L, 2, B, H]`.
    state: CubeTensor,
}

impl Writing {
    /// Brings the weights to the device, for so many lanes, whose states begin as zeros. `None`
    /// where the network is too large for a cube, or the device allows too few buffers.
    pub(crate) fn new(
        device: &Device,
        weights: &NetworkWeights,
        lanes: usize,
        temperature: f32,
    ) -> Option<Self> {
        let client = device.client();
        if !has_room_for_buffers(&client) {
            return None;
        }
        let limits = Limits::of(&client);
        Self::within(limits, device, weights, lanes, temperature)
    }

    /// The same within these limits.
    pub(super) fn within(
        limits: Limits,
        device: &Device,
        weights: &NetworkWeights,
        lanes: usize,
        temperature: f32,
    ) -> Option<Self> {
        let extent = WritingExtent {
            layers: weights.layers.len(),
            hidden: weights.layers[0].hidden,
            vocabulary: weights.head.bias.len(),
            between: weights.between,
            greedy: temperature == 0.0,
            lanes: 1,
            of_unit: 1,
        };
        let extent = divide(extent, lanes, limits)?;
        let hidden = extent.hidden;
        let upload = |numbers: Vec<f32>| {
            let shape = [numbers.len()];
            CubeBackend::float_from_data(TensorData::new(numbers, shape), device)
        };
        let mut layers = Vec::new();
        for (index, layer) in weights.layers.iter().enumerate() {
            if index > 0 {
                layers.extend(side_by_side(&layer.start, hidden));
            }
            if let Some(input) = &layer.input {
                layers.extend(side_by_side(input, hidden));
            }
            layers.extend(side_by_side(&layer.recurrent, hidden));
        }
        Some(Self {
            device: device.clone(),
            extent,
            lanes,
            sharpness: (1.0 / temperature).min(f32::MAX),
            start: upload(side_by_side(&weights.layers[0].start, hidden).collect()),
            layers: upload(layers),
            head: upload([&weights.head.bias[..], &weights.head.weight].concat()),
            state: upload(vec![0.0; 2 * extent.layers * lanes * hidden]),
        })
    }

    /// Reads the tokens `given`, `[G, B]` and at least one row, and writes one more in every lane for
    /// each row of `uniforms`, `[N, B]`; returns those, `[N, B]`. The last one has not been read yet.
    pub(crate) fn write(&mut self, given: &[u32], uniforms: &[f32]) -> Vec<u32> {
        let Self { device, extent, lanes, .. } = self;
        let (given_rows, rows) = (given.len() / *lanes, uniforms.len() / *lanes);
        let mut tokens: Vec<i32> = given.iter().map(|&token| token as i32).collect();
        tokens.resize((given_rows + rows) * *lanes, 0);
        let shape = [tokens.len()];
        let tokens = CubeBackend::int_from_data(TensorData::new(tokens, shape), device);
        // A kernel wants a number in any case.
        let uniforms = if uniforms.is_empty() { &[0.0] } else { uniforms };
        let uniforms = TensorData::new(uniforms.to_vec(), [uniforms.len()]);
        let uniforms = CubeBackend::float_from_data(uniforms, device);
        let client = device.client();
        let cubes = CubeCount::Static(lanes.div_ceil(extent.lanes) as u32, 1, 1);
        let units = CubeDim::new_1d(extent.units() as u32);
        let (steps, at_once) = (given_rows + rows - 1, extent.most_steps());
        for first in (0..steps).step_by(at_once) {
            kernels::write::launch(
                &client,
                cubes.clone(),
                units,
                tokens.clone().into_buffer_arg(),
                uniforms.clone().into_buffer_arg(),
                self.start.clone().into_buffer_arg(),
                self.layers.clone().into_buffer_arg(),
                self.head.clone().into_buffer_arg(),
                self.state.clone().into_buffer_arg(),
                first,
                at_once.min(steps - first),
                given_rows,
                *lanes,
                self.sharpness,
                *extent,
            );
        }
        let bytes = client.read_one(tokens.handle).expect("the device gives back what it wrote");
        let tokens = i32::from_bytes(&bytes)[given.len()..][..rows * *lanes].iter();
        tokens.map(|&token| token as u32).collect()
    }
}

/// How cubes divide the lanes, and units the hidden units; `None` where a cube cannot hold a lane.
fn divide(extent: WritingExtent, batch: usize, limits: Limits) -> Option<WritingExtent> {
    const MOST_LANES: usize = 4;
    const MOST_UNITS: usize = 512;
    /// Sums of gates that fit a unit's registers.
    const MOST_SUMS: usize = 8;
    let WritingExtent { layers, hidden, vocabulary, between, .. } = extent;
    let units = hidden.div_ceil(limits.of_unit).min(MOST_UNITS).min(limits.units);
    let of_unit = hidden.div_ceil(units);
    let vectors = layers + usize::from(between != Between::Nothing);
    // Beside them a lane has its latest token and its highest score.
    let room = limits.shared.saturating_sub(1) / (vectors * hidden + vocabulary + 2);
    let most = MOST_LANES.min(MOST_SUMS / of_unit).min(room);
    // Each lane of a cube has a unit that chooses for it.
    let most = most.min(hidden.div_ceil(of_unit));
    (most > 0).then(|| WritingExtent {
        lanes: batch.div_ceil(limits.cubes).clamp(1, most),
        of_unit,
        ..extent
    })
}

/// Rows of `[4, H]` as rows of `[H, 4]`.
fn side_by_side(matrix: &[f32], hidden: usize) -> impl Iterator<Item = f32> {
    matrix.chunks_exact(4 * hidden).flat_map(move |row| {
        (0..hidden).flat_map(move |unit| (0..4).map(move |gate| row[gate * hidden + unit]))
    })
}
