//! How the folder of a run is laid out. No other file knows.
//!
//! ```text
//! runs/NAME/
//!   config.toml          every key and value of the run
//!   vocabulary.json      the symbols, in the order of their tokens
//!   corpus.json          which text it was
//!   metrics.jsonl        a line per epoch and split
//!   checkpoints/
//!     step-00001800.safetensors   the newest few
//!     best.safetensors            the best on validation text
//!   model.safetensors    the finished model
//!   summary.json         how it ended
//!   .lock                locked by the process that writes here, as long as it lives
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use poquelin_data::Vocabulary;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::error::Error;
use crate::text::Fingerprint;

const CONFIG: &str = "config.toml";
const VOCABULARY: &str = "vocabulary.json";
const CORPUS: &str = "corpus.json";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const BEST: &str = "best.safetensors";
const MODEL: &str = "model.safetensors";
const SUMMARY: &str = "summary.json";
const RUNS: &str = "runs";
const UNFINISHED: &str = ".unfinished";
const LOCK: &str = ".lock";

/// All that stands in the folder of a run.
const OWN: [&str; 8] = [CONFIG, VOCABULARY, CORPUS, METRICS, CHECKPOINTS, MODEL, SUMMARY, LOCK];

/// The folder of a run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The run that this one replaces, until it is finished.
    replaced: Option<PathBuf>,
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
        let run = Self { path: path.to_owned(), replaced: None, lock: None };
        if run.config().is_err() || run.vocabulary().is_err() {
            return Err(not_a_run("its configuration is not one; give another name with --run"));
        }
        if !replace {
            return Err(Error::RunExists(path.to_owned()));
        }
        check_idle(path)
    }

    /// Makes the folder of a new run. What [`check_vacant`](Self::check_vacant) allowed to be
    /// replaced is set aside as `NAME.replaced` until the new run has its summary.
    ///
    /// # Errors
    ///
    /// Where another process writes there, or the file system refuses; what was set aside is then back
    /// in its place.
    pub fn create(
        path: &Path,
        config: &Config,
        vocabulary: &Vocabulary,
        fingerprint: &Fingerprint,
    ) -> Result<Self, Error> {
        // Nobody may be writing there when it is moved.
        check_idle(path)?;
        let replaced = Self::set_aside(path)?;
        let mut run = Self { path: path.to_owned(), replaced, lock: None };
        let filled = run.fill(config, vocabulary, fingerprint);
        if filled.is_err()
            && let Some(replaced) = &run.replaced
        {
            // If even this fails, the old run is still whole under its other name.
            let _ = fs::remove_dir_all(path).and_then(|()| fs::rename(replaced, path));
        }
        filled.map(|()| run)
    }

    fn set_aside(path: &Path) -> Result<Option<PathBuf>, Error> {
        if !path.is_dir() {
            return Ok(None);
        }
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".replaced");
        let aside = path.with_file_name(name);
        let refused = |source| Error::Write { path: aside.clone(), source };
        if aside.exists() {
            Self::check_vacant(&aside, true)?;
            fs::remove_dir_all(&aside).map_err(refused)?;
        }
        fs::rename(path, &aside).map_err(refused)?;
        Ok(Some(aside))
    }

    fn fill(
        &mut self,
        config: &Config,
        vocabulary: &Vocabulary,
        fingerprint: &Fingerprint,
    ) -> Result<(), Error> {
        let checkpoints = self.path.join(CHECKPOINTS);
        fs::create_dir_all(&checkpoints)
            .map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.lock = Some(Arc::new(lock(&self.path)?));
        self.write(CONFIG, config.to_toml().as_bytes())?;
        self.write_json(VOCABULARY, vocabulary)?;
        self.write_json(CORPUS, fingerprint)?;
        self.write(METRICS, b"")
    }

    /// Opens the folder of a run.
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
        for name in [CONFIG, VOCABULARY, CORPUS] {
            if !path.join(name).is_file() {
                return Err(not_a_run(&format!("it has no {name}")));
            }
        }
        Ok(Self { path, replaced: None, lock: None })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration of the run.
    ///
    /// # Errors
    ///
    /// Where its file cannot be read or is none.
    pub fn config(&self) -> Result<Config, Error> {
        let path = self.path.join(CONFIG);
        let text = fs::read_to_string(&path)
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        Ok(Config::parse(&path.display().to_string(), &text)?)
    }

    /// The vocabulary of the run.
    ///
    /// # Errors
    ///
    /// Where its file cannot be read or is none.
    pub fn vocabulary(&self) -> Result<Vocabulary, Error> {
        self.read_json(VOCABULARY)
    }

    /// What the run's corpus is known by.
    ///
    /// # Errors
    ///
    /// Where its file cannot be read or is none.
    pub fn fingerprint(&self) -> Result<Fingerprint, Error> {
        self.read_json(CORPUS)
    }

    /// Adds a line to the metrics.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn add_metrics(&self, line: &impl Serialize) -> Result<(), Error> {
        let path = self.path.join(METRICS);
        let mut text = to_json(line);
        text.push('\n');
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| Error::Write { path, source })
    }

    /// Writes the summary, with which the run is finished; the one it replaces is removed.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn finish(&mut self, summary: &impl Serialize) -> Result<(), Error> {
        self.write_json(SUMMARY, summary)?;
        match self.replaced.take() {
            Some(path) => fs::remove_dir_all(&path).map_err(|source| Error::Write { path, source }),
            None => Ok(()),
        }
    }

    /// Writes the finished model.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn write_model(&self, bytes: &[u8]) -> Result<(), Error> {
        self.write(MODEL, bytes)
    }

    /// Writes the checkpoint of a step, then removes all but the newest `keep`.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn write_checkpoint(&self, step: u64, bytes: &[u8], keep: usize) -> Result<(), Error> {
        self.write(&format!("{CHECKPOINTS}/step-{step:08}.safetensors"), bytes)?;
        let steps = self.checkpoints()?;
        for path in &steps[..steps.len().saturating_sub(keep)] {
            fs::remove_file(path).map_err(|source| Error::Write { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// Writes the best checkpoint.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn write_best(&self, bytes: &[u8]) -> Result<(), Error> {
        self.write(&format!("{CHECKPOINTS}/{BEST}"), bytes)
    }

    /// The finished model; before there is one the best checkpoint, or else the newest.
    ///
    /// # Errors
    ///
    /// Where there is none, or it cannot be read.
    pub fn read_model(&self) -> Result<(PathBuf, Vec<u8>), Error> {
        let finished = [self.path.join(MODEL), self.path.join(CHECKPOINTS).join(BEST)];
        let newest = self.checkpoints()?.pop();
        let path =
            finished.into_iter().find(|path| path.is_file()).or(newest).ok_or_else(|| {
                let reason = "it has no model yet".to_owned();
                Error::NotARun { path: self.path.clone(), reason }
            })?;
        match fs::read(&path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// The checkpoints of steps, the newest last.
    fn checkpoints(&self) -> Result<Vec<PathBuf>, Error> {
        let folder = self.path.join(CHECKPOINTS);
        let read = |source| Error::Read { path: folder.clone(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("step-") && name.ends_with(".safetensors") {
                paths.push(path);
            }
        }
        paths.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
        Ok(paths)
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let mut text = to_json(value);
        text.push('\n');
        self.write(name, text.as_bytes())
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        let path = self.path.join(name);
        let bytes = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Damaged { path, reason: error.to_string() })
    }

    /// Replaces a file as a whole: whoever looks sees the old one or the new one, also after a
    /// crash.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path.join(name);
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        let written = File::create(&unfinished)
            .and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&unfinished, &path))
            .and_then(|()| sync_folder(path.parent().unwrap_or(&self.path)));
        written.map_err(|source| {
            // What is left of a failed write only takes room.
            let _ = fs::remove_file(&unfinished);
            Error::Write { path, source }
        })
    }
}

/// Finds out whether another process writes in a folder, if it is a run's.
fn check_idle(folder: &Path) -> Result<(), Error> {
    // A run of before there were locks has none to be held.
    if folder.join(LOCK).exists() { lock(folder).map(drop) } else { Ok(()) }
}

/// Locks the folder of a run for this process.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK);
    let refused = |source| Error::Write { path: path.clone(), source };
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::RunBusy(folder.to_owned())),
        // Some network file systems know no locks; a run there goes without.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

/// Makes a rename in `folder` last through a power cut.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("our records have nothing JSON cannot hold")
}
