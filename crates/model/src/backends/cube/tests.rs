//! The kernels, held against the primitive operations on the same device.

use burn::backend::DispatchDevice;
use burn::backend::ops::IntTensorOps;
use burn::tensor::{Device, DeviceType, TensorData};
use burn_cubecl::cubecl::Device as CubeDevice;

use super::layer::{Division, in_type};
use super::products::{Columns, divide, product_within, sum_rows};
use super::*;
use crate::kernels::decoding::{Between, HeadWeights, LayerWeights, NetworkWeights};

const FLOAT_32: ElemType = ElemType::Float(FloatKind::F32);

fn device() -> Option<CubeDevice> {
    let device = Device::enumerate(DeviceType::Wgpu).into_vec().into_iter().next();
    match device.as_ref().map(Device::as_dispatch) {
        Some(DispatchDevice::Cube(device)) => Some(device.clone()),
        _ => {
            eprintln!("SKIPPED: the kernels for a GPU, for no adapter exists");
            None
        }
    }
}

/// `cos` of multiples of an angle that follows from `n`.
fn tensor<const D: usize>(n: usize, shape: [usize; D], device: &CubeDevice) -> CubeTensor {
    let angle = 1.0 + n as f32 / 7.0;
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|k| 0.5 * (k as f32 * angle + n as f32).cos()).collect();
    CubeBackend::float_from_data(TensorData::new(numbers, shape), device)
}

fn numbers(tensor: CubeTensor) -> Vec<f32> {
    let data = pollster(CubeBackend::float_into_data(tensor));
    data.try_into_vec().expect("float32")
}

/// Reading from a device that is not the web's is done when it returns.
fn pollster<T, E: std::fmt::Debug>(future: impl Future<Output = Result<T, E>>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result.expect("the device answers");
        }
        std::thread::yield_now();
    }
}

fn assert_close(name: &str, got: CubeTensor, expected: CubeTensor) {
    assert_eq!(got.shape(), expected.shape(), "the shape of {name}");
    let (got, expected) = (numbers(got), numbers(expected));
    let largest = expected.iter().fold(1e-30_f32, |most, value| most.max(value.abs()));
    for (got, expected) in got.iter().zip(&expected) {
        // Not a number is not close either.
        assert!((got - expected).abs() <= 1e-5 * largest, "{name}: {got}, not {expected}");
    }
}

/// A card with so many units in a cube, and so many multiprocessors.
fn card(units: usize, cubes: usize) -> Limits {
    Limits { units, shared: 8192, cubes, of_unit: 1, is_card: true }
}

