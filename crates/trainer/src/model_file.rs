//! A model, and what is needed to go on with it, as one safetensors file.
//!
//! Any safetensors reader opens it. Numbers are little endian, whatever the machine. The tensors are
//! `model.` and the path of each parameter, as float32; a checkpoint has `moment_1.` and `moment_2.`
//! of each beside, `average.` of each where weights are averaged, and the recurrent state, `state.h`
//! and `state.c`, `[L, B, H]`. The file's one
//! note, `poquelin`, is JSON: format, versions, configuration, vocabulary, corpus, figures, and for a
//! checkpoint the sums of the run. The last tensor, `sha256`, is the checksum of all bytes before it;
//! nothing else of a file is looked at before that.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use poquelin_data::Vocabulary;
use poquelin_model::{
    CharLstm, CharLstmConfig, Initialization, LstmState, Seed, identify_parameters,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::error::Error;
use crate::learning::optimizer_state::OptimizerState;
use crate::ledger::{Ledger, Mean, Progress};
use crate::text::Fingerprint;
use crate::weights::{self, Tensors};

const FORMAT: &str = "poquelin-3";
const NOTE: &str = "poquelin";
/// The version of Burn that the workspace pins.
const BURN: &str = "0.22.1";
const WEIGHTS: &str = "model.";
const AVERAGE: &str = "average.";
const MOMENTS: [&str; 2] = ["moment_1.", "moment_2."];
const STATE: [&str; 2] = ["state.h", "state.c"];
/// The only tensor of bytes: those come behind all others.
const CHECKSUM: &str = "sha256";
const CHECKSUM_LENGTH: usize = 32;

/// What stands in the file beside tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: String,
    /// The version of this program, and of Burn.
    poquelin: String,
    burn: String,
    /// The configuration of the run, but for the folder of its text.
    pub config: Config,
    /// The vocabulary of the model.
    pub vocabulary: Vocabulary,
    /// The text of the run.
    pub corpus: Fingerprint,
    /// Where the run stood.
    pub progress: Progress,
    /// How well the model does.
    pub scores: Scores,
    /// In a checkpoint: what else the run needs to go on.
    pub training: Option<Training>,
}

/// The scores that are known of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// The mean loss over the last epoch, while it was trained on.
    pub train: Option<Mean>,
    /// On the validation part.
    pub valid: Option<Mean>,
    /// On the test part.
    pub test: Option<Mean>,
}

/// What a run needs to go on, beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// What computed: with it, and nothing else, the same bits come out.
    pub machine: Machine,
    /// The optimizer steps that each parameter has taken.
    pub times: BTreeMap<String, u64>,
    /// The sums of the run.
    pub ledger: Ledger,
}

/// What a run computes with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The device, as `--device` has it.
    pub device: String,
    /// A GPU's name, or what a CPU computes with; empty where that was not written down yet.
    #[serde(default)]
    pub processor: String,
    /// CPU threads.
    pub threads: usize,
}

impl Header {
    /// The header of a run's files as of `progress`.
    pub fn new(
        config: &Config,
        vocabulary: &Vocabulary,
        corpus: &Fingerprint,
        progress: Progress,
    ) -> Self {
        let mut config = config.clone();
        // A file that moves tells nobody where its text lay.
        let name = Path::new(&config.data.text).file_name().unwrap_or_default();
        config.data.text = name.to_string_lossy().into_owned();
        Self {
            format: FORMAT.to_owned(),
            poquelin: env!("CARGO_PKG_VERSION").to_owned(),
            burn: BURN.to_owned(),
            config,
            vocabulary: vocabulary.clone(),
            corpus: corpus.clone(),
            progress,
            scores: Scores::default(),
            training: None,
        }
    }

    /// The configuration of the model.
    pub fn model(&self) -> CharLstmConfig {
        self.config.model(self.vocabulary.len())
    }
}

/// What is kept of a run: a header, the weights, and for a checkpoint what training has in tensors.
pub struct Contents {
    /// All that is no tensor.
    pub header: Header,
    tensors: Tensors,
}

impl Contents {
    /// A model.
    pub fn model(header: Header, model: &CharLstm) -> Self {
        Self { header, tensors: named(WEIGHTS, model).collect() }
    }

