//! The command line.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::{Implementation, ROWS, Row};
use crate::device::DeviceChoice;

/// Trains recurrent language models, scores texts with them and lets them write.
#[derive(Debug, Parser)]
#[command(
    name = "poquelin",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 success, 1 a failed run, 2 bad input, 130 or 143 an interrupt \
                  that saved."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model; with nothing else, on the comedy that is built in.
    Train(TrainArgs),
    /// Go on with a run that was interrupted, or with a finished one for more epochs.
    Resume(ResumeArgs),
    /// Score a part of a run's text, or another text.
    Evaluate(EvaluateArgs),
    /// Let a run's model write.
    Generate(GenerateArgs),
    /// Train with many configurations and tell which is best on validation text.
    Sweep(SweepArgs),
    /// Draw the losses of runs, epoch by epoch, as SVG.
    Plot(PlotArgs),
    /// Look at a text as the trainer sees it.
    #[command(subcommand)]
    Corpus(CorpusCommand),
    /// List the devices of this build, for --device.
    Devices(DevicesArgs),
    /// Measure training steps and writing against Burn's own LSTM.
    Bench(BenchArgs),
}

/// Where the configuration comes from.
#[derive(Args, Debug, Default)]
pub struct ConfigArgs {
    /// The configuration file; keys it leaves out are those of configs/quickstart.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key, as in --set model.hidden=256; may be repeated.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub assignments: Vec<String>,
}

/// Where the tensors are.
#[derive(Args, Debug)]
pub struct DeviceArgs {
    /// The backend, and for a GPU which one, as in wgpu:1; a GPU is preferred.
    #[arg(long, value_name = "BACKEND[:INDEX]")]
    pub device: Option<String>,
}

impl DeviceArgs {
    /// The device asked for, or the one preferred.
    ///
    /// # Errors
    ///
    /// Where there is no backend of that name, or none at all.
    pub fn choice(&self) -> Result<DeviceChoice, crate::device::DeviceError> {
        match &self.device {
            Some(name) => name.parse(),
            None => DeviceChoice::preferred(),
        }
    }
}

/// Arguments of `poquelin train`.
#[derive(Args, Debug)]
pub struct TrainArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The text to learn from (data.text).
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// The run's name, for a folder below runs/, or a path; the configuration's name by default.
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// Replace a run of the same name.
    #[arg(long)]
    pub force: bool,
    /// Go on with this run, as `poquelin resume` does.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "force"])]
    pub resume: Option<String>,
    /// Passes over the training part (train.epochs).
    #[arg(long, value_name = "COUNT")]
    pub epochs: Option<usize>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// Arguments of `poquelin resume`.
#[derive(Args, Debug)]
pub struct ResumeArgs {
    /// The run: its name below runs/, or its folder.
    pub run: String,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Where the run's text is now (data.text).
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Passes over the training part, with those that are done (train.epochs).
    #[arg(long, value_name = "COUNT")]
    pub epochs: Option<usize>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) show: ShowArgs,
}

/// How a run shows itself.
#[derive(Args, Debug, Default)]
pub struct ShowArgs {
    /// Show progress in plain lines, also on a terminal.
    #[arg(long, conflicts_with = "tui")]
    pub plain: bool,
    /// Show burn-train's dashboard.
    #[arg(long)]
    pub tui: bool,
    /// End with the summary as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What the model learnt from.
    Train,
    /// What chose the best epoch.
    Valid,
    /// What was held out.
    Test,
    /// The whole text.
    All,
}

impl Part {
    /// The name in options and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
            Self::All => "all",
        }
    }
}

/// Arguments of `poquelin evaluate`.
#[derive(Args, Debug)]
pub struct EvaluateArgs {
    /// The run: its name below runs/, its folder, or a model file.
    pub run: String,
    /// The part of the text to score: the test part of the run's own text, all of any other, by
    /// default.
    #[arg(long, value_enum)]
    pub split: Option<Part>,
    /// Another text, or where the run's own is now. A part of it is cut as the run's was.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Whether characters of another text that the model does not know are an error or left out.
    #[arg(long, value_enum, default_value = "error", requires = "text")]
    pub unknown: UnknownPolicy,
    /// Let the model learn from the text as it reads, each character being scored before it is learnt
    /// from, as the run's section "dynamic" says. The run's own text must be there: the training part
    /// tells how far each weight moves.
    #[arg(long)]
    pub dynamic: bool,
    /// Look for the settings with which the model learns best from the validation part, one after the
    /// other, from those of the run on.
    #[arg(long, requires = "dynamic", conflicts_with = "split")]
    pub tune: bool,
    /// Set one key of the section "dynamic", as in --set dynamic.rate=0.0003; may be repeated.
    #[arg(long = "set", value_name = "DYNAMIC.KEY=VALUE", requires = "dynamic")]
    pub assignments: Vec<String>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// What to do with characters that the model does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownPolicy {
    /// Refuse them.
    Error,
    /// Drop them.
    Skip,
}

