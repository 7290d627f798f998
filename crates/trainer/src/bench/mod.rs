//! How fast the training step and the writing are, measured against Burn's own LSTM.
//!
//! The shapes and the protocol are those of `tests/reference/bench_pytorch.py`.

mod generation;
mod rate;
mod training;

use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use clap::ValueEnum;
use poquelin_model::devices;
use serde::{Deserialize, Serialize};

pub use rate::gemm_rate;

/// V of all rows.
pub const VOCABULARY: usize = 76;

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Implementation {
    /// The operations of the model crate.
    Fused,
    /// Plain tensor operations: the specification.
    Reference,
    /// Burn's `nn::Lstm`.
    BurnNn,
}

impl Implementation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fused, Self::Reference, Self::BurnNn];

    /// The name in tables and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fused => "fused",
            Self::Reference => "reference",
            Self::BurnNn => "burn-nn",
        }
    }
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// Forward, loss, backward and AdamW over a chunk of each lane.
    Training,
    /// One character after the other, drawn from the model's probabilities.
    Generation,
}

/// One line of the table: a model's shape and what it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The name, which scripts rely on.
    pub name: &'static str,
    /// What is timed.
    pub work: Work,
    /// B.
    pub batch: usize,
    /// T.
    pub steps: usize,
    /// H, and E.
    pub hidden: usize,
    /// L.
    pub layers: usize,
    /// The probability of dropping an element between two layers.
    pub dropout: f64,
}

/// All rows.
pub const ROWS: [Row; 10] = [
    training_row("step-b8-t50-h64", [8, 50], 64, 1, 0.0),
    training_row("step-b1-h128", [1, 100], 128, 1, 0.0),
    training_row("step-b32-h128", [32, 100], 128, 1, 0.0),
    training_row("step-b64-h128", [64, 100], 128, 1, 0.0),
    training_row("step-b64-h512", [64, 100], 512, 1, 0.0),
    training_row("step-b32-h256-l2", [32, 100], 256, 2, 0.2),
    training_row("step-b256-h1024-l2", [256, 100], 1024, 2, 0.0),
    generation_row("generate-1-h128", 1, 128),
    generation_row("generate-1-h512", 1, 512),
    generation_row("generate-64-h512", 64, 512),
];

const fn training_row(
    name: &'static str,
    [batch, steps]: [usize; 2],
    hidden: usize,
    layers: usize,
    dropout: f64,
) -> Row {
    Row { name, work: Work::Training, batch, steps, hidden, layers, dropout }
}

const fn generation_row(name: &'static str, batch: usize, hidden: usize) -> Row {
    Row { name, work: Work::Generation, batch, steps: 1, hidden, layers: 1, dropout: 0.0 }
}

impl Row {
    /// The characters of one step.
    pub const fn characters(&self) -> usize {
        self.batch * self.steps
    }

    /// The floating-point operations that the matrix products of one step cannot do without:
    /// the first layer's input products once per distinct token in training, and not at all in
    /// generation, where they are formed beforehand.
    pub fn operations(&self) -> f64 {
        let Self { hidden, layers, .. } = *self;
        let rows = self.characters();
        let recurrent = rows * layers * 4 * hidden * hidden;
        let between = rows * (layers - 1) * 4 * hidden * hidden;
        let head = rows * hidden * VOCABULARY;
        let multiplications = match self.work {
            Work::Generation => recurrent + between + head,
            Work::Training => {
                let distinct = VOCABULARY.min(rows);
                // Backward takes two products for each one forward.
                3 * (recurrent + between + head + distinct * 4 * hidden * hidden)
            }
        };
        2.0 * multiplications as f64
    }

    /// Whether it is left to a GPU unless asked for by name: a CPU would have minutes to do.
    pub fn is_for_gpu(&self) -> bool {
        self.operations() > 1e12
    }

    /// Times the row: the median of several rounds.
    pub fn measure(&self, implementation: Implementation, device: &Device) -> Duration {
        match self.work {
            Work::Training => training::measure(self, implementation, device),
            Work::Generation => generation::measure(self, implementation, device),
        }
    }

    /// A token for every place of a chunk; the same as PyTorch is given.
    fn tokens(&self) -> Vec<i32> {
        (0..self.characters()).map(|k| (k * 7919 % VOCABULARY) as i32).collect()
    }
}

/// A result, as `--json` prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The row's name.
    pub row: String,
    /// Who computed.
    pub implementation: String,
    /// On what.
    pub backend: String,
    /// Characters per second.
    pub chars_per_second: f64,
    /// How long one step took.
    pub milliseconds: f64,
    /// The rate of its matrix products as a share of the rate of a large one; `None` where
    /// nobody measured that.
    pub gemm_fraction: Option<f64>,
}

/// Reads a number back, and so waits for a device that works by itself: its data alone may be a
/// promise.
fn read(number: Tensor<1>) -> f32 {
    black_box(number.into_scalar::<f32>())
}

/// Whether it is a GPU, and no program that plays one.
pub fn is_card(device: &Device) -> bool {
    devices::hardware(device).is_some_and(|hardware| hardware.is_card)
}

fn wait_for(device: &Device) {
    device.sync().expect("the device is there to the end");
}

/// The median time of a call of `step`, over several rounds of as many calls as fill a while; a
/// round ends when the device has done all of it.
fn median_time(device: &Device, mut step: impl FnMut()) -> Duration {
    const ROUNDS: usize = 5;
    const WARM_UP: Duration = Duration::from_millis(100);
    const ROUND: Duration = Duration::from_millis(400);
    // Of a GPU more calls than fill the while, since the host's launches vary.
    let fewest = if is_card(device) { 10 } else { 1 };
    // The first call compiles kernels, and chooses among them.
    step();
    wait_for(device);
    let began = Instant::now();
    let mut calls = 0_u32;
    while calls == 0 || began.elapsed() < WARM_UP {
        step();
        calls += 1;
    }
    wait_for(device);
    let each = began.elapsed() / calls;
    let calls = (ROUND.as_secs_f64() / each.as_secs_f64()).ceil() as u32;
    let calls = calls.max(fewest);
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            (0..calls).for_each(|_| step());
            wait_for(device);
            began.elapsed() / calls
        })
        .collect();
    rounds.sort();
    rounds[ROUNDS / 2]
}
