//! `poquelin generate`.

use std::io::{self, Write};
use std::path::Path;

use poquelin_data::{Units, Vocabulary};
use poquelin_model::Seed;
use serde::Serialize;

use crate::cli::{GenerateArgs, UnknownPolicy};
use crate::error::Error;
use crate::model_file::{Contents, Header};
use crate::run_folder::find_model;
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
    let mut output = TextOutput::new(vocabulary);
    if args.prompt.is_some() {
        tokens.iter().try_for_each(|&token| output.write(token))?;
    }
    generate(&network, &tokens, args.length, sampling, |token| output.write(token))?;
    output.finish()
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
            super::print_json(&Text { text: index + 1, prompt, written })?;
        } else {
            let text = vocabulary.decode(&[shown, tokens].concat());
            super::print(&format!("==> {} of {} <==\n{text}", index + 1, texts.len()))?;
        }
    }
    Ok(())
}

/// Standard output, a token at a time: characters as they come, bytes of one all together, since
/// half a character cannot be shown.
struct TextOutput<'a> {
    vocabulary: &'a Vocabulary,
    bytes: Vec<u32>,
}

impl<'a> TextOutput<'a> {
    fn new(vocabulary: &'a Vocabulary) -> Self {
        Self { vocabulary, bytes: Vec::new() }
    }

    fn write(&mut self, token: u32) -> Result<(), Error> {
        match self.vocabulary.units() {
            Units::Byte => self.bytes.push(token),
            Units::Char => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(self.vocabulary.decode(&[token]).as_bytes())?;
                stdout.flush()?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        super::print(&self.vocabulary.decode(&self.bytes))
    }
}
