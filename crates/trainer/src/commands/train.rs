//! `poquelin train`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn_train::renderer::MetricsRenderer;
use burn_train::renderer::tui::TuiMetricsRendererWrapper;
use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use poquelin_data::{ChunkLoader, Corpus, Splits, Vocabulary};
use poquelin_model::Seed;
use serde::Serialize;

use super::{print, print_json};
use crate::cli::TrainArgs;
use crate::config::Config;
use crate::error::Error;
use crate::evaluation::Evaluation;
use crate::learning::adamw::AdamW;
use crate::learning::loader::StepLoader;
use crate::learning::metrics::{NoMetricLogger, Quantity, QuantityMetric};
use crate::learning::model::{LanguageModel, OptimizerTap};
use crate::learning::schedule::Schedule;
use crate::learning::strategy::{Job, TruncatedBptt};
use crate::model_file::{self, Progress};
use crate::progress::{Console, ProgressRenderer, Style, duration, thousands};
use crate::run_folder::RunFolder;
use crate::sampling::{Sampling, write_sample};
use crate::scores::Score;
use crate::signals::Signals;
use crate::text::{Fingerprint, TextSource};
use crate::threads;

/// The sample at the end, in characters.
const LAST_SAMPLE: usize = 400;

/// How a run ended, as `summary.json` and `--json` have it.
#[derive(Serialize)]
struct Summary {
    run: String,
    epochs: usize,
    steps: u64,
    parameters: usize,
    backend: &'static str,
    seconds: f64,
    chars_per_second: f64,
    train: Score,
    valid: Option<Score>,
    test: Score,
}

/// Trains a model.
///
/// # Errors
///
/// Where the input cannot be used, before anything is written; where the run fails; and where it
/// was interrupted, after it was saved.
pub fn run(args: &TrainArgs) -> Result<(), Error> {
    let config = load_config(args)?;
    threads::run(config.train.threads, || train(args, &config))
}

fn train(args: &TrainArgs, config: &Config) -> Result<(), Error> {
    let began = Instant::now();
    check_terminal(args)?;
    let folder = run_path(args)?;
    RunFolder::check_vacant(&folder, args.force)?;
    let choice = args.device.choice()?;

    let console = Console::start(style(args));
    let source = TextSource::new(&config.data.text);
    console.phase(Some(&format!("reading {}", source.name())));
    let corpus = Arc::new(source.read(&config.data, None)?);
    let device = choice.open()?;
    let parts = Parts::new(config, &corpus, &device)?;
    let mut stored = config.clone();
    stored.data.text = source.lasting_name();
    let vocabulary = corpus.vocabulary().clone();
    let fingerprint = Fingerprint::of(&corpus);

    let seed = Seed::new(config.train.seed);
    let model_config = config.model(vocabulary.len());
    let gradient_device = device.clone().autodiff();
    let tap = OptimizerTap::default();
    let network = model_config.init(seed.derive("weights", 0), &gradient_device);
    let parameters = network.num_params();
    let signals = Signals::watch().map_err(Error::Signals)?;
    let mut run = RunFolder::create(&folder, &stored, &vocabulary, &fingerprint)?;
    console.phase(None);
    console.line(&format!(
        "{}: {} characters, {} of them distinct; {} parameters on {}",
        source.name(),
        thousands(corpus.len() as u64),
        vocabulary.len(),
        thousands(parameters as u64),
        choice.backend,
    ));

    let strategy = Arc::new(TruncatedBptt::new(Job {
        config: config.clone(),
        model_config,
        vocabulary: vocabulary.clone(),
        run: run.clone(),
        valid: parts.valid,
        test: parts.test,
        console: console.clone(),
        signals,
        tap: tap.clone(),
        device: gradient_device,
    }));
    launch(args, config, &console, &parts.train, strategy.clone(), LanguageModel { network, tap });
    let ending = strategy.ending();
    console.finish();
    drop(console);
    let ending = ending?;
    let place = Progress { step: ending.steps, epoch: ending.epochs, chunk: 0 };
    let bytes =
        model_file::to_bytes(&ending.model.network, &model_config, &vocabulary, place, None);
    run.write_model(&bytes)?;
    let summary = Summary {
        run: folder.display().to_string(),
        epochs: ending.epochs,
        steps: ending.steps,
        parameters,
        backend: choice.backend.name(),
        seconds: began.elapsed().as_secs_f64(),
        chars_per_second: ending.chars as f64 / ending.train_seconds,
        train: ending.train,
        valid: ending.valid,
        test: ending.test,
    };
    run.finish(&summary)?;

    let sampling =
        Sampling { temperature: config.sample.temperature, seed: seed.derive("last sample", 0) };
    let prompt = &config.sample.prompt;
    let sample = write_sample(&ending.model.network, &vocabulary, prompt, LAST_SAMPLE, sampling);
    report(args, &summary, &vocabulary, &sample)?;
    if args.json { print_json(&summary) } else { Ok(()) }
}

