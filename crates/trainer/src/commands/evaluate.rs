//! `poquelin evaluate`.

use std::path::Path;
use std::sync::Arc;

use poquelin_data::{Corpus, Splits};
use serde::Serialize;

use super::tuning::{Texts, tune};
use super::{find_model, print, print_json};
use crate::cli::{EvaluateArgs, Part};
use crate::config::{Config, DataConfig};
use crate::dynamic::{self, Pieces};
use crate::error::Error;
use crate::evaluation::Evaluation;
use crate::learning::model::LanguageModel;
use crate::model_file::{Contents, Header};
use crate::progress::{thousands, to_stderr};
use crate::run_folder::RunFolder;
use crate::scores::Score;
use crate::text::{Fingerprint, TextSource};
use crate::threads;

#[derive(Serialize)]
struct Evaluated {
    split: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dynamic: bool,
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
    let device = if args.dynamic { device.autodiff() } else { device };
    let network = contents.network(path, &device)?;
    let Header { config, vocabulary, corpus: expected, .. } = &contents.header;
    check_assignments(&args.assignments)?;
    let settings = config.with(&args.assignments)?.dynamic;

    let own = TextSource::new(&text_of_run(&args.run).unwrap_or(config.data.text.clone()));
    let source = args.text.as_ref().map_or(own.clone(), |path| TextSource::File(path.clone()));
    let read = |source: &TextSource, data: &DataConfig| {
        source.read(data, Some((vocabulary, args.unknown)))
    };
    let found = |corpus: &Corpus| Fingerprint::of(corpus).difference(expected);
    let corpus = match &args.text {
        None => read(&source, &config.data).map_err(Error::where_text_was)?,
        Some(_) if config.data.take == 0 => read(&source, &config.data)?,
        Some(path) => {
            // Of its own text the run took a piece; another one is meant as a whole. (A pipe can be read only once.)
            let piece = path.is_file().then(|| read(&source, &config.data).ok()).flatten();
            match piece.filter(|piece| found(piece).is_none()) {
                Some(piece) => piece,
                None => read(&source, &DataConfig { take: 0, ..config.data.clone() })?,
            }
        }
    };
    let difference = found(&corpus);
    let skipped = corpus.skipped();
    if skipped > 0 {
        let (count, name) = (thousands(skipped as u64), source.name());
        to_stderr(&format!(
            "left out of {name}, for the model does not know them: {count} characters"
        ));
    }
    let corpus = Arc::new(corpus);
    let part = match (args.split, &difference) {
        _ if args.tune => Part::Valid,
        (Some(part), _) => part,
        (None, None) => Part::Test,
        (None, Some(_)) => Part::All,
    };
    let changed = |name: String, difference| Error::CorpusChanged { name, difference };
    let training = match difference {
        None => corpus.clone(),
        // Asked for by its name, another text is another text; found in the run's place, it is not
        // what the run's figures are about.
        Some(difference) if args.text.is_none() => {
            return Err(changed(source.name(), difference));
        }
        Some(_) if args.dynamic => {
            let training = Arc::new(read(&own, &config.data)?);
            match Fingerprint::of(&training).difference(expected) {
                Some(difference) => return Err(changed(own.name(), difference)),
                None => training,
            }
        }
        Some(_) => corpus.clone(),
    };
    let range = range(part, config, corpus.len())?;
    let score = if args.dynamic {
        let train = Splits::cut(training.len(), config.data.test, config.data.valid).train;
        let texts = Texts { network: &network, training, train, device: &device };
        if args.tune {
            return tune(&texts, corpus, range, settings, args.json);
        }
        let text = Pieces::new(part.name(), corpus, range, settings, &device)?;
        dynamic::evaluate(&network, &texts.gather(settings)?, &text, settings)?
    } else {
        let evaluation = Evaluation::new(part.name(), corpus, range, &device)?;
        evaluation.run(&LanguageModel { network }, |_, _| true)?
    };
    report(args, part, score)
}

/// Refuses what has no part in scoring.
fn check_assignments(assignments: &[String]) -> Result<(), Error> {
    let of_others = |text: &&String| !text.trim_start().starts_with("dynamic.");
    match assignments.iter().find(of_others) {
        Some(other) => Err(Error::Option {
            flag: "--set",
            expected: "a key of the section dynamic, as in dynamic.rate=0.0003",
            got: other.clone(),
        }),
        None => Ok(()),
    }
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
        let dynamic = args.dynamic;
        return print_json(&Evaluated {
            split,
            dynamic,
            chars,
            nats_per_char,
            bits_per_char,
            perplexity,
        });
    }
    let how = if args.dynamic { ", learning as it reads" } else { "" };
    print(&format!(
        "{split}{how}: {nats_per_char:.4} nats/char, {bits_per_char:.4} bits/char, perplexity \
         {perplexity:.3}, over {} characters",
        thousands(chars)
    ))
}
