//! An LSTM for [Burn](https://burn.dev), and the character language model built on it.
//!
//! The crate does no input or output: it knows no file, no command line, no corpus, no clock and
//! no global random generator. Import it for [`Lstm`] alone and pay for nothing else.
//!
//! # What is in it
//!
//! | for | take |
//! |---|---|
//! | layers in your own model | [`LstmConfig`], [`Lstm`]; [`LstmState`] is what one chunk hands to the next |
//! | one layer, time first, or one step | [`LstmCell`]; [`LstmCell::from_pytorch`] takes PyTorch's weights |
//! | a language model over tokens | [`CharLstmConfig`], [`CharLstm`] |
//! | writing with it, one token after the other | [`Decoder`] on the CPU, [`Writer`] for many texts at once |
//! | a linear head, norms, averages, AdamW, each in one pass | [`linear`], [`sum_of_squares`], [`lerp`], [`AdamWStep`] |
//! | code that is generic over its backend | [`LstmOps`] |
//!
//! # Features
//!
//! `ndarray` (the default), `flex`, `wgpu`, `vulkan`, `metal` and `cuda` choose backends, as Burn's of the same names do.
//! `fusion` and `autotune` must be enabled here too where anything else of the build enables Burn's, as Burn's default
//! features do: without it such a build with a GPU does not compile.
//!
//! Kernels are for float32. Numbers of another type, and devices of another backend, take plain tensor operations
//! ([`Implementation::Reference`]), which can also be asked for.
//!
//! In a debug build the kernels have no vectors unless this crate is optimised:
//!
//! ```toml
//! [profile.dev.package.poquelin-model]
//! opt-level = 3
//! ```
//!
//! # Threads
//!
//! On the CPU a call is shared by as many threads as rayon has where it is made: `RAYON_NUM_THREADS`, or a pool of
//! your own and `ThreadPool::install`. They are not rayon's own but helpers named `lstm-1`, `lstm-2`, ..., made when they are
//! first needed, for as long as the process lives; behind a call they watch for the next for a millisecond, and sleep
//! then. There is one crew: of several callers at a time one has it, and the others compute by themselves. How
//! work is shared follows from its size and the number of threads alone, so the same bits come out in every run.
//!
//! # Symbols
//!
//! | symbol | meaning |
//! |---|---|
//! | B | batch: sequences processed side by side, also called lanes |
//! | T | time steps of a sequence |
//! | D | input width of a layer |
//! | E | embedding width |
//! | H | hidden width |
//! | L | stacked layers |
//! | V | vocabulary: number of distinct tokens |
//!
//! Tensors are batch first, `[B, T, D]`. The four gates of a cell stand side by side in one
//! matrix of width 4H, **in the order i, f, g, o** (input, forget, candidate, output), which is
//! the order of PyTorch and cuDNN.
//!
//! # Example
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use poquelin_model::{LstmConfig, Seed};
//!
//! # #[cfg(feature = "ndarray")] {
//! let device = poquelin_model::devices::ndarray();
//! let lstm = LstmConfig::new(3, 8).with_layers(2).init(Seed::new(1), &device);
//!
//! let (output, state) = lstm.forward(Tensor::zeros([4, 10, 3], &device), None);
//! assert_eq!(output.dims(), [4, 10, 8]);
//!
//! // The next ten steps go on from where these ended.
//! let (_output, _state) = lstm.forward(Tensor::zeros([4, 10, 3], &device), Some(state));
//! # }
//! ```

mod adamw;
#[cfg(any(feature = "ndarray", feature = "flex", feature = "wgpu", feature = "cuda"))]
mod backends;
mod cell;
mod char_lstm;
mod decoder;
pub mod devices;
mod dropout;
mod initializer;
#[cfg_attr(
    not(any(feature = "ndarray", feature = "flex")),
    expect(
        dead_code,
        unused_imports,
        reason = "without a CPU backend only the decoder computes here"
    )
)]
mod kernels;
mod layer_norm;
mod lstm;
mod ops;
mod parameters;
mod random;
mod sequence;
mod state;
mod writer;

pub use adamw::AdamWStep;
pub use cell::{CellState, LstmCell};
pub use char_lstm::{CharLstm, CharLstmConfig, Initialization, TrainingLoss};
pub use decoder::Decoder;
pub use initializer::Initializer;
pub use layer_norm::LayerNorm;
pub use lstm::{Implementation, Lstm, LstmConfig};
pub use ops::{LstmOps, adapt, lerp, linear, sum_of_squares};
pub use parameters::identify_parameters;
pub use random::Seed;
pub use sequence::SequenceInput;
pub use state::LstmState;
pub use writer::{Writer, choose};
