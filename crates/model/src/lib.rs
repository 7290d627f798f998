//! An LSTM for [Burn](https://burn.dev), and the character language model built on it.
//!
//! The crate does no input or output: it knows no file, no command line, no corpus, no clock and
//! no global random generator. Import it for [`Lstm`] alone and pay for nothing else.
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
