//! A module per subcommand.

mod bench;
mod corpus;
mod devices;
mod evaluate;
mod generate;
mod plot;
mod resume;
mod sweep;
mod train;
mod training;
mod tuning;

use std::io::{self, Write};
use std::path::PathBuf;

use crate::cli::{Command, CorpusCommand};
use crate::error::Error;
use crate::model_file::Contents;
use crate::progress::to_stderr;
use crate::run_folder::{self, Model};

/// Runs a subcommand.
///
/// # Errors
///
/// What ended it before its work was done.
pub fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Train(args) => train::run(args),
        Command::Resume(args) => resume::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Corpus(CorpusCommand::Stats(args)) => corpus::stats(&args),
    }
}

/// The model of a run, or of a file. Says which of a run's it is where that is not finished.
fn find_model(name: &str) -> Result<(PathBuf, Contents), Error> {
    let Model { path, contents, is_final } = run_folder::find_model(name)?;
    if !is_final {
        let (path, step) = (path.display(), contents.header.progress.step);
        to_stderr(&format!("the run is not finished: its model is {path}, as of step {step}"));
    }
    Ok((path, contents))
}

/// Writes a line of results.
fn print(text: &str) -> Result<(), Error> {
    print_line(text.as_bytes())
}

/// The same of what may not be UTF-8.
fn print_line(text: &[u8]) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.write_all(b"\n")?;
    Ok(stdout.flush()?)
}

/// Writes a result as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    print(&serde_json::to_string(value).expect("our records have nothing JSON cannot hold"))
}
