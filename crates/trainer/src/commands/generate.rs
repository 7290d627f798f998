//! `poquelin generate`.

use std::io::{self, Write};
use std::path::Path;

use poquelin_data::{Units, Vocabulary};
use poquelin_model::Seed;

use crate::cli::{GenerateArgs, UnknownPolicy};
use crate::error::Error;
use crate::model_file::{Contents, Header};
use crate::run_folder::find_model;
use crate::sampling::{Sampling, generate, known_prompt};
use crate::threads;

/// Writes a text, character by character as the model makes it.
///
/// # Errors
///
/// Where the run or the device is not there, or the prompt cannot be used.
pub fn run(args: &GenerateArgs) -> Result<(), Error> {
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

    let mut output = TextOutput::new(vocabulary);
    if args.prompt.is_some() {
        tokens.iter().try_for_each(|&token| output.write(token))?;
    }
    let sampling = Sampling { temperature, seed: Seed::new(args.seed) };
    generate(&network, &tokens, args.length, sampling, |token| output.write(token))?;
    output.finish()
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
