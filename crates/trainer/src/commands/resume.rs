//! `poquelin resume`.

use std::time::Instant;

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;

use super::print_json;
use super::training::{
    Parts, Ready, Summary, Text, adam_w, check_device, check_terminal, finish, fresh_network,
    machine, remove_replaced, style, with_flags,
};
use crate::cli::ResumeArgs;
use crate::config::{Changes, Config};
use crate::device::{DeviceChoice, DeviceError};
use crate::error::Error;
use crate::learning::model::LanguageModel;
use crate::learning::optimizer_state::TappedAdamW;
use crate::learning::strategy::{Restored, Standing};
use crate::ledger::{Best, Progress};
use crate::model_file::{Header, Machine};
use crate::progress::{Console, thousands};
use crate::run_folder::{Newest, RunFolder};
use crate::signals::Signals;
use crate::text::TextSource;
use crate::threads;

/// Goes on with a run.
///
/// # Errors
///
/// Where the run, its text or the device is not there, or the run would not be the same; where it
/// fails; and where it was interrupted, after it was saved.
pub fn run(args: &ResumeArgs) -> Result<(), Error> {
    let began = Instant::now();
    let signals = Signals::watch().map_err(Error::Signals)?;
    check_terminal(&args.show)?;
    let folder = RunFolder::resume(&args.run)?;
    let newest = folder.newest_checkpoint()?;
    let header = newest.as_ref().map(|newest| &newest.contents.header);
    let config = wanted(args, &folder, header)?;
    let changes = match header {
        Some(header) => check_changes(&folder, header, &config)?,
        None => Vec::new(),
    };
    threads::run(config.train.threads, || {
        resume(args, Beginning { folder, newest, config, changes, signals, began })
    })
}

/// What is known of a run before its text is read.
struct Beginning {
    folder: RunFolder,
    newest: Option<Newest>,
    config: Config,
    /// What is not as it was.
    changes: Vec<String>,
    signals: Signals,
    began: Instant,
}

fn resume(args: &ResumeArgs, beginning: Beginning) -> Result<(), Error> {
    let Beginning { mut folder, newest, mut config, changes, signals, began } = beginning;
    let console = Console::start(style(&args.show));
    if let Some(newest) = &newest
        && is_finished(&newest.contents.header, &config)
        && let Some(summary) = folder.summary::<Summary>()?
        && summary.steps == newest.contents.header.progress.step
    {
        console.line(&format!(
            "{} is finished, with {} epochs; --epochs gives it more",
            folder.path().display(),
            summary.epochs
        ));
        // Where the process was killed right behind the summary.
        remove_replaced(&mut folder);
        return if args.show.json { print_json(&summary) } else { Ok(()) };
    }

    let source = TextSource::new(&config.data.text);
    console.phase(Some(&format!("reading {}", source.name())));
    let read = source.read(&config.data, None);
    let text = Text::new(match args.text {
        Some(_) => read?,
        None => read.map_err(Error::where_text_was)?,
    });
    let stored = newest.as_ref().map(|newest| newest.contents.header.clone());
    if let Some(header) = &stored {
        check_text(&source.name(), &text, header)?;
    }
    let was = stored.as_ref().and_then(|header| header.training.as_ref());
    let was = was.map(|training| training.machine.clone());
    let choice = device(args, was.as_ref())?;
    let device = choice.open()?;
    check_device(&config, &device)?;
    let parts = Parts::new(&config, &text.corpus, &device)?;
    let gradient_device = device.autodiff();
    config.data.text = source.lasting_name();

    let adam_w = adam_w(&config);
    let (restored, warnings) =
        revive(&folder, newest, &config, &text, &parts, &adam_w, &gradient_device)?;
    let Restored { network, optimizer, standing } = restored;
    if let Some(signal) = signals.received() {
        return Err(Error::InterruptedEarly(signal));
    }
    folder.describe(&config, &text.vocabulary, &text.fingerprint)?;
    folder.set_metrics(&standing.ledger.metrics)?;
    console.phase(None);
    for warning in warnings {
        console.line(&format!("warning: {warning}"));
    }
    for change in changes {
        console.line(&format!("changed: {change}"));
    }
    let Progress { step, epoch, chunk } = standing.progress;
    console.line(&format!(
        "{} goes on behind step {} (epoch {}, chunk {chunk}) on {}: {}; {} parameters",
        folder.path().display(),
        thousands(step),
        epoch + 1,
        choice.backend,
        exactness(was.as_ref(), &machine(choice)),
        thousands(network.num_params() as u64),
    ));
    finish(Ready {
        show: &args.show,
        device: args.device.device.as_deref(),
        began,
        config,
        text,
        parts,
        choice,
        gradient_device,
        console,
        signals,
        folder,
        network,
        adam_w,
        optimizer,
        standing,
    })
}

