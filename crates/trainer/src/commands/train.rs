//! `poquelin train`.

use std::path::PathBuf;
use std::time::Instant;

use burn::optim::ModuleOptimizer;

use super::resume;
use super::training::{
    Parts, Ready, Text, adam_w, check_device, check_terminal, finish, fresh_network, style,
    with_flags,
};
use crate::cli::{ResumeArgs, TrainArgs};
use crate::config::Config;
use crate::error::Error;
use crate::learning::strategy::Standing;
use crate::progress::{Console, thousands};
use crate::run_folder::RunFolder;
use crate::signals::Signals;
use crate::text::TextSource;
use crate::threads;

/// Trains a model.
///
/// # Errors
///
/// Where the input cannot be used, before anything is written; where the run fails; and where it
/// was interrupted, after it was saved.
pub fn run(args: TrainArgs) -> Result<(), Error> {
    let began = Instant::now();
    if let Some(run) = args.resume {
        let TrainArgs { config, text, epochs, device, show, .. } = args;
        return resume::run(&ResumeArgs { run, config, text, epochs, device, show });
    }
    let signals = Signals::watch().map_err(Error::Signals)?;
    let config = load_config(&args)?;
    threads::run(config.train.threads, || train(&args, config, signals, began))
}

fn train(
    args: &TrainArgs,
    mut config: Config,
    signals: Signals,
    began: Instant,
) -> Result<(), Error> {
    check_terminal(&args.show)?;
    let path = run_path(args)?;
    RunFolder::check_vacant(&path, args.force)?;
    let choice = args.device.choice()?;

    let console = Console::start(style(&args.show));
    let source = TextSource::new(&config.data.text);
    console.phase(Some(&format!("reading {}", source.name())));
    let text = Text::new(source.read(&config.data, None)?);
    let device = choice.open()?;
    check_device(&config, &device)?;
    let parts = Parts::new(&config, &text.corpus, &device)?;
    config.data.text = source.lasting_name();

    let gradient_device = device.autodiff();
    let network = fresh_network(&config, &text.vocabulary, &gradient_device);
    if let Some(signal) = signals.received() {
        return Err(Error::InterruptedEarly(signal));
    }
    let folder =
        RunFolder::create(&path, args.force, &config, &text.vocabulary, &text.fingerprint)?;
    console.phase(None);
    if let Some(aside) = folder.replaces().next_back() {
        let (path, aside) = (path.display(), aside.display());
        console.line(&format!("{path} is set aside as {aside} until this run has ended well"));
    }
    console.line(&format!(
        "{}: {} characters, {} of them distinct; {} parameters on {}",
        source.name(),
        thousands(text.corpus.len() as u64),
        text.vocabulary.len(),
        thousands(burn::module::Module::num_params(&network) as u64),
        choice.backend,
    ));
    let adam_w = adam_w(&config);
    finish(Ready {
        show: &args.show,
        device: args.device.device.as_deref(),
        began,
        optimizer: ModuleOptimizer::from(adam_w.clone()),
        adam_w,
        config,
        text,
        parts,
        choice,
        gradient_device,
        console,
        signals,
        folder,
        network,
        standing: Standing::default(),
    })
}

fn load_config(args: &TrainArgs) -> Result<Config, Error> {
    let config = Config::load(args.config.config.as_deref(), &args.config.assignments)?;
    with_flags(config, args.text.as_deref(), args.epochs)
}

/// The folder of the run: by its name, or by that of its configuration.
fn run_path(args: &TrainArgs) -> Result<PathBuf, Error> {
    let config = args.config.config.as_ref().and_then(|path| path.file_stem());
    let name = config.map_or("quickstart".into(), |stem| stem.to_string_lossy());
    RunFolder::locate(args.run.as_deref().unwrap_or(&name))
}
