//! What `train` and `resume` share: from a run that is ready to its last line.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;
use burn_train::renderer::MetricsRenderer;
use burn_train::renderer::tui::TuiMetricsRendererWrapper;
use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use poquelin_data::{ChunkLoader, Corpus, Splits, Vocabulary};
use poquelin_model::devices::{arithmetic, hardware, has_half};
use poquelin_model::{CharLstm, Seed, identify_parameters};
use serde::{Deserialize, Serialize};

use super::{print, print_json};
use crate::cli::ShowArgs;
use crate::config::{Config, ConfigError};
use crate::device::DeviceChoice;
use crate::error::Error;
use crate::evaluation::Evaluation;
use crate::learning::adamw::AdamW;
use crate::learning::loader::StepLoader;
use crate::learning::metrics::{NoMetricLogger, Quantity, QuantityMetric};
use crate::learning::model::LanguageModel;
use crate::learning::optimizer_state::{Tap, TappedAdamW};
use crate::learning::schedule::Schedule;
use crate::learning::strategy::{Ending, Job, Standing, TruncatedBptt};
use crate::model_file::{Contents, Header, Machine, Scores};
use crate::progress::{Console, ProgressRenderer, Style, duration, thousands, to_stderr};
use crate::run_folder::RunFolder;
use crate::sampling::{Sampling, write_sample};
use crate::scores::Score;
use crate::signals::Signals;
use crate::text::Fingerprint;

/// The sample at the end, in characters.
const LAST_SAMPLE: usize = 400;

/// How a run ended, as `summary.json` and `--json` have it.
#[derive(Serialize, Deserialize)]
pub(super) struct Summary {
    run: String,
    pub(super) epochs: usize,
    pub(super) steps: u64,
    pub(super) parameters: usize,
    backend: String,
    pub(super) seconds: f64,
    pub(super) chars_per_second: f64,
    train: Score,
    pub(super) valid: Option<Score>,
    /// Of a trial of a sweep it stays unknown.
    test: Option<Score>,
}

/// A run that is ready to go on from where it stands.
pub(super) struct Ready<'a> {
    pub(super) show: &'a ShowArgs,
    /// `--device`, if it was given.
    pub(super) device: Option<&'a str>,
    pub(super) began: Instant,
    pub(super) config: Config,
    pub(super) text: Text,
    pub(super) parts: Parts,
    pub(super) choice: DeviceChoice,
    pub(super) gradient_device: Device,
    pub(super) console: Arc<Console>,
    pub(super) signals: Signals,
    pub(super) folder: RunFolder,
    pub(super) network: CharLstm,
    /// What made the optimizer.
    pub(super) adam_w: TappedAdamW,
    pub(super) optimizer: ModuleOptimizer,
    pub(super) standing: Standing,
}

/// A text, and what it is known by.
#[derive(Clone)]
pub(super) struct Text {
    pub(super) corpus: Arc<Corpus>,
    pub(super) vocabulary: Vocabulary,
    pub(super) fingerprint: Fingerprint,
}

impl Text {
    pub(super) fn new(corpus: Corpus) -> Self {
        let (vocabulary, fingerprint) = (corpus.vocabulary().clone(), Fingerprint::of(&corpus));
        Self { corpus: Arc::new(corpus), vocabulary, fingerprint }
    }
}

/// A run that has ended well.
pub(super) struct Finished {
    pub(super) summary: Summary,
    config: Config,
    vocabulary: Vocabulary,
    model: LanguageModel,
}

/// Trains to the end, and tells of it.
pub(super) fn finish(ready: Ready<'_>) -> Result<(), Error> {
    let Ready { show, device, .. } = ready;
    let Finished { summary, config, vocabulary, model } = complete(ready)?;
    let seed = Seed::new(config.train.seed).derive("last sample", 0);
    let sampling = Sampling { temperature: config.sample.temperature, seed };
    let prompt = &config.sample.prompt;
    let sample = write_sample(&model.network, &vocabulary, prompt, LAST_SAMPLE, sampling, || false);
    report(device, &summary, &vocabulary, &sample)?;
    if show.json { print_json(&summary) } else { Ok(()) }
}

