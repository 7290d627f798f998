//! `poquelin evaluate --dynamic --tune`: settings for dynamic evaluation, chosen on validation text.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Device;
use poquelin_data::Corpus;
use poquelin_model::CharLstm;
use serde::Serialize;

use super::{print, print_json};
use crate::cli::Part;
use crate::config::DynamicConfig;
use crate::dynamic::{self, Gathered, Pieces};
use crate::error::Error;

/// A network and what it was trained on.
pub(super) struct Texts<'a> {
    /// On a device with gradients.
    pub(super) network: &'a CharLstm,
    pub(super) training: Arc<Corpus>,
    /// The training part.
    pub(super) train: Range<usize>,
    pub(super) device: &'a Device,
}

impl Texts<'_> {
    /// What the training text tells of the weights.
    pub(super) fn gather(&self, settings: DynamicConfig) -> Result<Gathered, Error> {
        let (training, train) = (self.training.clone(), self.train.clone());
        let pieces = Pieces::of_training(training, train, settings, self.device)?;
        Gathered::of(self.network, &pieces)
    }
}

#[derive(Serialize)]
struct Tried {
    characters: usize,
    rate: f64,
    decay: f64,
    nats_per_char: f64,
}

/// Looks for settings, one key after the other, each up and down for as long as it gets better, and
/// prints what was tried.
pub(super) fn tune(
    texts: &Texts<'_>,
    corpus: Arc<Corpus>,
    range: Range<usize>,
    start: DynamicConfig,
    json: bool,
) -> Result<(), Error> {
    let mut gathered: Option<(usize, Gathered)> = None;
    let mut score = |settings: DynamicConfig| -> Result<f64, Error> {
        let DynamicConfig { characters, rate, decay } = settings;
        // Gradients depend on the length of the pieces and on nothing else.
        let kept = gathered.take().filter(|(length, _)| *length == characters);
        let (_, of_training) = gathered.insert(match kept {
            Some(kept) => kept,
            None => (characters, texts.gather(settings)?),
        });
        let name = Part::Valid.name();
        let text = Pieces::new(name, corpus.clone(), range.clone(), settings, texts.device)?;
        let score = dynamic::evaluate(texts.network, of_training, &text, settings)?;
        let nats_per_char = score.nats_per_char;
        match json {
            true => print_json(&Tried { characters, rate, decay, nats_per_char })?,
            false => print(&format!(
                "characters {characters:>4}  rate {rate:<9}  decay {decay:<9}  {nats_per_char:.4} \
                 nats/char"
            ))?,
        }
        // What is no number is worse than anything.
        Ok(if nats_per_char.is_nan() { f64::INFINITY } else { nats_per_char })
    };
    let mut best = (score(start)?, start);
    let moves: [fn(DynamicConfig, f64) -> DynamicConfig; 3] = [
        |settings, factor| DynamicConfig { rate: settings.rate * factor, ..settings },
        |settings, factor| DynamicConfig { decay: settings.decay * factor, ..settings },
        |settings, factor| {
            let characters = (settings.characters as f64 * factor).round().max(1.0) as usize;
            DynamicConfig { characters, ..settings }
        },
    ];
    for to in moves {
        for factor in [2.0, 0.5] {
            let before = best.0;
            loop {
                let settings = to(best.1, factor);
                if settings == best.1 {
                    break;
                }
                let found = score(settings)?;
                if found >= best.0 {
                    break;
                }
                best = (found, settings);
            }
            // What got better one way does not the other.
            if best.0 < before {
                break;
            }
        }
    }
    if json {
        return Ok(());
    }
    let DynamicConfig { characters, rate, decay } = best.1;
    print(&format!(
        "best on validation text: --set dynamic.characters={characters} --set dynamic.rate={rate} \
         --set dynamic.decay={decay}"
    ))
}