/// However the work is divided over cubes and units, and by products of matrices.
#[test]
fn every_division_of_the_work_makes_the_plain_layer() {
    let Some(device) = device() else { return };
    let divisions = [
        (1, 1, 1, 0, 0, 9),
        (2, 1, 1, 0, 1, 1),
        (1, 2, 1, 0, 0, 2),
        (3, 4, 1, 0, 12, 3),
        (2, 2, 3, 0, 1, 4),
        (1, 1, 4, 2, 5, 5),
    ];
    for [steps, batch, hidden] in [[1, 1, 1], [5, 3, 7], [4, 5, 33], [3, 18, 64], [6, 40, 12]] {
        let sequence = Sequence { steps, batch, hidden };
        let alone_ways =
            divisions.map(|(lanes, of_unit, parts, in_registers, held, most_steps)| {
                let parts = hidden.min(parts);
                let rows = hidden.div_ceil(parts);
                let in_registers = rows.min(in_registers);
                let held = held.min(rows - in_registers);
                Way::Alone(Division { lanes, of_unit, parts, in_registers, held, most_steps })
            });
        // Cubes meet here by themselves alone, and in small layers: WGSL has no word for what several need,
        // and llvmpipe ends a loop that waits for long. On CUDA tests/model/fused.rs lets many meet.
        let share = |limits, meets| {
            let [forward, back] = [false, true].map(|back| sequence.shares(limits, meets, back));
            Some(Way::Shared([forward?, back?]))
        };
        let shared_ways = [share(card(32, 4), false), share(card(256, 1), true)];
        assert!(shared_ways[0].is_some() && (hidden > 16 || shared_ways[1].is_some()));
        let ways: Vec<Way> = alone_ways
            .into_iter()
            .chain(shared_ways.into_iter().flatten())
            .chain([Way::ByProducts])
            .collect();
        let (weight, bias) =
            (tensor(1, [4, 4 * hidden], &device), tensor(2, [4 * hidden], &device));
        let tokens: Vec<i32> = (0..steps * batch).map(|k| (k * k % 6) as i32).collect();
        let tokens = TensorData::new(tokens, [steps, batch]);
        // A small vocabulary, whose products are formed once, and a large one.
        let inputs = [
            LayerInput::Products(tensor(0, [steps, batch, 4 * hidden], &device)),
            LayerInput::Dense {
                x: tensor(0, [steps, batch, 4], &device),
                weight: weight.clone(),
                bias: bias.clone(),
            },
            LayerInput::Tokens {
                tokens: CubeBackend::int_from_data(tokens.clone(), &device),
                embedding: tensor(0, [7, 4], &device),
                weight: weight.clone(),
                bias: bias.clone(),
            },
            LayerInput::Tokens {
                tokens: CubeBackend::int_from_data(tokens, &device),
                embedding: tensor(0, [700, 4], &device),
                weight,
                bias,
            },
        ];
        let recurrence = Recurrence {
            weight: tensor(3, [hidden, 4 * hidden], &device),
            h: tensor(4, [batch, hidden], &device),
            c: tensor(5, [batch, hidden], &device),
            half: false,
        };
        let grad = tensor(6, [steps, batch, hidden], &device);
        for (index, input) in inputs.into_iter().enumerate() {
            let grad_c = (index % 2 == 0).then(|| tensor(7, [batch, hidden], &device));
            let plain = plain::layer::<CubeBackend>(input.clone(), recurrence.clone(), true);
            let expected = plain.back.expect("asked for").go(grad.clone(), grad_c.clone());
            for &way in &ways {
                let name = format!("input {index}, {way:?}, {sequence:?}");
                let run = |keep| {
                    let (reading, recurrence) = (Reading::new(input.clone()), recurrence.clone());
                    match way {
                        Way::Alone(division) => {
                            alone(sequence, division, FLOAT_32, reading, recurrence, keep)
                        }
                        Way::Shared(shares) => shared(sequence, shares, reading, recurrence, keep),
                        Way::ByProducts => by_products(sequence, reading, recurrence, keep),
                    }
                };
                let (without, got) = (run(false), run(true));
                for layer in [&without, &got] {
                    let name = format!("{name}: outputs");
                    assert_close(&name, layer.outputs.clone(), plain.outputs.clone());
                    assert_close(&name, layer.c.clone(), plain.c.clone());
                }
                let got = got.back.expect("asked for").go(grad.clone(), grad_c.clone());
                assert_eq!(got.len(), expected.len());
                for (index, (got, expected)) in got.into_iter().zip(&expected).enumerate() {
                    assert_close(&format!("{name}: gradient {index}"), got, expected.clone());
                }
            }
        }
    }
}

