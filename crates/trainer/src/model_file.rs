//! A model, and what is needed to go on with it, as one safetensors file.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use poquelin_data::Vocabulary;
use poquelin_model::{CharLstm, CharLstmConfig, LstmState, Seed};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::weights::{self, Tensors};

const FORMAT: &str = "poquelin-1";
const NOTE: &str = "poquelin";
const WEIGHTS: &str = "model.";

/// What stands in the file beside tensors, as JSON.
#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    config: CharLstmConfig,
    vocabulary: Vocabulary,
    progress: Progress,
}

/// Where a run stood when the file was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Training steps done.
    pub step: u64,
    /// Whole epochs done.
    pub epoch: usize,
    /// Chunks done of the epoch after those.
    pub chunk: usize,
}

/// What training needs beside the weights.
pub struct TrainingState {
    /// Burn's optimizer record, as burnpack.
    pub optimizer: Vec<u8>,
    /// The recurrent state of every lane.
    pub recurrent: Option<LstmState>,
}

/// A model that was read back.
pub struct StoredModel {
    /// The model.
    pub model: CharLstm,
    /// Its vocabulary.
    pub vocabulary: Vocabulary,
    /// Where its run stood.
    pub progress: Progress,
}

/// The bytes of a model file, with the state of training for a checkpoint.
pub fn to_bytes(
    model: &CharLstm,
    config: &CharLstmConfig,
    vocabulary: &Vocabulary,
    progress: Progress,
    training: Option<TrainingState>,
) -> Vec<u8> {
    let mut tensors: Tensors = weights::parameters(model)
        .into_iter()
        .map(|(path, data)| (format!("{WEIGHTS}{path}"), data))
        .collect();
    if let Some(training) = training {
        let length = training.optimizer.len();
        tensors.insert("optimizer".into(), TensorData::new(training.optimizer, [length]));
        if let Some(state) = training.recurrent {
            tensors.insert("state.h".into(), state.h().into_data());
            tensors.insert("state.c".into(), state.c().into_data());
        }
    }
    let header = Header {
        format: FORMAT.to_owned(),
        config: *config,
        vocabulary: vocabulary.clone(),
        progress,
    };
    let header = serde_json::to_string(&header).expect("our records have nothing JSON cannot hold");
    // One note only: several would be written in an order that changes from run to run.
    let notes = HashMap::from([(NOTE.to_owned(), header)]);
    weights::to_safetensors(&tensors, notes)
}

/// The model in the bytes of the file at `path`.
///
/// # Errors
///
/// Where the bytes are no model file, or its parts do not fit together.
pub fn from_bytes(path: &Path, bytes: &[u8], device: &Device) -> Result<StoredModel, Error> {
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    let misfit = |source| Error::Weights { path: path.to_owned(), source };
    let (tensors, notes) = weights::from_safetensors(bytes).map_err(misfit)?;
    let note = notes.get(NOTE).ok_or_else(|| damaged("it is not of this program".to_owned()))?;
    let Header { format, config, vocabulary, progress } =
        serde_json::from_str(note).map_err(|error| damaged(format!("its header: {error}")))?;
    if format != FORMAT {
        return Err(damaged(format!("its format is {format:?}, not {FORMAT:?}")));
    }
    check(&config, &vocabulary, bytes.len()).map_err(damaged)?;

    let parameters = tensors
        .into_iter()
        .filter_map(|(name, data)| Some((name.strip_prefix(WEIGHTS)?.to_owned(), data)))
        .collect();
    let model = weights::load(config.init(Seed::new(0), device), parameters).map_err(misfit)?;
    Ok(StoredModel { model, vocabulary, progress })
}

/// Refuses a configuration that no file of this length can belong to, before a model of its size
/// is made.
fn check(config: &CharLstmConfig, vocabulary: &Vocabulary, length: usize) -> Result<(), String> {
    if config.vocabulary != vocabulary.len() {
        let (model, symbols) = (config.vocabulary, vocabulary.len());
        return Err(format!("its model knows {model} symbols, its vocabulary {symbols}"));
    }
    let h = config.d_hidden as u128;
    let e = config.d_embedding.map_or(h, |width| width as u128);
    let v = config.vocabulary as u128;
    let lowest = h.saturating_mul(4).saturating_mul(e + h);
    let other = h.saturating_mul(8).saturating_mul(h);
    let above = other.saturating_mul((config.layers as u128).saturating_sub(1));
    let least = lowest.saturating_add(above).saturating_add(v * e).saturating_mul(4);
    let sound = h > 0
        && e > 0
        && config.layers > 0
        && (0.0..1.0).contains(&config.dropout)
        && (!config.tied || e == h)
        && least <= length as u128;
    if sound { Ok(()) } else { Err("its configuration fits no model of its size".to_owned()) }
}