/// Trains to the end, and leaves the run's folder finished.
pub(super) fn complete(ready: Ready<'_>) -> Result<Finished, Error> {
    let Ready { show, config, text, choice, console, mut folder, .. } = ready;
    let parameters = ready.network.num_params();
    let schedule = schedule(&config, &ready.parts.train);
    let standing = ready.standing;
    let learner = Learner::new(
        LanguageModel { network: ready.network },
        ready.optimizer,
        schedule.at(standing.progress.step, standing.ledger.rate_factor),
    );
    ready.parts.train.seek(standing.progress.epoch, standing.progress.chunk);
    let strategy = Arc::new(TruncatedBptt::new(Job {
        config: config.clone(),
        corpus: text.corpus,
        vocabulary: text.vocabulary.clone(),
        fingerprint: text.fingerprint.clone(),
        run: folder.clone(),
        chunks: ready.parts.train.clone(),
        valid: ready.parts.valid,
        test: ready.parts.test,
        console: console.clone(),
        signals: ready.signals,
        adam_w: ready.adam_w,
        schedule,
        device: ready.gradient_device,
        machine: machine(choice),
        began: ready.began,
        standing,
    }));
    launch(show, &config, &console, &ready.parts.train, strategy.clone(), learner);
    let ending = strategy.ending();
    console.finish();
    drop(console);
    let Ending { model, progress, ledger, train, valid, test } = ending?;
    let mut header = Header::new(&config, &text.vocabulary, &text.fingerprint, progress);
    header.scores = Scores {
        train: Some(train.into()),
        valid: valid.map(Into::into),
        test: test.map(Into::into),
    };
    folder.write_model(&Contents::model(header, &model.network))?;
    let summary = Summary {
        run: folder.path().display().to_string(),
        epochs: progress.epoch,
        steps: progress.step,
        parameters,
        backend: choice.backend.name().to_owned(),
        seconds: ledger.seconds,
        chars_per_second: ledger.chars as f64 / ledger.train_seconds,
        train,
        valid,
        test,
    };
    folder.finish(&summary)?;
    remove_replaced(&mut folder);
    Ok(Finished { summary, config, vocabulary: text.vocabulary, model })
}

/// Removes the runs that a finished one replaces, and says so.
pub(super) fn remove_replaced(folder: &mut RunFolder) {
    match folder.remove_replaced() {
        Ok(replaced) => replaced.iter().for_each(|path| {
            to_stderr(&format!("{} is removed: this run replaces it", path.display()));
        }),
        Err(error) => {
            to_stderr(&format!("warning: what this run replaces is still there: {error}"))
        }
    }
}

/// Finds out whether a device can do what a configuration wants of it.
pub(super) fn check_device(config: &Config, device: &Device) -> Result<(), Error> {
    let hidden = config.model.hidden;
    if !config.train.half || has_half(device, hidden) {
        return Ok(());
    }
    let key = "train.half".to_owned();
    let expected =
        format!("false: this device reads no 16-bit numbers in layers of {hidden} hidden units");
    Err(ConfigError::BadValue { key, expected, got: "true".to_owned() }.into())
}

/// A network with the weights that its run begins with.
pub(super) fn fresh_network(config: &Config, vocabulary: &Vocabulary, device: &Device) -> CharLstm {
    let seed = Seed::new(config.train.seed).derive("weights", 0);
    identify_parameters(config.model(vocabulary.len()).init(seed, device))
}

/// A configuration with what flags of their own set.
pub(super) fn with_flags(
    mut config: Config,
    text: Option<&Path>,
    epochs: Option<usize>,
) -> Result<Config, Error> {
    if let Some(path) = text {
        config.data.text = path.to_string_lossy().into_owned();
    }
    if let Some(epochs) = epochs {
        config.train.epochs = epochs;
    }
    config.check()?;
    Ok(config)
}

/// What a device computes with now.
pub(super) fn machine(choice: DeviceChoice) -> Machine {
    let gpu = choice.open().ok().and_then(|device| hardware(&device));
    Machine {
        device: choice.to_string(),
        processor: gpu.map_or_else(arithmetic, |gpu| gpu.name),
        threads: rayon::current_num_threads(),
    }
}

/// burn-train's dashboard draws on standard output and reads keys.
pub(super) fn check_terminal(show: &ShowArgs) -> Result<(), Error> {
    if show.tui && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let expected = "a terminal on standard input and output";
        return Err(Error::Option { flag: "--tui", expected, got: "none".to_owned() });
    }
    Ok(())
}

pub(super) fn style(show: &ShowArgs) -> Style {
    match (show.tui, show.plain) {
        (true, _) => Style::Silent,
        (false, true) => Style::Plain,
        (false, false) => Style::Automatic,
    }
}

pub(super) fn adam_w(config: &Config) -> TappedAdamW {
    let optimizer = &config.optimizer;
    let adam_w = AdamW {
        beta_1: optimizer.beta_1 as f32,
        beta_2: optimizer.beta_2 as f32,
        epsilon: optimizer.epsilon as f32,
        weight_decay: optimizer.weight_decay as f32,
        decay_vectors: optimizer.decay_vectors,
    };
    TappedAdamW { adam_w, tap: Tap::default() }
}