/// A layer that reads 16-bit numbers is one whose weights were rounded to them.
#[test]
fn half_a_weight_is_the_rounded_weight() {
    let Some(device) = device() else { return };
    let Some(half) = half(&device.client()) else {
        eprintln!("SKIPPED: weights of 16-bit numbers, for the adapter has none");
        return;
    };
    let sequence = Sequence { steps: 5, batch: 3, hidden: 33 };
    let Sequence { steps, batch, hidden } = sequence;
    let input = || LayerInput::Products(tensor(0, [steps, batch, 4 * hidden], &device));
    let recurrence = |weight| Recurrence {
        weight,
        h: tensor(4, [batch, hidden], &device),
        c: tensor(5, [batch, hidden], &device),
        half: true,
    };
    let weight = tensor(3, [hidden, 4 * hidden], &device);
    let rounded =
        CubeBackend::float_cast(in_type(weight.clone(), half), burn::tensor::FloatDType::F32);
    let difference = CubeBackend::float_sub(rounded.clone(), weight.clone());
    assert!(numbers(difference).iter().any(|number| number.abs() > 1e-5), "it is rounded");
    let grad = tensor(6, [steps, batch, hidden], &device);
    let plain = plain::layer::<CubeBackend>(input(), recurrence(rounded), true);
    let expected = plain.back.expect("asked for").go(grad.clone(), None);
    for held in [0, 10] {
        let division =
            Division { lanes: 2, of_unit: 2, parts: 2, in_registers: 0, held, most_steps: 9 };
        let (reading, recurrence) = (Reading::new(input()), recurrence(weight.clone()));
        let got = alone(sequence, division, half, reading, recurrence, true);
        assert_close("outputs", got.outputs, plain.outputs.clone());
        let got = got.back.expect("asked for").go(grad.clone(), None);
        for (index, (got, expected)) in got.into_iter().zip(&expected).enumerate() {
            assert_close(&format!("gradient {index}"), got, expected.clone());
        }
    }
}

/// In all layouts, in tiles of all sizes and in parts.
#[test]
fn products_are_the_plain_ones() {
    let Some(device) = device() else { return };
    for [rows, columns, depth] in [[1, 1, 1], [5, 70, 9], [8, 12, 300], [130, 140, 20]] {
        let [left, right] =
            [tensor(1, [rows, depth], &device), tensor(2, [depth, columns], &device)];
        let bias = tensor(3, [columns], &device);
        let expected = CubeBackend::float_matmul(left.clone(), right.clone());
        let with_bias = plain::linear::<CubeBackend>(left.clone(), right.clone(), bias.clone());
        let transposed = |matrix: &CubeTensor| CubeBackend::float_transpose(matrix.clone());
        let lefts = || [Factor::rows(left.clone()), Factor::columns(transposed(&left))];
        let rights = || [Factor::columns(right.clone()), Factor::rows(transposed(&right))];
        for index in 0..4 {
            let factors = || {
                let ([a, b], [c, d]) = (lefts(), rights());
                [if index % 2 == 0 { a } else { b }, if index / 2 == 0 { c } else { d }]
            };
            let name = format!("{rows} × {depth} × {columns}, {index}");
            // Small tiles, for small devices; those of most; and large ones.
            for limits in [card(64, 4), card(256, 9), card(256, 1)] {
                let product = |bias| {
                    let results = product_within(limits, Columns::Stay, factors(), bias);
                    let [parts, ..] = results.shape().dims::<3>();
                    let flat = Shape::new([parts, rows * columns]);
                    let sum = sum_rows(CubeBackend::float_reshape(results, flat));
                    CubeBackend::float_reshape(sum, Shape::new([rows, columns]))
                };
                assert_close(&name, product(None), expected.clone());
                assert_close(&name, product(Some(bias.clone())), with_bias.clone());
            }
        }
    }
    for rows in [1, 7, 300, 20_000] {
        let matrix = CubeBackend::float_abs(tensor(4, [rows, 3], &device));
        let expected = CubeBackend::float_sum_dim(matrix.clone(), 0);
        let expected = CubeBackend::float_reshape(expected, Shape::new([3]));
        assert_close("the sum of rows", sum_rows(matrix), expected);
    }
}

#[test]
fn products_keep_every_multiprocessor_busy() {
    let limits = Limits { cubes: 132, units: 1024, shared: 12_000, of_unit: 1, is_card: true };
    let shape = |limits, extent, most| {
        let (tiling, parts) = divide(limits, extent, most);
        (tiling.tile, parts)
    };
    assert_eq!(shape(limits, [25_600, 4096, 1024], 99), (128, 1), "of a whole sequence");
    assert_eq!(shape(limits, [256, 4096, 1024], 99), (128, 2), "of a step");
    assert_eq!(shape(limits, [6400, 76, 128], 1), (64, 1), "one that cannot be divided");
    assert_eq!(shape(limits, [128, 512, 6400], 99), (64, 17), "of a small weight's gradient");
    assert_eq!(shape(Limits { units: 64, ..limits }, [64, 64, 64], 99), (32, 1), "a small device");
}

