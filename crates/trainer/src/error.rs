//! Everything that can go wrong, and the exit code it maps to.

use std::io;
use std::path::PathBuf;

use poquelin_data::{CorpusError, LayoutError, UnknownSymbol};
use thiserror::Error;

use crate::config::ConfigError;
use crate::device::DeviceError;
use crate::signals::Signal;
use crate::sweep::SweepError;
use crate::weights::WeightsError;

/// What ended a command before its work was done.
#[derive(Debug, Error)]
pub enum Error {
    /// A configuration that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that describes no sweep.
    #[error(transparent)]
    Sweep(#[from] SweepError),
    /// A device that is not there.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A text that cannot be a corpus.
    #[error("the text {name} {source}")]
    Corpus {
        /// The path, or what the built-in text is called.
        name: String,
        /// Why not.
        source: CorpusError,
    },
    /// The text of a run is not where it was.
    #[error("the text {name}, which the run was trained on, {source}; say where it is with --text")]
    TextGone {
        /// The path.
        name: String,
        /// Why it cannot be read.
        source: CorpusError,
    },
    /// A part of the corpus that is too short for what is asked of it.
    #[error("the {split} part of the text: {source}")]
    Layout {
        /// "train", "valid" or "test".
        split: &'static str,
        /// What is missing.
        source: LayoutError,
    },
    /// A part of the corpus that the run does not have.
    #[error("the run has no {split} part: it was trained with data.{split} = 0")]
    NoSplit {
        /// "valid" or "test".
        split: &'static str,
    },
    /// The text is not the one of the run.
    #[error(
        "the text {name} is not the one this run was trained on: {difference}; give the original \
         with --text"
    )]
    CorpusChanged {
        /// The path.
        name: String,
        /// What differs.
        difference: String,
    },
    /// A text outside the vocabulary.
    #[error(
        "the text {name} has a character that the model does not know: {unknown}; leave such characters \
         out with --unknown skip"
    )]
    UnknownInText {
        /// The path.
        name: String,
        /// The first of them.
        unknown: UnknownSymbol,
    },
    /// A prompt outside the vocabulary.
    #[error("the prompt: {0}; leave it out, or drop such characters with --unknown skip")]
    Prompt(UnknownSymbol),
    /// A prompt with nothing in it that the model knows.
    #[error("the prompt has no character that the model knows; give at least one")]
    EmptyPrompt,
    /// An option with a value out of its range.
    #[error("{flag}: expected {expected}, got {got}")]
    Option {
        /// The flag.
        flag: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What was given.
        got: String,
    },
    /// A run folder in the way.
    #[error("the run {} exists; replace it with --force, or give another name with --run", .0.display())]
    RunExists(PathBuf),
    /// A run that another process is writing.
    #[error("another process is training in {}; let it end, or stop it", .0.display())]
    RunBusy(PathBuf),
    /// A folder that is no run.
    #[error("{} is not a run folder: {reason}", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A folder that is no sweep's.
    #[error("{} is not the folder of a sweep: {reason}; give another name with --run", path.display())]
    NotASweep {
        /// The folder.
        path: PathBuf,
        /// What is in the way.
        reason: String,
    },
    /// A run with nothing to draw.
    #[error("the run {} has no finished epoch yet; train it on with `poquelin resume`", .0.display())]
    NoEpochs(PathBuf),
    /// A file of a run that does not hold what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model file of another version of this program.
    #[error(
        "{}: its format is {format:?}, written by poquelin {poquelin}; this version reads {ours:?}: \
         use that one",
        path.display()
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: String,
        /// The version that wrote it.
        poquelin: String,
        /// The format that this version reads.
        ours: &'static str,
    },
    /// Weights that do not fit the model.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: WeightsError,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that is no measurement.
    #[error("{}, line {line}: {source}; expected what `poquelin bench --json` prints", path.display())]
    BenchLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output is gone.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// The loss or the gradient is not a number.
    #[error(
        "training diverged at step {step} (epoch {epoch}): loss {loss:.4e}, gradient norm {norm:.4e}; \
         the weights are as before it, {}, and {} tells what was read; {advice}, or let it go back by \
         itself with train.on_divergence=rollback",
        match checkpoint {
            Some(step) => format!("the checkpoint of step {step} stands"),
            None => "there is no checkpoint to go on from".to_owned(),
        },
        report.display()
    )]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// The epoch, from 1.
        epoch: usize,
        /// The loss in nats/char.
        loss: f64,
        /// The global norm of the gradient.
        norm: f64,
        /// The newest checkpoint.
        checkpoint: Option<u64>,
        /// The file with more about it.
        report: PathBuf,
        /// What may help.
        advice: String,
    },
    /// The run was interrupted before there was anything to save.
    #[error("interrupted by {0} before training began; nothing was written")]
    InterruptedEarly(Signal),
    /// A run goes on only as what it is.
    #[error(
        "{} cannot go on with another configuration: {}; leave it as it was, or train anew under \
         another name",
        run.display(), differences.join(", ")
    )]
    RunChanged {
        /// The run folder.
        run: PathBuf,
        /// What differs, as `key: was A, now B`.
        differences: Vec<String>,
    },
    /// Fewer epochs than the run has.
    #[error(
        "train.epochs: the run {} {}, got {got}",
        run.display(),
        match under_way {
            true => format!("is in epoch {} already", done + 1),
            false => format!("has done {done} already"),
        }
    )]
    TooFewEpochs {
        /// The run folder.
        run: PathBuf,
        /// Its whole epochs.
        done: usize,
        /// Whether it has begun with another.
        under_way: bool,
        /// What was asked for.
        got: usize,
    },
    /// The system refuses to tell of signals.
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
    /// Training broke off inside burn-train.
    #[error("training broke off: {0}")]
    Training(String),
    /// The sweep was interrupted and is saved.
    #[error(
        "interrupted by {signal}: {done} of {all} trials have ended{}; go on with `{command}`",
        match saved {
            Some((run, step)) => format!(", and {} is saved as of step {step}", run.display()),
            None => String::new(),
        }
    )]
    SweepInterrupted {
        /// What interrupted it.
        signal: Signal,
        /// Trials that have ended.
        done: usize,
        /// All trials.
        all: usize,
        /// The trial that was under way, and its last step.
        saved: Option<(PathBuf, u64)>,
        /// What goes on with it.
        command: String,
    },
    /// The run was interrupted and is saved.
    #[error(
        "interrupted by {signal}; the run is saved in {0} as of step {step}; go on with \
         `poquelin resume {0}`",
        run.display()
    )]
    Interrupted {
        /// What interrupted it.
        signal: Signal,
        /// The run folder.
        run: PathBuf,
        /// The last step done.
        step: u64,
    },
}