    /// A model, and what training needs to go on with it. `optimizer` is empty before the first step
    /// only.
    pub fn checkpoint(
        mut header: Header,
        model: &CharLstm,
        (machine, ledger): (Machine, Ledger),
        optimizer: OptimizerState,
        recurrent: Option<LstmState>,
        average: Option<&CharLstm>,
    ) -> Self {
        let OptimizerState { moments, times } = optimizer;
        header.training = Some(Training { machine, times, ledger });
        let mut contents = Self::model(header, model);
        contents.tensors.extend(moments);
        contents.tensors.extend(average.into_iter().flat_map(|network| named(AVERAGE, network)));
        if let Some(state) = recurrent {
            let [h, c] = STATE.map(str::to_owned);
            contents.tensors.insert(h, state.h().into_data());
            contents.tensors.insert(c, state.c().into_data());
        }
        contents
    }

    /// Writes the file, its checksum at the end.
    ///
    /// # Errors
    ///
    /// Where `output` refuses.
    pub fn write_to(&self, output: &mut impl Write) -> io::Result<()> {
        let header =
            serde_json::to_string(&self.header).expect("our records have nothing JSON cannot hold");
        // One note only: several would be written in an order that changes from run to run.
        let notes = HashMap::from([(NOTE.to_owned(), header)]);
        let mut summing = Summing { output, hash: Sha256::new() };
        let last = (CHECKSUM, CHECKSUM_LENGTH);
        weights::write_safetensors(&mut summing, &self.tensors, notes, last)?;
        let Summing { output, hash } = summing;
        output.write_all(&hash.finalize())
    }

    /// Reads the file at `path` from its bytes.
    ///
    /// # Errors
    ///
    /// Where the checksum is not that of the bytes, or they are no model file of this format.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
        if !is_sealed(bytes) {
            return Err(damaged(
                "its checksum is not that of its content; it was cut short or changed, or is not \
                 of this program"
                    .to_owned(),
            ));
        }
        let misfit = |source| Error::Weights { path: path.to_owned(), source };
        let (mut tensors, notes) = weights::from_safetensors(bytes).map_err(misfit)?;
        tensors.remove(CHECKSUM);
        let note =
            notes.get(NOTE).ok_or_else(|| damaged("it is not of this program".to_owned()))?;
        let (format, poquelin) = read_format(note).map_err(damaged)?;
        if format != FORMAT {
            return Err(Error::OtherFormat {
                path: path.to_owned(),
                format,
                poquelin,
                ours: FORMAT,
            });
        }
        let header = serde_json::from_str(note).map_err(|error| damaged(unreadable(&error)))?;
        check(&header, bytes.len()).map_err(damaged)?;
        Ok(Self { header, tensors })
    }

    /// The network, taken out.
    ///
    /// # Errors
    ///
    /// Where its weights are not those of its configuration.
    pub fn network(&mut self, path: &Path, device: &Device) -> Result<CharLstm, Error> {
        self.load(WEIGHTS, path, device)
    }

    /// The average of the network's weights, taken out; `None` where there is none.
    ///
    /// # Errors
    ///
    /// Where it is not one of the configuration's network.
    pub fn average(&mut self, path: &Path, device: &Device) -> Result<Option<CharLstm>, Error> {
        let any = self.tensors.keys().any(|name| name.starts_with(AVERAGE));
        any.then(|| self.load(AVERAGE, path, device)).transpose()
    }

    fn load(&mut self, prefix: &str, path: &Path, device: &Device) -> Result<CharLstm, Error> {
        let misfit = |source| Error::Weights { path: path.to_owned(), source };
        let weights = take(&mut self.tensors, &[prefix])
            .into_iter()
            .filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_owned(), data)))
            .collect();
        // Drawn to be replaced, and this is drawn in no time.
        let config = self.header.model().with_initialization(Initialization::Pytorch);
        let network = identify_parameters(config.init(Seed::new(0), device));
        weights::load(network, weights).map_err(misfit)
    }

    /// Puts the average of the network's weights in their place, if there is one: it is what would be kept.
    pub fn prefer_average(&mut self) {
        for (name, data) in take(&mut self.tensors, &[AVERAGE]) {
            let path = name.trim_start_matches(AVERAGE);
            self.tensors.insert(format!("{WEIGHTS}{path}"), data);
        }
    }

    /// The optimizer's state, taken out.
    pub fn optimizer(&mut self) -> OptimizerState {
        let times = self.header.training.as_mut().map(|training| &mut training.times);
        OptimizerState {
            moments: take(&mut self.tensors, &MOMENTS),
            times: times.map(std::mem::take).unwrap_or_default(),
        }
    }

    /// The recurrent state of every lane, taken out; `None` where it is all zeros.
    ///
    /// # Errors
    ///
    /// Where it is not that of the configuration.
    pub fn recurrent(&mut self, path: &Path, device: &Device) -> Result<Option<LstmState>, Error> {
        let misfit = |source| Error::Weights { path: path.to_owned(), source };
        let Config { model, data, .. } = &self.header.config;
        let shape = [model.layers, data.batch, model.hidden];
        let mut part = |name: &str| {
            let Some(data) = self.tensors.remove(name) else {
                return Ok(None);
            };
            weights::fits(name, &shape, &data).map_err(misfit)?;
            Ok(Some(Tensor::from_data(data, device)))
        };
        let missing = |name: &str| misfit(weights::WeightsError::Missing(name.to_owned()));
        match STATE.map(&mut part) {
            [Ok(None), Ok(None)] => Ok(None),
            [Ok(Some(h)), Ok(Some(c))] => Ok(Some(LstmState::from_tensors(h, c))),
            [Err(error), _] | [_, Err(error)] => Err(error),
            [Ok(None), _] => Err(missing(STATE[0])),
            [_, Ok(None)] => Err(missing(STATE[1])),
        }
    }
}