/// Puts a run where its newest checkpoint was, or else at its beginning. Says what is lost of it.
pub(super) fn revive(
    folder: &RunFolder,
    newest: Option<Newest>,
    config: &Config,
    text: &Text,
    parts: &Parts,
    adam_w: &TappedAdamW,
    device: &Device,
) -> Result<(Restored, Vec<String>), Error> {
    let Some(newest) = newest else {
        let network = fresh_network(config, &text.vocabulary, device);
        let optimizer = ModuleOptimizer::from(adam_w.clone());
        return Ok((Restored { network, optimizer, standing: Standing::default() }, Vec::new()));
    };
    check_place(&newest, parts)?;
    let Newest { path, contents, damaged } = newest;
    let mut warnings = Vec::new();
    let was = contents.header.config.average.kind;
    let mut restored =
        Restored::new(&path, contents, adam_w.clone(), device)?.averaged(was, config.average.kind);
    read_best(folder, text, device, &mut restored.standing, &mut warnings)?;
    for (path, error) in damaged {
        folder.put_away(&path)?;
        warnings.push(format!("{error}; the checkpoint before it is taken"));
    }
    Ok((restored, warnings))
}

/// The configuration to go on with: the run's own, or the one given, and what is set.
fn wanted(args: &ResumeArgs, folder: &RunFolder, header: Option<&Header>) -> Result<Config, Error> {
    let assignments = &args.config.assignments;
    let config = match &args.config.config {
        Some(path) => Config::load(Some(path), assignments)?,
        None => {
            let own = folder.config()?.or_else(|| header.map(|header| header.config.clone()));
            let missing = || Error::NotARun {
                path: folder.path().to_owned(),
                reason: "it has no configuration and no checkpoint".to_owned(),
            };
            own.ok_or_else(missing)?.with(assignments)?
        }
    };
    with_flags(config, args.text.as_deref(), args.epochs)
}

/// What changes, and may.
pub(super) fn check_changes(
    folder: &RunFolder,
    header: &Header,
    config: &Config,
) -> Result<Vec<String>, Error> {
    let run = folder.path().to_owned();
    let Changes { fixed, free } = Changes::between(&header.config, config);
    if !fixed.is_empty() {
        return Err(Error::RunChanged { run, differences: fixed });
    }
    let (Progress { epoch, chunk, .. }, got) = (header.progress, config.train.epochs);
    let done = epoch + usize::from(chunk > 0);
    if got < done {
        return Err(Error::TooFewEpochs { run, done: epoch, under_way: chunk > 0, got });
    }
    Ok(free)
}

fn is_finished(header: &Header, config: &Config) -> bool {
    let ledger = header.training.as_ref().map(|training| &training.ledger);
    let (epoch, patience) = (header.progress.epoch, config.train.patience);
    let stalled = ledger.is_some_and(|ledger| ledger.has_stalled(epoch, patience));
    header.progress.chunk == 0 && (stalled || epoch >= config.train.epochs)
}

fn check_text(name: &str, text: &Text, header: &Header) -> Result<(), Error> {
    let difference = match text.vocabulary.difference(&header.vocabulary) {
        Some(difference) => Some(difference),
        None => text.fingerprint.difference(&header.corpus),
    };
    match difference {
        Some(difference) => Err(Error::CorpusChanged { name: name.to_owned(), difference }),
        None => Ok(()),
    }
}