fn load_config(args: &TrainArgs) -> Result<Config, Error> {
    let mut config = Config::load(args.config.config.as_deref(), &args.config.assignments)?;
    if let Some(path) = &args.text {
        config.data.text = path.to_string_lossy().into_owned();
    }
    Ok(config)
}

/// The folder of the run: by its name, or by that of its configuration.
fn run_path(args: &TrainArgs) -> Result<PathBuf, Error> {
    let config = args.config.config.as_ref().and_then(|path| path.file_stem());
    let name = config.map_or("quickstart".into(), |stem| stem.to_string_lossy());
    RunFolder::locate(args.run.as_deref().unwrap_or(&name))
}

/// burn-train's dashboard draws on standard output and reads keys.
fn check_terminal(args: &TrainArgs) -> Result<(), Error> {
    if args.tui && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let expected = "a terminal on standard input and output";
        return Err(Error::Option { flag: "--tui", expected, got: "none".to_owned() });
    }
    Ok(())
}

fn style(args: &TrainArgs) -> Style {
    match (args.tui, args.plain) {
        (true, _) => Style::Silent,
        (false, true) => Style::Plain,
        (false, false) => Style::Automatic,
    }
}

/// The parts of the corpus, each in the shape in which it is read.
struct Parts {
    train: ChunkLoader,
    valid: Option<Evaluation>,
    test: Evaluation,
}

impl Parts {
    fn new(
        config: &Config,
        corpus: &Arc<Corpus>,
        device: &burn::tensor::Device,
    ) -> Result<Self, Error> {
        let data = &config.data;
        let splits = Splits::cut(corpus.len(), data.test, data.valid);
        let seed = Seed::new(config.train.seed).derive("offsets", 0).value();
        let train = ChunkLoader::training(
            corpus.clone(),
            splits.train,
            data.batch,
            data.sequence,
            seed,
            device,
        )
        .map_err(|source| Error::Layout { split: "train", source })?;
        let evaluation = |split, range| Evaluation::new(split, corpus.clone(), range, device);
        let valid = (data.valid > 0.0).then(|| evaluation("valid", splits.valid)).transpose()?;
        Ok(Self { train, valid, test: evaluation("test", splits.test)? })
    }
}

/// Hands the model to burn-train.
fn launch(
    args: &TrainArgs,
    config: &Config,
    console: &Arc<Console>,
    train: &ChunkLoader,
    strategy: Arc<TruncatedBptt>,
    model: LanguageModel,
) {
    let optimizer = &config.optimizer;
    let adam_w = AdamW {
        beta_1: optimizer.beta_1 as f32,
        beta_2: optimizer.beta_2 as f32,
        epsilon: optimizer.epsilon as f32,
        weight_decay: optimizer.weight_decay as f32,
    };
    let steps = (0..config.train.epochs).map(|epoch| train.chunks(epoch) as u64).sum();
    let schedule = Schedule::new(&config.schedule, optimizer.learning_rate, steps);
    let interrupter = Interrupter::new();
    let renderer: Box<dyn MetricsRenderer> = match args.tui {
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
    let result = training.launch(Learner::new(model, adam_w.into(), schedule));
    // The dashboard gives the terminal back when it is dropped.
    drop(result);
}

/// Says how the run ended, and what to do with it.
fn report(
    args: &TrainArgs,
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
    if let Some(valid) = &summary.valid {
        print(&part("valid", valid))?;
    }
    print(&part("test", &summary.test))?;
    print(&format!("\n{sample}\n"))?;
    print(&format!(
        "{} steps in {}; the run is in {}\nnow try",
        thousands(summary.steps),
        duration(summary.seconds),
        summary.run
    ))?;
    // As the program was called, so that the commands can be copied.
    let program = quoted(&std::env::args().next().unwrap_or_else(|| "poquelin".to_owned()));
    let run = quoted(&summary.run);
    let device = args.device.device.as_ref();
    let device = device.map(|name| format!(" --device {name}")).unwrap_or_default();
    let prompt = if vocabulary.encode("TOINON").is_ok() { " --prompt TOINON" } else { "" };
    print(&format!("  {program} generate {run}{device}{prompt} --temperature 0.6"))?;
    print(&format!("  {program} evaluate {run}{device} --split train"))
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
