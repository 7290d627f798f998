//! How the folder of a run is laid out. No other file knows. (`sweeps.rs` has that of a sweep.)
//!
//! ```text
//! runs/NAME/
//!   config.toml          every key and value of the run
//!   vocabulary.json      the symbols, in the order of their tokens
//!   corpus.json          which text it was
//!   metrics.jsonl        a line per epoch and split
//!   events.jsonl         a line per start, interrupt, failed checkpoint, ...
//!   checkpoints/
//!     step-00001800.safetensors           the newest few
//!     step-00001700.safetensors.damaged   one that was found damaged
//!     step-00001900.safetensors.diverged  one with weights that give no number
//!     best.safetensors                    the best on validation text
//!   divergence.json      the step at which the loss or the gradient was no number
//!   model.safetensors    the finished model
//!   summary.json         how it ended
//!   curves.svg           its losses, once somebody has drawn them
//!   replaces.json        the folders of the runs that this one replaces, until it is finished
//!   .lock                locked by the process that writes here, as long as it lives
//! ```

mod checkpoints;
mod files;
mod metrics;
mod sweeps;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use poquelin_data::Vocabulary;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::checkpoints::{Model, Newest, find_model};
use self::files::{append, check_idle, lock, make_folder, remove_unfinished, replace};
pub use self::metrics::{Measurement, Measurements};
pub use self::sweeps::SweepFolder;
use crate::config::Config;
use crate::error::Error;
use crate::text::Fingerprint;

const CONFIG: &str = "config.toml";
const VOCABULARY: &str = "vocabulary.json";
const CORPUS: &str = "corpus.json";
const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "events.jsonl";
const DIVERGENCE: &str = "divergence.json";
const CHECKPOINTS: &str = "checkpoints";
const BEST: &str = "best.safetensors";
const MODEL: &str = "model.safetensors";
const SUMMARY: &str = "summary.json";
const CURVES: &str = "curves.svg";
const RUNS: &str = "runs";
const UNFINISHED: &str = ".unfinished";
const DAMAGED: &str = ".damaged";
const DIVERGED: &str = ".diverged";
const REPLACES: &str = "replaces.json";
const LOCK: &str = ".lock";

/// All that stands in the folder of a run.
const OWN: [&str; 12] = [
    CONFIG,
    VOCABULARY,
    CORPUS,
    METRICS,
    EVENTS,
    CHECKPOINTS,
    DIVERGENCE,
    MODEL,
    SUMMARY,
    CURVES,
    REPLACES,
    LOCK,
];

/// The folder of a run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The names of the folders, beside this one, of the runs that it replaces, until it is finished.
    replaces: Vec<String>,
    /// Held by whoever writes here. The system lets go of it when the process ends, however it does.
    lock: Option<Arc<File>>,
}

impl RunFolder {
    /// Where a run of that name stands: below `runs/`, unless the name is a path.
    ///
    /// # Errors
    ///
    /// Where the name is empty.
    pub fn locate(name: &str) -> Result<PathBuf, Error> {
        if name.is_empty() {
            let (flag, expected) = ("--run", "the name of a run");
            return Err(Error::Option { flag, expected, got: "nothing".to_owned() });
        }
        let path = Path::new(name);
        if path.is_absolute() || path.components().count() > 1 || path.is_dir() {
            Ok(path.to_owned())
        } else {
            Ok(Path::new(RUNS).join(name))
        }
    }