impl Error {
    /// Of the text that a run had: where it cannot be read, it may lie elsewhere now; where it has other characters, it is
    /// another one.
    #[must_use]
    pub fn where_text_was(self) -> Self {
        match self {
            Self::Corpus { name, source: source @ CorpusError::Io(_) } => {
                Self::TextGone { name, source }
            }
            Self::UnknownInText { name, unknown } => {
                Self::CorpusChanged { name, difference: unknown.to_string() }
            }
            other => other,
        }
    }

    /// The process's exit code: 2 for bad input, 1 for a failed run, 130 or 143 for an interrupt
    /// that saved.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Sweep(_)
            | Self::Device(_)
            | Self::Corpus { .. }
            | Self::TextGone { .. }
            | Self::UnknownInText { .. }
            | Self::Layout { .. }
            | Self::NoSplit { .. }
            | Self::CorpusChanged { .. }
            | Self::Prompt(_)
            | Self::EmptyPrompt
            | Self::Option { .. }
            | Self::RunExists(_)
            | Self::RunBusy(_)
            | Self::NotARun { .. }
            | Self::NotASweep { .. }
            | Self::NoEpochs(_)
            | Self::Damaged { .. }
            | Self::OtherFormat { .. }
            | Self::Weights { .. }
            | Self::BenchLine { .. }
            | Self::RunChanged { .. }
            | Self::TooFewEpochs { .. }
            | Self::Read { .. } => 2,
            // A reader that has seen enough is no failure.
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Write { .. }
            | Self::Signals(_)
            | Self::Output(_)
            | Self::Diverged { .. }
            | Self::Training(_) => 1,
            Self::Interrupted { signal, .. }
            | Self::SweepInterrupted { signal, .. }
            | Self::InterruptedEarly(signal) => signal.exit_code(),
        }
    }
}
