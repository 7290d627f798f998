//! `poquelin evaluate`.

use std::path::Path;
use std::sync::Arc;

use poquelin_data::Splits;
use serde::Serialize;

use super::{print, print_json};
use crate::cli::{EvaluateArgs, Part};
use crate::config::Config;
use crate::error::Error;
use crate::evaluation::Evaluation;
use crate::learning::model::LanguageModel;
use crate::model_file::{Contents, Header};
use crate::progress::thousands;
use crate::run_folder::{RunFolder, find_model};
use crate::scores::Score;
use crate::text::{Fingerprint, TextSource};
use crate::threads;

#[derive(Serialize)]
struct Evaluated {
    split: &'static str,
    chars: u64,
    nats_per_char: f64,
    bits_per_char: f64,
    perplexity: f64,
}

/// Scores a part of a text.
///
/// # Errors
///
/// Where the run, its text or the device is not there.
pub fn run(args: &EvaluateArgs) -> Result<(), Error> {
    let (path, contents) = find_model(&args.run)?;
    threads::run(contents.header.config.train.threads, || evaluate(args, &path, contents))
}

fn evaluate(args: &EvaluateArgs, path: &Path, mut contents: Contents) -> Result<(), Error> {
    let device = args.device.choice()?.open()?;
    let network = contents.network(path, &device)?;
    let Header { config, vocabulary, corpus: expected, .. } = &contents.header;

    let source = match &args.text {
        Some(path) => TextSource::File(path.clone()),
        None => TextSource::new(&text_of_run(&args.run).unwrap_or(config.data.text.clone())),
    };
    let corpus = source.read(&config.data, Some(vocabulary))?;
    let difference = Fingerprint::of(&corpus).difference(expected);
    let part = match (args.split, &difference) {
        (Some(part), _) => part,
        (None, None) => Part::Test,
        (None, Some(_)) => Part::All,
    };
    // Asked for by its name, another text is another text; found in the run's place, it is not
    // what the run's figures are about.
    if let Some(difference) = difference
        && args.text.is_none()
    {
        return Err(Error::CorpusChanged { name: source.name(), difference });
    }
    let range = range(part, config, corpus.len())?;
    let evaluation = Evaluation::new(part.name(), Arc::new(corpus), range, &device)?;
    let model = LanguageModel { network };
    let score = evaluation.run(&model, |_, _| true)?;
    report(args, part, score)
}

/// Where a run has its text; `None` for a model file, which does not know.
fn text_of_run(name: &str) -> Option<String> {
    let config = RunFolder::open(name).ok()?.config().ok()??;
    Some(config.data.text)
}

fn range(part: Part, config: &Config, length: usize) -> Result<std::ops::Range<usize>, Error> {
    let splits = Splits::cut(length, config.data.test, config.data.valid);
    let (range, share) = match part {
        Part::Train => (splits.train, 1.0),
        Part::Valid => (splits.valid, config.data.valid),
        Part::Test => (splits.test, config.data.test),
        Part::All => (0..length, 1.0),
    };
    if share == 0.0 { Err(Error::NoSplit { split: part.name() }) } else { Ok(range) }
}

fn report(args: &EvaluateArgs, part: Part, score: Score) -> Result<(), Error> {
    let Score { nats_per_char, bits_per_char, perplexity, chars } = score;
    let split = part.name();
    if args.json {
        return print_json(&Evaluated { split, chars, nats_per_char, bits_per_char, perplexity });
    }
    print(&format!(
        "{split}: {nats_per_char:.4} nats/char, {bits_per_char:.4} bits/char, perplexity \
         {perplexity:.3}, over {} characters",
        thousands(chars)
    ))
}