/// The device asked for, or that of the run if this build has it.
fn device(args: &ResumeArgs, was: Option<&Machine>) -> Result<DeviceChoice, DeviceError> {
    let own = was.and_then(|machine| machine.device.parse().ok());
    let own = own.filter(|choice: &DeviceChoice| choice.backend.is_compiled_in());
    match (&args.device.device, own) {
        (None, Some(own)) => Ok(own),
        _ => args.device.choice(),
    }
}

/// Refuses a place that the text does not have.
fn check_place(newest: &Newest, parts: &Parts) -> Result<(), Error> {
    let Progress { step, epoch, chunk } = newest.contents.header.progress;
    let before: u64 = (0..epoch).map(|epoch| parts.train.chunks(epoch) as u64).sum();
    if chunk <= parts.train.chunks(epoch) && before + chunk as u64 == step {
        return Ok(());
    }
    Err(Error::Damaged {
        path: newest.path.clone(),
        reason: format!("step {step} is not chunk {chunk} behind {epoch} epochs of the text"),
    })
}

/// Finds the best model so far. Its own file is newer than the checkpoint where the process was
/// killed between the two.
fn read_best(
    folder: &RunFolder,
    text: &Text,
    device: &Device,
    standing: &mut Standing,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let mut lost = |reason: String| warnings.push(format!("{reason}; the best model is lost"));
    let found = match folder.read_best() {
        Ok(found) => found,
        Err(error) => {
            let path = match &error {
                Error::Damaged { path, .. } | Error::Weights { path, .. } => path,
                _ => return Err(error),
            };
            folder.put_away(path)?;
            lost(error.to_string());
            standing.ledger.best = None;
            return Ok(());
        }
    };
    let had = standing.ledger.best.take();
    let Some((path, mut contents)) = found else {
        if had.is_some() {
            lost("its file is gone".to_owned());
        }
        return Ok(());
    };
    let (epoch, valid) = (contents.header.progress.epoch, contents.header.scores.valid);
    if contents.header.corpus == text.fingerprint
        && let Some(valid) = valid
    {
        let network = contents.network(&path, &device.clone().inner())?;
        standing.ledger.best = Some(Best { epoch, valid });
        standing.best = Some(LanguageModel { network });
    }
    Ok(())
}

/// How what follows relates to the run as it would have been.
pub(super) fn exactness(was: Option<&Machine>, now: &Machine) -> String {
    let tuned = cfg!(any(feature = "fusion", feature = "autotune"));
    match was {
        None => "from the beginning, for it has no checkpoint".to_owned(),
        Some(was) if (&was.device, was.threads) != (&now.device, now.threads) => format!(
            "the same run to rounding, for it was on {} with {} threads and is on {} with {}",
            was.device, was.threads, now.device, now.threads
        ),
        Some(was) if was.processor != now.processor => {
            let before = Some(was.processor.as_str()).filter(|processor| !processor.is_empty());
            format!(
                "the same run to rounding, for its processor was {} and is {}",
                before.unwrap_or("not written down"),
                now.processor
            )
        }
        Some(_) if tuned => {
            "the same run to rounding, for this build has fusion or autotune".to_owned()
        }
        Some(_) => "the same bits as without a break".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bits_are_promised_where_nothing_computes_otherwise() {
        let machine = |device: &str, processor: &str, threads| Machine {
            device: device.to_owned(),
            processor: processor.to_owned(),
            threads,
        };
        let now = machine("ndarray", "x86_64 with vectors of 16", 2);
        for (was, words) in [
            (
                machine("wgpu", "a card", 2),
                "it was on wgpu with 2 threads and is on ndarray with 2",
            ),
            (machine("ndarray", "x86_64 with vectors of 16", 4), "on ndarray with 4 threads"),
            (
                machine("ndarray", "aarch64 with vectors of 4", 2),
                "was aarch64 with vectors of 4 and",
            ),
            (machine("ndarray", "", 2), "its processor was not written down and is x86_64"),
        ] {
            let told = exactness(Some(&was), &now);
            assert!(told.starts_with("the same run to rounding, for "), "{told}");
            assert!(told.contains(words), "{told}");
        }
        if !cfg!(any(feature = "fusion", feature = "autotune")) {
            assert_eq!(exactness(Some(&now), &now), "the same bits as without a break");
        }
    }
}
