//! `poquelin sweep`.

mod record;
mod report;
mod trial;

use self::record::{Record, Standing, Standings};
use self::trial::Site;
use super::print_json;
use super::training::{Parts, Text, check_device, program, quoted};
use crate::cli::{ShowArgs, SweepArgs};
use crate::error::Error;
use crate::progress::{Console, Style, to_stderr};
use crate::run_folder::{RunFolder, SweepFolder};
use crate::signals::{Signal, Signals};
use crate::sweep::{Sweep, written};
use crate::text::TextSource;
use crate::threads;

/// Trains with every configuration of a sweep that has not been trained with, and compares them.
///
/// # Errors
///
/// Where the file or what it names cannot be used, before anything is written; where a trial fails
/// otherwise than by diverging; and where it was interrupted, after it was saved.
pub fn run(args: &SweepArgs) -> Result<(), Error> {
    let signals = Signals::watch().map_err(Error::Signals)?;
    let sweep = Sweep::load(&args.file, args.text.as_deref())?;
    // It is the same for all, and so is all that decides how the text is read.
    let threads = sweep.trials[0].config.train.threads;
    threads::run(threads, || search(args, &sweep, signals))
}

fn search(args: &SweepArgs, sweep: &Sweep, signals: Signals) -> Result<(), Error> {
    let stem = args.file.file_stem().unwrap_or_default().to_string_lossy();
    let path = RunFolder::locate(args.run.as_deref().unwrap_or(&stem))?;
    SweepFolder::check(&path)?;
    let choice = args.device.choice()?;
    let console = Console::start(if args.plain { Style::Plain } else { Style::Automatic });
    let data = &sweep.trials[0].config.data;
    let source = TextSource::new(&data.text);
    console.phase(Some(&format!("reading {}", source.name())));
    let text = Text::new(source.read(data, None)?);
    let device = choice.open()?;
    for trial in &sweep.trials {
        check_device(&trial.config, &device)?;
        Parts::new(&trial.config, &text.corpus, &device)?;
    }
    if let Some(signal) = signals.received() {
        return Err(Error::InterruptedEarly(signal));
    }
    let folder = SweepFolder::open(&path)?;
    let standings = Standings::find(&folder, sweep, &text.fingerprint)?;
    console.phase(None);
    for line in standings.notes(&folder, sweep)? {
        console.line(&line);
    }
    // The trials show themselves.
    drop(console);
    folder.describe(&sweep.description)?;
    let site = Site {
        show: ShowArgs { plain: args.plain, ..ShowArgs::default() },
        device: args.device.device.as_deref(),
        text,
        choice,
        gradient_device: device.autodiff(),
        signals,
    };
    let records = train_all(&folder, sweep, standings, &site)?;
    let figure = report::figure(&records, &sweep.dimensions);
    let figure = figure.map(|figure| folder.write_figure(&figure.to_svg())).transpose()?;
    if args.json {
        return records.iter().try_for_each(print_json);
    }
    report::print_table(&records, &sweep.dimensions)?;
    report::print_next(args, sweep, &folder, &records, figure.as_deref())
}

/// Trains what is to be trained; gives all trials, the best first.
fn train_all(
    folder: &SweepFolder,
    sweep: &Sweep,
    standings: Standings,
    site: &Site<'_>,
) -> Result<Vec<Record>, Error> {
    let all = sweep.trials.len();
    let mut records = standings.ended();
    folder.set_trials(&records)?;
    for (index, (trial, standing)) in sweep.trials.iter().zip(standings.trials).enumerate() {
        let number = match standing {
            Standing::Ended(_) => continue,
            Standing::Unfinished(number) | Standing::New(number) => number,
        };
        let interrupted = |signal: Signal, done, saved| Error::SweepInterrupted {
            signal,
            done,
            all,
            saved,
            command: this_command(),
        };
        if let Some(signal) = site.signals.received() {
            return Err(interrupted(signal, records.len(), None));
        }
        let values: Vec<String> = trial.values.iter().map(assignment).collect();
        let heading = format!("trial {} of {all}: {}", index + 1, values.join(" "));
        let path = folder.trial(number);
        let ended = match site.train(&path, trial, &heading) {
            Ok(summary) => Record::finished(&path, &trial.values, &summary)?,
            Err(Error::Diverged { step, .. }) => {
                let shown = path.display();
                to_stderr(&format!("{shown} diverged at step {step}; on with the others"));
                Record::diverged(&path, &trial.values, step)
            }
            Err(Error::Interrupted { signal, run, step }) => {
                return Err(interrupted(signal, records.len(), Some((run, step))));
            }
            Err(error) => return Err(error),
        };
        records.push(ended);
        records.sort_by(Record::better);
        folder.set_trials(&records)?;
    }
    records.sort_by(Record::better);
    Ok(records)
}

/// A value as `--set` takes it.
fn assignment((key, value): &(String, toml::Value)) -> String {
    format!("{key}={}", written(value))
}

/// What the program was called with, as a shell reads it.
fn this_command() -> String {
    let arguments = std::env::args().skip(1).map(|word| quoted(&word));
    std::iter::once(program()).chain(arguments).collect::<Vec<_>>().join(" ")
}