    /// Finds out whether a run can be made at `path`, without touching anything.
    ///
    /// # Errors
    ///
    /// Where something is there already, unless it is a run and `replace` is set.
    pub fn check_vacant(path: &Path, replace: bool) -> Result<(), Error> {
        let not_a_run =
            |reason: &str| Error::NotARun { path: path.to_owned(), reason: reason.to_owned() };
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(not_a_run("it is a file; give another name with --run"));
            }
            Err(source) => {
                return Err(Error::Read { path: path.to_owned(), source });
            }
        };
        let mut empty = true;
        for entry in entries {
            let entry = entry.map_err(|source| Error::Read { path: path.to_owned(), source })?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !OWN.contains(&name.trim_end_matches(UNFINISHED)) {
                let reason = format!("it holds {name}; give another name with --run");
                return Err(not_a_run(&reason));
            }
            empty = false;
        }
        if empty {
            return Ok(());
        }
        let run = Self { path: path.to_owned(), replaces: Vec::new(), lock: None };
        if run.is_a_beginning() {
            return check_idle(path);
        }
        if !matches!(run.config(), Ok(Some(_))) || !path.join(CHECKPOINTS).is_dir() {
            return Err(not_a_run("its configuration is not one; give another name with --run"));
        }
        if !replace {
            return Err(Error::RunExists(path.to_owned()));
        }
        check_idle(path)
    }

    /// Whether this is what a process left that was killed before it had described its run.
    fn is_a_beginning(&self) -> bool {
        let has = |name: &str| self.path.join(name).exists();
        let checkpoint =
            || fs::read_dir(self.path.join(CHECKPOINTS)).is_ok_and(|mut f| f.next().is_some());
        let bare = || {
            let mut entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
            entries.all(|entry| entry.file_name() == CHECKPOINTS)
        };
        !has(CONFIG) && !has(MODEL) && !checkpoint() && (has(LOCK) || bare())
    }

    /// Makes the folder of a new run. A run that is there and may be replaced, `replace`, is set aside as
    /// `NAME.replaced` until the new one has its summary.
    ///
    /// # Errors
    ///
    /// As [`check_vacant`](Self::check_vacant), and where the file system refuses; what was set aside is then
    /// back in its place.
    pub fn create(
        path: &Path,
        replace: bool,
        config: &Config,
        vocabulary: &Vocabulary,
        fingerprint: &Fingerprint,
    ) -> Result<Self, Error> {
        // Somebody may have been there since it was found vacant.
        Self::check_vacant(path, replace)?;
        let mut run = Self { path: path.to_owned(), replaces: Vec::new(), lock: None };
        let set_aside = run.set_aside(replace)?;
        let filled = run.fill(config, vocabulary, fingerprint);
        if filled.is_err()
            && let Some(replaced) = &set_aside
        {
            // If even this fails, the old run is still whole under its other name.
            let _ = fs::remove_dir_all(path).and_then(|()| fs::rename(replaced, path));
        }
        filled.map(|()| run)
    }

    /// Gives the run that is in the way another name, if it may be replaced; gives its folder.
    fn set_aside(&mut self, replace: bool) -> Result<Option<PathBuf>, Error> {
        // What is there may have replaced others, and not have come to its end.
        self.replaces = self.read_replaces();
        let path = &self.path;
        if !path.join(CONFIG).is_file() {
            return Ok(None);
        }
        if !replace {
            return Err(Error::RunExists(path.clone()));
        }
        // Nobody begins to write there while it gets its name. (Windows renames no folder with an open file.)
        let has_lock = cfg!(unix) && path.join(LOCK).exists();
        let _held = has_lock.then(|| lock(path)).transpose()?;
        let free = aside(path).find(|path| !path.exists());
        let free = free.expect("the names under which runs are set aside never end");
        // It lasts through a power cut with the new folder, which is in the same one.
        fs::rename(path, &free).map_err(|source| Error::Write { path: free.clone(), source })?;
        self.replaces.push(free.file_name().unwrap_or_default().to_string_lossy().into_owned());
        Ok(Some(free))
    }

    fn fill(
        &mut self,
        config: &Config,
        vocabulary: &Vocabulary,
        fingerprint: &Fingerprint,
    ) -> Result<(), Error> {
        make_folder(&self.path.join(CHECKPOINTS))?;
        self.lock = Some(Arc::new(lock(&self.path)?));
        if !self.replaces.is_empty() {
            replace(&self.path.join(REPLACES), to_json(&self.replaces).as_bytes())?;
        }
        replace(&self.path.join(METRICS), b"")?;
        self.describe(config, vocabulary, fingerprint)
    }

    /// The names of the folders, as far as they are there, of the runs that this one replaces. A list that cannot be read
    /// removes nothing, and keeps no run from going on.
    fn read_replaces(&self) -> Vec<String> {
        let mut names: Vec<String> = self.read_json(REPLACES).ok().flatten().unwrap_or_default();
        names.retain(|name| self.path.with_file_name(name).exists());
        names.dedup();
        names
    }

    /// The folders of the runs that this one replaces, the latest last.
    pub fn replaces(&self) -> impl DoubleEndedIterator<Item = PathBuf> + '_ {
        self.replaces.iter().map(|name| self.path.with_file_name(name))
    }

    /// Opens the folder of a run to read it.
    ///
    /// # Errors
    ///
    /// Where there is no such folder, or it is no run.
    pub fn open(name: &str) -> Result<Self, Error> {
        let path = Self::locate(name)?;
        let not_a_run =
            |reason: &str| Error::NotARun { path: path.clone(), reason: reason.to_owned() };
        if !path.exists() {
            return Err(not_a_run("there is nothing there"));
        }
        if !path.is_dir() {
            return Err(not_a_run("it is a file"));
        }
        // One of the two is always there, whatever happened to the other.
        if !path.join(CONFIG).is_file() && !path.join(CHECKPOINTS).is_dir() {
            return Err(not_a_run(&format!("it has no {CONFIG}")));
        }
        Ok(Self { path, replaces: Vec::new(), lock: None })
    }

    /// Opens the folder of a run to go on with it.
    ///
    /// # Errors
    ///
    /// Where there is no such folder, it is no run, or another process writes there.
    pub fn resume(name: &str) -> Result<Self, Error> {
        let mut run = Self::open(name)?;
        run.lock = Some(Arc::new(lock(&run.path)?));
        run.replaces = run.read_replaces();
        let checkpoints = run.path.join(CHECKPOINTS);
        make_folder(&checkpoints)?;
        remove_unfinished(&run.path)?;
        remove_unfinished(&checkpoints)?;
        Ok(run)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration of the run; `None` where its file is gone.
    ///
    /// # Errors
    ///
    /// Where its file cannot be read or is none.
    pub fn config(&self) -> Result<Option<Config>, Error> {
        let path = self.path.join(CONFIG);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Config::parse(&path.display().to_string(), &text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// How the run ended; `None` where it did not.
    ///
    /// # Errors
    ///
    /// Where its file cannot be read or is none.
    pub fn summary<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        self.read_json(SUMMARY)
    }

    /// Which text the run is about; `None` where its file is gone.
    ///
    /// # Errors
    ///
    /// Where its file cannot be read or is none.
    pub fn fingerprint(&self) -> Result<Option<Fingerprint>, Error> {
        self.read_json(CORPUS)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.path.join(name);
        let damaged =
            |path, error: serde_json::Error| Error::Damaged { path, reason: error.to_string() };
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// Writes what describes the run anew, where it is not there or not the same.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn describe(
        &self,
        config: &Config,
        vocabulary: &Vocabulary,
        fingerprint: &Fingerprint,
    ) -> Result<(), Error> {
        let files = [
            (VOCABULARY, to_json(vocabulary)),
            (CORPUS, to_json(fingerprint)),
            // Behind all others: with it the folder is a run.
            (CONFIG, config.to_toml()),
        ];
        for (name, text) in files {
            let path = self.path.join(name);
            if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
                replace(&path, text.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Adds a line to the metrics.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn add_metrics(&self, line: &str) -> Result<(), Error> {
        append(&self.path.join(METRICS), line)
    }

    /// Makes the metrics what they were at a checkpoint.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn set_metrics(&self, lines: &str) -> Result<(), Error> {
        replace(&self.path.join(METRICS), lines.as_bytes())
    }

    /// Adds a line to the log of what happened to the run.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn add_event(&self, event: &impl Serialize) -> Result<(), Error> {
        append(&self.path.join(EVENTS), &to_json(event))
    }

    /// Writes the report of a step that diverged; gives its path.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn write_divergence(&self, report: &impl Serialize) -> Result<PathBuf, Error> {
        let path = self.path.join(DIVERGENCE);
        let mut text = serde_json::to_string_pretty(report).expect("a report is JSON");
        text.push('\n');
        replace(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Writes the summary, with which the run is finished.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn finish(&self, summary: &impl Serialize) -> Result<(), Error> {
        replace(&self.path.join(SUMMARY), to_json(summary).as_bytes())
    }

    /// Removes the runs that this one replaces; gives their folders.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn remove_replaced(&mut self) -> Result<Vec<PathBuf>, Error> {
        let is_a_run = |path: &PathBuf| path.exists() && Self::check_vacant(path, true).is_ok();
        let replaced: Vec<PathBuf> = self.replaces().filter(is_a_run).collect();
        for path in &replaced {
            fs::remove_dir_all(path)
                .map_err(|source| Error::Write { path: path.clone(), source })?;
        }
        self.replaces.clear();
        let path = self.path.join(REPLACES);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Write { path, source })
            }
            _ => Ok(replaced),
        }
    }
}

/// The names under which runs that were at `path` stand: `NAME.replaced`, `NAME.replaced.2`, ...
fn aside(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (1..).map(move |count| match count {
        1 => path.with_file_name(format!("{name}.replaced")),
        _ => path.with_file_name(format!("{name}.replaced.{count}")),
    })
}

/// One line of JSON.
fn to_json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("our records have nothing JSON cannot hold");
    text.push('\n');
    text
}
