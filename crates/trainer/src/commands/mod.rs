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

use crate::cli::{Command, CorpusCommand};
use crate::error::Error;

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

/// Writes a line of results.
fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Writes a result as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    print(&serde_json::to_string(value).expect("our records have nothing JSON cannot hold"))
}