fn schedule(config: &Config, train: &ChunkLoader) -> Schedule {
    let steps = (0..config.train.epochs).map(|epoch| train.chunks(epoch) as u64).sum();
    Schedule::new(&config.schedule, config.optimizer.learning_rate, steps)
}

/// The parts of the corpus, each in the shape in which it is read.
pub(super) struct Parts {
    pub(super) train: ChunkLoader,
    pub(super) valid: Option<Evaluation>,
    /// `None` where it is not to be scored.
    pub(super) test: Option<Evaluation>,
}

impl Parts {
    pub(super) fn new(
        config: &Config,
        corpus: &Arc<Corpus>,
        device: &Device,
    ) -> Result<Self, Error> {
        let data = &config.data;
        let splits = Splits::cut(corpus.len(), data.test, data.valid);
        let seed = Seed::new(config.train.seed).derive("offsets", 0).value();
        let mut train = ChunkLoader::training(
            corpus.clone(),
            splits.train,
            data.batch,
            data.sequence,
            seed,
            device,
        )
        .map_err(|source| Error::Layout { split: "train", source })?;
        if data.vary_sequence {
            train = train.varied();
        }
        let evaluation = |split, range| Evaluation::new(split, corpus.clone(), range, device);
        let valid = (data.valid > 0.0).then(|| evaluation("valid", splits.valid)).transpose()?;
        let test = Some(evaluation("test", splits.test)?);
        Ok(Self { train, valid, test })
    }
}

/// Hands the model to burn-train.
fn launch(
    show: &ShowArgs,
    config: &Config,
    console: &Arc<Console>,
    train: &ChunkLoader,
    strategy: Arc<TruncatedBptt>,
    learner: Learner<LanguageModel>,
) {
    let interrupter = Interrupter::new();
    let renderer: Box<dyn MetricsRenderer> = match show.tui {
        true => Box::new(TuiMetricsRendererWrapper::new(interrupter.clone(), None)),
        false => Box::new(ProgressRenderer::new(console.clone())),
    };
    let loader = Arc::new(StepLoader::new(Arc::new(train.clone())));
    // The strategy validates by itself, in one lane; burn-train only wants to have a loader.
    let unused = loader.clone();
    let mut training = SupervisedTraining::new("", loader, unused)
        .with_training_strategy(TrainingStrategy::Custom(strategy))
        .with_metric_logger(NoMetricLogger)
        .with_application_logger(None)
        .with_interrupter(interrupter)
        .renderer(renderer)
        .num_epochs(config.train.epochs);
    for quantity in Quantity::TRAINING {
        training = training.metric_train_numeric(QuantityMetric::new(quantity));
    }
    for quantity in Quantity::VALIDATION {
        training = training.metric_valid_numeric(QuantityMetric::new(quantity));
    }
    let result = training.launch(learner);
    // The dashboard gives the terminal back when it is dropped.
    drop(result);
}

/// Says how the run ended, and what to do with it.
fn report(
    device: Option<&str>,
    summary: &Summary,
    vocabulary: &Vocabulary,
    sample: &str,
) -> Result<(), Error> {
    let part = |name: &str, score: &Score| {
        format!(
            "{name:<6}{:.4} nats/char  {:.4} bits/char  perplexity {:.3}",
            score.nats_per_char, score.bits_per_char, score.perplexity
        )
    };
    print(&part("train", &summary.train))?;
    for (name, score) in [("valid", &summary.valid), ("test", &summary.test)] {
        if let Some(score) = score {
            print(&part(name, score))?;
        }
    }
    print(&format!("\n{sample}\n"))?;
    print(&format!(
        "{} steps in {}; the run is in {}\nnow try",
        thousands(summary.steps),
        duration(summary.seconds),
        summary.run
    ))?;
    let program = program();
    let run = quoted(&summary.run);
    let device = device.map(|name| format!(" --device {name}")).unwrap_or_default();
    let prompt = if vocabulary.encode("TOINON").is_ok() { " --prompt TOINON" } else { "" };
    print(&format!("  {program} generate {run}{device}{prompt} --temperature 0.6"))?;
    print(&format!("  {program} evaluate {run}{device} --split train"))
}

/// The program as it was called, so that commands that begin with it can be copied.
pub(super) fn program() -> String {
    quoted(&std::env::args().next().unwrap_or_else(|| "poquelin".to_owned()))
}

/// A word as a shell reads it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
