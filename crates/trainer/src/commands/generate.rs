//! `poquelin generate`.

use std::io::{self, Write};
use std::path::Path;

use poquelin_data::Vocabulary;
use poquelin_model::Seed;
use serde::Serialize;

use super::{find_model, print_json, print_line};
use crate::cli::{GenerateArgs, UnknownPolicy};
use crate::error::Error;
use crate::model_file::{Contents, Header};
use crate::sampling::{Sampling, generate, generate_texts, known_prompt};
use crate::threads;

/// Writes a text, character by character as the model makes it.
///
/// # Errors
///
/// Where the run or the device is not there, or the prompt cannot be used.
pub fn run(args: &GenerateArgs) -> Result<(), Error> {
    /// No device does more groups of units at a time.
    const MOST_TEXTS: usize = 65_535;
    let (path, contents) = find_model(&args.run)?;
    let config = &contents.header.config;
    let temperature = args.temperature.unwrap_or(config.sample.temperature);
    if !(temperature >= 0.0 && temperature.is_finite()) {
        return Err(Error::Option {
            flag: "--temperature",
            expected: "a number of at least 0",
            got: temperature.to_string(),
        });
    }
    if !(1..=MOST_TEXTS).contains(&args.texts) {
        return Err(Error::Option {
            flag: "--texts",
            expected: "a whole number from 1 to 65,535",
            got: args.texts.to_string(),
        });
    }
    threads::run(config.train.threads, || write(args, &path, contents, temperature))
}

fn write(
    args: &GenerateArgs,
    path: &Path,
    mut contents: Contents,
    temperature: f64,
) -> Result<(), Error> {
    let device = args.device.choice()?.open()?;
    let network = contents.network(path, &device)?;
    let Header { config, vocabulary, .. } = &contents.header;
    let tokens = match (&args.prompt, args.unknown) {
        (Some(prompt), UnknownPolicy::Error) => vocabulary.encode(prompt).map_err(Error::Prompt)?,
        (Some(prompt), UnknownPolicy::Skip) => vocabulary.encode_known(prompt),
        (None, _) => known_prompt(vocabulary, &config.sample.prompt),
    };
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt);
    }

    let sampling = Sampling { temperature, seed: Seed::new(args.seed) };
    if args.texts > 1 || args.json {
        let texts = generate_texts(&network, &tokens, args.texts, args.length, sampling);
        return print_texts(args, vocabulary, &tokens, &texts);
    }
    // As they come. Of units of bytes a terminal puts those of a character together.
    let write = |token: u32| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&vocabulary.bytes(&[token]))?;
        Ok::<(), Error>(stdout.flush()?)
    };
    if args.prompt.is_some() {
        tokens.iter().try_for_each(|&token| write(token))?;
    }
    generate(&network, &tokens, args.length, sampling, write)?;
    print_line(b"")
}

/// A text, as `--json` prints it.
#[derive(Serialize)]
struct Text {
    /// Which of those that were written together, from 1 on.
    text: usize,
    /// What the model read first.
    prompt: String,
    /// What it wrote behind that.
    written: String,
}

/// Texts one after the other, each behind a line that says which.
fn print_texts(
    args: &GenerateArgs,
    vocabulary: &Vocabulary,
    prompt: &[u32],
    texts: &[Vec<u32>],
) -> Result<(), Error> {
    let shown = if args.prompt.is_some() { prompt } else { &[] };
    for (index, tokens) in texts.iter().enumerate() {
        if args.json {
            let (prompt, written) = (vocabulary.decode(prompt), vocabulary.decode(tokens));
            print_json(&Text { text: index + 1, prompt, written })?;
        } else {
            let mut text = format!("==> {} of {} <==\n", index + 1, texts.len()).into_bytes();
            text.extend(vocabulary.bytes(&[shown, tokens].concat()));
            print_line(&text)?;
        }
    }
    Ok(())
}