/// What was fastest on an H100.
#[test]
fn a_gpu_goes_the_way_that_suits_the_layer() {
    let limits = Limits { cubes: 132, units: 1024, shared: 58_000, of_unit: 1, is_card: true };
    let way = |steps, batch, hidden, can_meet| match (Sequence { steps, batch, hidden })
        .way(limits, FLOAT_32, can_meet)
    {
        Way::Alone(_) => "alone",
        Way::Shared([forward, _]) if forward.meets => "meeting",
        Way::Shared(_) => "shared",
        Way::ByProducts => "products",
    };
    assert_eq!([way(100, 64, 128, true), way(100, 64, 128, false)], ["alone"; 2]);
    assert_eq!([way(100, 64, 512, true), way(100, 64, 512, false)], ["meeting", "shared"]);
    assert_eq!([way(100, 32, 256, true), way(100, 32, 256, false)], ["meeting", "alone"]);
    assert_eq!([way(100, 256, 1024, true), way(100, 256, 1024, false)], ["products"; 2]);
    assert_eq!([way(1, 32, 256, true), way(1, 32, 256, false)], ["alone"; 2]);
}

#[test]
fn losses_are_the_plain_ones() {
    let Some(device) = device() else { return };
    for vocabulary in [1, 76, 1500] {
        let (input, weight) = (tensor(0, [6, 4], &device), tensor(1, [4, vocabulary], &device));
        let bias = tensor(2, [vocabulary], &device);
        let targets: Vec<i32> = (0..6).map(|k| (k * 5 % vocabulary) as i32).collect();
        let targets = CubeBackend::int_from_data(TensorData::new(targets, [6]), &device);
        let arguments = || (input.clone(), weight.clone(), bias.clone(), targets.clone());
        let (i, w, b, t) = arguments();
        let (loss, gradients) = CubeBackend::linear_cross_entropy(i, w, b, t, true);
        let (i, w, b, t) = arguments();
        let (expected_loss, expected) =
            plain::linear_cross_entropy::<CubeBackend>(i, w, b, t, true);
        assert_close("loss", loss, expected_loss);
        for (got, expected) in gradients.into_iter().flatten().zip(expected.into_iter().flatten()) {
            assert_close("gradient", got, expected);
        }
    }
}

/// What is no number comes out as none, and is not clamped into one.
#[test]
fn what_is_no_number_is_told() {
    let Some(device) = device() else { return };
    let products = || {
        let numbers = vec![f32::NAN; 4 * 3];
        CubeBackend::float_from_data(TensorData::new(numbers, [1, 1, 12]), &device)
    };
    let recurrence = Recurrence {
        weight: tensor(3, [3, 12], &device),
        h: tensor(4, [1, 3], &device),
        c: tensor(5, [1, 3], &device),
        half: false,
    };
    let layer = CubeBackend::layer(LayerInput::Products(products()), recurrence, false);
    assert!(numbers(layer.outputs).iter().all(|number| number.is_nan()));
}