/// The weights of a network, by their paths behind a prefix.
fn named(prefix: &str, network: &CharLstm) -> impl Iterator<Item = (String, TensorData)> {
    let weights = weights::parameters(network).into_iter();
    weights.map(move |(path, data)| (format!("{prefix}{path}"), data))
}

/// The tensors whose names begin with one of `prefixes`.
fn take(tensors: &mut Tensors, prefixes: &[&str]) -> Tensors {
    let all = std::mem::take(tensors);
    let (taken, rest) = all
        .into_iter()
        .partition(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    *tensors = rest;
    taken
}

/// Passes on what is written, and sums it up.
struct Summing<W> {
    output: W,
    hash: Sha256,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Puts the checksum of all bytes before the last 32 there.
pub fn seal(bytes: &mut [u8]) {
    let (content, checksum) = bytes.split_at_mut(bytes.len() - CHECKSUM_LENGTH);
    checksum.copy_from_slice(&Sha256::digest(content));
}

fn is_sealed(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<CHECKSUM_LENGTH>()
        .is_some_and(|(content, checksum)| Sha256::digest(content).as_slice() == checksum)
}

/// The format of a file, and the version that wrote it.
fn read_format(note: &str) -> Result<(String, String), String> {
    #[derive(Deserialize)]
    struct Format {
        format: String,
        poquelin: String,
    }
    let Format { format, poquelin } =
        serde_json::from_str(note).map_err(|error| unreadable(&error))?;
    Ok((format, poquelin))
}

fn unreadable(error: &serde_json::Error) -> String {
    format!("its header: {error}")
}

/// Refuses a header that no file of this length can belong to, before a model of its size is made.
fn check(header: &Header, length: usize) -> Result<(), String> {
    header.config.check().map_err(|error| format!("its configuration: {error}"))?;
    if header.progress.epoch > header.config.train.epochs {
        return Err("it has more epochs than its run".to_owned());
    }
    let config = header.model();
    let h = config.d_hidden as u128;
    let e = config.d_embedding.map_or(h, |width| width as u128);
    let v = config.vocabulary as u128;
    let lowest = h.saturating_mul(4).saturating_mul(e + h);
    let other = h.saturating_mul(8).saturating_mul(h);
    let above = other.saturating_mul((config.layers as u128).saturating_sub(1));
    let least = lowest.saturating_add(above).saturating_add(v * e).saturating_mul(4);
    let fits = least <= length as u128;
    if fits { Ok(()) } else { Err("its configuration fits no model of its size".to_owned()) }
}
