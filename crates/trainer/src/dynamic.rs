//! Dynamic evaluation: a model that goes on learning from the text that it is scored on, as a
//! compressor does. Every character is scored before it is learnt from.
//!
//! Krause et al. 2018, <https://arxiv.org/abs/1709.07432>. After every few characters each weight θ
//! moves against its gradient g, by the root of the gradient's mean square m on the training text, and
//! back towards the trained weight θ₀:
//!
//! ```text
//! θ ← θ − rate · g / (√m + ε) + min(decay · √m / mean √m, 1) · (θ₀ − θ)
//! ```

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use poquelin_data::{ChunkLoader, Corpus, LayoutError, TokenBatch};
use poquelin_model::{CharLstm, adapt};

use crate::config::DynamicConfig;
use crate::error::Error;
use crate::scores::{Score, Tally};

/// The gradient's mean square is taken over the last pieces of the training text, at most so many.
const PIECES: usize = 2_000;
/// ε, of the size that the root of the mean square has for weights that hardly matter.
const EPSILON: f64 = 1e-5;

/// A text that is read piece by piece, in one lane.
pub struct Pieces(ChunkLoader);

impl Pieces {
    /// The pieces of `range`, called `split` in messages.
    ///
    /// # Errors
    ///
    /// Where there are fewer than two characters.
    pub fn new(
        split: &'static str,
        corpus: Arc<Corpus>,
        range: Range<usize>,
        config: DynamicConfig,
        device: &Device,
    ) -> Result<Self, Error> {
        let short = |source: LayoutError| Error::Layout { split, source };
        ChunkLoader::evaluation(corpus, range, config.characters, device).map(Self).map_err(short)
    }

    /// The last pieces of the training text, for [`evaluate`].
    ///
    /// # Errors
    ///
    /// Where there are fewer than two characters.
    pub fn of_training(
        corpus: Arc<Corpus>,
        range: Range<usize>,
        config: DynamicConfig,
        device: &Device,
    ) -> Result<Self, Error> {
        let longest = PIECES.saturating_mul(config.characters).saturating_add(1);
        let start = range.end.saturating_sub(longest).max(range.start);
        Self::new("train", corpus, start..range.end, config, device)
    }

    /// Calls `each` with the loss of every piece, `[1]`, and how many characters it has; reading goes
    /// on with the network that it gives back, in the state that the piece before left.
    fn read(
        &self,
        mut network: CharLstm,
        mut each: impl FnMut(CharLstm, Tensor<1>, u64) -> CharLstm,
    ) -> Result<(), Error> {
        self.0.seek(0, 0);
        let mut state = None;
        for batch in self.0.iter() {
            let batch = batch.map_err(|error| Error::Training(error.to_string()))?;
            let chars = batch.characters() as u64;
            let TokenBatch { inputs, targets, .. } = batch;
            let (loss, next) = network.loss(inputs, targets, state.take(), None);
            state = Some(next.detach());
            network = each(network, loss, chars);
        }
        Ok(())
    }
}

/// Scores `text` with a network on a device with gradients, which learns from it as it reads;
/// `gathered` is from what it was trained on.
///
/// # Errors
///
/// Where the data cannot be served.
pub fn evaluate(
    network: &CharLstm,
    gathered: &Gathered,
    text: &Pieces,
    config: DynamicConfig,
) -> Result<Score, Error> {
    let weights = gathered.weights(network, config);
    let mut tally = Tally::default();
    text.read(network.clone(), |network, loss, chars| {
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        tally.add(f64::from(loss.into_scalar::<f32>()), chars);
        network.map(&mut Step { weights: &weights, gradients })
    })?;
    Ok(tally.score())
}

/// The squares of the gradients on the training text, added up. Tensors of all ranks are kept flat.
#[derive(Default)]
pub struct Gathered {
    squares: HashMap<ParamId, Tensor<1>>,
    pieces: usize,
}

impl Gathered {
    /// Reads a text with a network on a device with gradients.
    ///
    /// # Errors
    ///
    /// Where the data cannot be served.
    pub fn of(network: &CharLstm, training: &Pieces) -> Result<Self, Error> {
        let mut gathered = Self::default();
        training.read(network.clone(), |network, loss, _| {
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            network.visit(&mut Adding { gathered: &mut gathered, gradients });
            gathered.pieces += 1;
            network
        })?;
        Ok(gathered)
    }

    fn weights(&self, network: &CharLstm, config: DynamicConfig) -> HashMap<ParamId, Weight> {
        let DynamicConfig { rate, decay, .. } = config;
        let pieces = self.pieces as f64;
        let roots: HashMap<ParamId, Tensor<1>> =
            self.squares.iter().map(|(id, sum)| (*id, (sum.clone() / pieces).sqrt())).collect();
        // The mean is over all weights of the network. Its sum is taken in the network's order.
        let mut weights = Weights { roots, found: Vec::new() };
        network.visit(&mut weights);
        let count: usize = weights.found.iter().map(|(_, root, _)| root.dims()[0]).sum();
        let sum = |root: &Tensor<1>| f64::from(root.clone().sum().into_scalar::<f32>());
        let mean = weights.found.iter().map(|(_, root, _)| sum(root)).sum::<f64>() / count as f64;
        let weight = |(id, root, trained): (ParamId, Tensor<1>, Tensor<1>)| {
            let pull = (root.clone() * (decay / mean)).clamp_max(1.0);
            (id, Weight { trained, pull, rates: (root + EPSILON).recip() * rate })
        };
        weights.found.into_iter().map(weight).collect()
    }
}

/// What moving a weight needs, all flat.
#[derive(Clone)]
struct Weight {
    /// θ₀.
    trained: Tensor<1>,
    /// How far it goes back there each time.
    pull: Tensor<1>,
    /// rate / (√m + ε).
    rates: Tensor<1>,
}

struct Adding<'a> {
    gathered: &'a mut Gathered,
    gradients: GradientsParams,
}

impl ModuleVisitor for Adding<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return };
        let square = flat(gradient).square();
        let sum = match self.gathered.squares.remove(&param.id) {
            Some(sum) => sum + square,
            None => square,
        };
        self.gathered.squares.insert(param.id, sum);
    }
}

/// The roots of the mean squares and the weights, in the order of the network.
struct Weights {
    roots: HashMap<ParamId, Tensor<1>>,
    found: Vec<(ParamId, Tensor<1>, Tensor<1>)>,
}

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(root) = self.roots.remove(&param.id) {
            self.found.push((param.id, root, flat(param.val().inner())));
        }
    }
}

/// One step of learning.
struct Step<'a> {
    weights: &'a HashMap<ParamId, Weight>,
    gradients: GradientsParams,
}

impl ModuleMapper for Step<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.gradients.remove::<D>(param.id);
        let (Some(gradient), Some(weight)) = (gradient, self.weights.get(&param.id)) else {
            return param;
        };
        param.map(|tensor| {
            let (shape, now) = (tensor.dims(), flat(tensor.inner()));
            let Weight { trained, pull, rates } = weight.clone();
            let moved = adapt(now, flat(gradient), rates, trained, pull);
            Tensor::from_inner(moved.reshape(shape)).require_grad()
        })
    }
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let count = tensor.shape().num_elements();
    tensor.reshape([count])
}
