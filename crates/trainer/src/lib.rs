//! The Poquelin trainer: what the `poquelin` program does, as a library.
//!
//! [`commands`] holds a module per subcommand; [`learning`] the training loop on burn-train's
//! `Learner`; [`run_folder`] the layout of a run on disk, which no other module knows.

pub mod bench;
pub mod cli;
pub mod commands;
pub mod config;
pub mod device;
pub mod dynamic;
pub mod error;
pub mod evaluation;
pub mod learning;
pub mod ledger;
pub mod model_file;
pub mod plotting;
pub mod progress;
pub mod run_folder;
pub mod sampling;
pub mod scores;
pub mod signals;
pub mod sweep;
pub mod text;
pub mod threads;
pub mod weights;