/// Arguments of `poquelin generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// The run: its name below runs/, its folder, or a model file.
    pub run: String,
    /// What the text begins with; sample.prompt of the run by default.
    #[arg(long)]
    pub prompt: Option<String>,
    /// How many characters to write behind the prompt.
    #[arg(long, default_value_t = 400, allow_negative_numbers = true)]
    pub length: usize,
    /// 1 for the model's own probabilities, less for safer guesses, 0 for the likeliest character
    /// each time; sample.temperature of the run by default.
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Another seed writes another text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// How many texts to write at a time, each with a seed of its own that follows from --seed; the
    /// first is the one that is written without this. On a GPU where --device is one and there are
    /// 8 or more, else on the CPU. (A GPU rounds otherwise, and so do many texts at a time: where two
    /// characters are as good as equal the other one may be chosen.)
    #[arg(long, value_name = "COUNT", default_value_t = 1, allow_negative_numbers = true)]
    pub texts: usize,
    /// Print a line of JSON per text.
    #[arg(long)]
    pub json: bool,
    /// Whether characters of the prompt that the model does not know are an error or skipped.
    #[arg(long, value_enum, default_value = "error")]
    pub unknown: UnknownPolicy,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

/// Arguments of `poquelin sweep`.
#[derive(Args, Debug)]
pub struct SweepArgs {
    /// The file that tells what to search over. The same command again goes on with a sweep that
    /// was interrupted.
    pub file: PathBuf,
    /// The sweep's name, for a folder below runs/, or a path; the file's name by default.
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// The text to learn from (data.text).
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Show progress in plain lines, also on a terminal.
    #[arg(long)]
    pub plain: bool,
    /// End with a line of JSON per trial, the best first.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `poquelin plot`.
#[derive(Args, Debug)]
pub struct PlotArgs {
    /// The runs: their names below runs/, or their folders.
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<String>,
    /// Where to write the figure; curves.svg in the folder of the first run by default.
    #[arg(long, value_name = "FILE.svg")]
    pub out: Option<PathBuf>,
    /// The lower end of the losses shown, in nats per character.
    #[arg(long, value_name = "NATS", allow_negative_numbers = true)]
    pub from: Option<f64>,
    /// The upper end of the losses shown, in nats per character.
    #[arg(long, value_name = "NATS", allow_negative_numbers = true)]
    pub to: Option<f64>,
}

/// The subcommands of `poquelin corpus`.
#[derive(Debug, Subcommand)]
pub enum CorpusCommand {
    /// Count characters, distinct characters, parts, lanes and chunks.
    Stats(StatsArgs),
}

/// Arguments of `poquelin corpus stats`.
#[derive(Args, Debug)]
pub struct StatsArgs {
    /// The text.
    pub file: PathBuf,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print the counts as one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `poquelin devices`.
#[derive(Args, Debug)]
pub struct DevicesArgs {
    /// Print a line of JSON per device.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `poquelin bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Only this row.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(ROWS.map(|row| row.name)))]
    pub row: Option<String>,
    /// Only this implementation.
    #[arg(long, value_enum, value_name = "NAME")]
    pub implementation: Option<Implementation>,
    /// Set other measurements beside ours: lines of JSON, as this command and
    /// tests/reference/bench_pytorch.py print them.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub against: Option<PathBuf>,
    /// CPU threads to use; 0 stands for one per core.
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=1_024))]
    pub threads: u16,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Print a line of JSON per row and implementation.
    #[arg(long)]
    pub json: bool,
}

impl BenchArgs {
    /// The rows asked for.
    pub fn rows(&self) -> Vec<Row> {
        let asked = |row: &Row| self.row.as_deref().is_none_or(|name| name == row.name);
        ROWS.into_iter().filter(asked).collect()
    }
}