#[test]
fn a_division_fits_the_device() {
    let divide = |hidden, batch, units, shared, weight| {
        let limits = Limits { units, shared, cubes: 64, of_unit: 1, is_card: true };
        Sequence { steps: 9, batch, hidden }.division(limits, weight)
    };
    let division = |hidden, batch, units, shared| divide(hidden, batch, units, shared, FLOAT_32);
    let (lanes, of_unit) = (|d: Division| d.lanes, |d: Division| d.of_unit);
    assert_eq!(division(128, 1, 1024, 8192).map(lanes), Some(1));
    assert_eq!(division(128, 256, 1024, 1 << 14).map(lanes), Some(4));
    assert_eq!(division(128, 256, 1024, 8192).map(lanes), Some(3), "what memory allows");
    assert_eq!(division(256, 1, 128, 4096).map(of_unit), Some(2));
    assert_eq!(division(256, 1, 32, 4096).map(lanes), None, "too many for a unit");
    assert_eq!(division(256, 1, 256, 2000).map(lanes), None, "too many for a group's memory");
    assert_eq!(division(257, 1, 1024, 8192).map(lanes), None, "a large weight");
    // A step is a round of its loop; its 112 rows, eight at a time, are fourteen, and four loops end.
    assert_eq!(division(255, 1, 1024, 4096).map(|d| d.most_steps), Some(60_000 / 19));
    let near = |d: Division| (d.parts, d.in_registers, d.held);
    assert_eq!(division(64, 1, 1024, 1 << 15).map(near), Some((8, 8, 0)), "all in registers");
    assert_eq!(
        division(128, 1, 1024, 1 << 15).map(near),
        Some((4, 16, 14)),
        "what there is room for"
    );
    assert_eq!(
        division(128, 999, 1024, 1 << 14).map(near),
        Some((4, 16, 3)),
        "four lanes of a cube"
    );
    for shared in (1000..16_000).step_by(333) {
        for (hidden, batch) in [(7, 1), (64, 9), (128, 70), (200, 300), (256, 999)] {
            let Some(division) = division(hidden, batch, 1024, shared) else {
                continue;
            };
            let Division { lanes, parts, held, .. } = division;
            let padded = hidden.div_ceil(parts) * parts;
            let of_lane = 2 * padded + (parts - 1) * hidden;
            let numbers = 4 * (lanes * of_lane + parts * held * hidden);
            assert!(numbers <= shared, "H {hidden}, B {batch}: {numbers} of {shared}");
        }
    }
    let half = |hidden| divide(hidden, 1, 1024, 1 << 14, ElemType::Float(FloatKind::F16));
    assert_eq!(half(128).map(near), Some((4, 16, 13)), "twice as many rows");
    assert!(half(360).is_some() && half(370).is_none(), "layers that are twice as large");
}

/// However lanes and units are divided.
#[test]
fn every_division_of_the_work_writes_the_same() {
    let Some(device) = device() else { return };
    let numbers = |n: usize, count: usize| -> Vec<f32> {
        (0..count).map(|k| 0.5 * ((k * (n + 2)) as f32 * 0.37 + n as f32).cos()).collect()
    };
    let (hidden, vocabulary, lanes) = (20, 11, 6);
    let layer = |start, input: Option<Vec<f32>>, n| LayerWeights {
        hidden,
        start,
        input,
        recurrent: numbers(n, 4 * hidden * hidden),
    };
    let weights = NetworkWeights {
        layers: vec![
            layer(numbers(1, vocabulary * 4 * hidden), None, 2),
            layer(numbers(3, 4 * hidden), Some(numbers(4, 4 * hidden * hidden)), 5),
        ],
        head: HeadWeights { weight: numbers(6, hidden * vocabulary), bias: numbers(7, vocabulary) },
        between: Between::Nothing,
    };
    let limits =
        |units, shared, cubes, of_unit| Limits { units, shared, cubes, of_unit, is_card: true };
    let write = |limits| {
        let mut writing = Writing::within(limits, &device, &weights, lanes, 1.5)?;
        let given: Vec<u32> = (0..2 * lanes as u32).map(|k| k % vocabulary as u32).collect();
        let uniforms: Vec<f32> = (0..70 * lanes).map(|k| (k as f32 * 0.618).fract()).collect();
        Some(writing.write(&given, &uniforms))
    };
    let alone = write(limits(256, 8192, 64, 1)).expect("a lane for each cube");
    assert_eq!(write(limits(256, 8192, 1, 1)), Some(alone.clone()), "four lanes of a cube");
    assert_eq!(write(limits(256, 8192, 2, 3)), Some(alone.clone()), "two, and units of three");
    assert_eq!(write(limits(4, 8192, 1, 1)), Some(alone.clone()), "units of five");
    assert_eq!(write(limits(256, 60, 1, 1)), Some(alone), "little shared memory");
    assert_eq!(write(limits(2, 8192, 1, 1)), None, "more hidden units than a unit holds");
    assert_eq!(write(limits(256, 50, 1, 1)), None, "too little shared memory");
}
