//! What is known of the trials of a sweep: those that have ended, and those that have not.

use std::cmp::Ordering;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Table;

use super::super::training::Summary;
use crate::config::Config;
use crate::error::Error;
use crate::run_folder::{RunFolder, SweepFolder};
use crate::sweep::{Assignments, Sweep, Trial};
use crate::text::Fingerprint;

/// A trial that has ended, as a line of `trials.jsonl` and of `--json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The folder's name.
    pub(super) trial: String,
    /// The searched keys and their values.
    pub(super) set: Table,
    /// The lowest loss on the validation part, in nats per character, and its epoch.
    pub(super) valid: Option<f64>,
    pub(super) best_epoch: Option<usize>,
    /// The loss over that epoch while it was trained on.
    pub(super) train: Option<f64>,
    pub(super) epochs: Option<usize>,
    pub(super) parameters: Option<usize>,
    pub(super) seconds: Option<f64>,
    pub(super) chars_per_second: Option<f64>,
    /// The step at which it diverged, if it did.
    pub(super) diverged_at_step: Option<u64>,
}

impl Record {
    /// Of the run at `path`, which ended well.
    pub(super) fn finished(
        path: &Path,
        values: &Assignments,
        summary: &Summary,
    ) -> Result<Self, Error> {
        let measured = RunFolder::open(&path.to_string_lossy())?.measurements()?;
        let best = measured.lowest("valid");
        Ok(Self {
            diverged_at_step: None,
            valid: best.map(|(_, nats)| nats),
            best_epoch: best.map(|(epoch, _)| epoch),
            train: best.and_then(|(epoch, _)| measured.at("train", epoch)),
            epochs: Some(summary.epochs),
            parameters: Some(summary.parameters),
            seconds: Some(summary.seconds),
            chars_per_second: Some(summary.chars_per_second),
            ..Self::diverged(path, values, summary.steps)
        })
    }

    /// Of the run at `path`, which diverged.
    pub(super) fn diverged(path: &Path, values: &Assignments, step: u64) -> Self {
        Self {
            trial: name(path),
            set: values.iter().cloned().collect(),
            valid: None,
            best_epoch: None,
            train: None,
            epochs: None,
            parameters: None,
            seconds: None,
            chars_per_second: None,
            diverged_at_step: Some(step),
        }
    }

    /// The lower loss comes first, and none last.
    pub(super) fn better(&self, other: &Self) -> Ordering {
        let loss = |record: &Self| record.valid.unwrap_or(f64::INFINITY);
        loss(self).total_cmp(&loss(other))
    }
}

/// How a trial stands.
pub(super) enum Standing {
    /// It is done.
    Ended(Record),
    /// It began, in the folder of this number.
    Unfinished(usize),
    /// It is to get the folder of this number.
    New(usize),
}

/// How all trials stand.
pub(super) struct Standings {
    /// In the order of the sweep.
    pub(super) trials: Vec<Standing>,
    /// How many folders belong to no trial of the sweep any more.
    strangers: usize,
}

impl Standings {
    /// Finds the trials of a sweep by their configurations and their text.
    pub(super) fn find(
        folder: &SweepFolder,
        sweep: &Sweep,
        text: &Fingerprint,
    ) -> Result<Self, Error> {
        let diverged: Vec<Record> = folder.trials()?;
        let mut there = Vec::new();
        for number in folder.numbers()? {
            let run = RunFolder::open(&folder.trial(number).to_string_lossy())?;
            let same_text = run.fingerprint()?.as_ref() == Some(text);
            there.push((number, run.config()?.filter(|_| same_text).map(placeless)));
        }
        let taken: Vec<usize> = there.iter().map(|(number, _)| *number).collect();
        let mut free = (1..).filter(|number| !taken.contains(number));
        let mut trials = Vec::new();
        for trial in &sweep.trials {
            let wanted = Some(placeless(trial.config.clone()));
            let found = there.iter().position(|(_, config)| *config == wanted);
            trials.push(match found.map(|at| there.swap_remove(at).0) {
                Some(number) => standing(folder, number, trial, &diverged)?,
                None => Standing::New(free.next().expect("there is no last number")),
            });
        }
        Ok(Self { trials, strangers: there.len() })
    }

    /// The trials that have ended.
    pub(super) fn ended(&self) -> Vec<Record> {
        let ended = |standing: &Standing| match standing {
            Standing::Ended(record) => Some(record.clone()),
            Standing::Unfinished(_) | Standing::New(_) => None,
        };
        let mut records: Vec<Record> = self.trials.iter().filter_map(ended).collect();
        records.sort_by(Record::better);
        records
    }

    /// What is worth saying of them before the first one trains.
    pub(super) fn notes(&self, folder: &SweepFolder, sweep: &Sweep) -> Result<Vec<String>, Error> {
        let (all, mut notes) = (self.trials.len(), Vec::new());
        if all < sweep.asked {
            notes.push(format!("only {all} of {} trials are different", sweep.asked));
        }
        let path = folder.path().display();
        if folder.description()?.is_some_and(|text| text != sweep.description) {
            let kept = |trial: &&Standing| !matches!(trial, Standing::New(_));
            let kept = self.trials.iter().filter(kept).count();
            notes.push(format!(
                "the sweep is not described as it was; {kept} of its {all} trials are in {path} \
                 already"
            ));
        }
        if self.strangers > 0 {
            let others = self.strangers;
            notes.push(format!(
                "{others} of the trials in {path} have another configuration or text; they stay \
                 and count no more"
            ));
        }
        if folder.description()?.is_some() {
            let ended = self.ended().len();
            notes.push(format!("{path} goes on: {ended} of {all} trials have ended"));
        }
        Ok(notes)
    }
}

fn standing(
    folder: &SweepFolder,
    number: usize,
    trial: &Trial,
    known: &[Record],
) -> Result<Standing, Error> {
    let path = folder.trial(number);
    let run = RunFolder::open(&path.to_string_lossy())?;
    if let Some(summary) = run.summary::<Summary>()? {
        let record = Record::finished(&path, &trial.values, &summary)?;
        let train = &trial.config.train;
        // A run that was given more epochs has a summary from before.
        let since = summary.epochs.saturating_sub(record.best_epoch.unwrap_or(summary.epochs));
        let stalled = train.patience > 0 && since >= train.patience;
        if stalled || summary.epochs >= train.epochs {
            return Ok(Standing::Ended(record));
        }
    }
    let diverged = known.iter().find(|record| record.trial == name(&path));
    Ok(match diverged.and_then(|record| record.diverged_at_step) {
        Some(step) => Standing::Ended(Record::diverged(&path, &trial.values, step)),
        None => Standing::Unfinished(number),
    })
}

/// A configuration that does not say where the text lies: what it holds is compared by itself.
fn placeless(mut config: Config) -> Config {
    config.data.text.clear();
    config
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
