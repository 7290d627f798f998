//! How the folder of a sweep is laid out.
//!
//! ```text
//! runs/NAME/
//!   001/ 002/ ...   the trials, each the folder of a run
//!   sweep.toml      the file that describes the sweep, as it was read last
//!   trials.jsonl    a line per trial that has ended
//!   sweep.svg       the losses against what was searched
//!   .lock           locked by the process that sweeps here, as long as it lives
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::files::{lock, make_folder, remove_unfinished, replace};
use super::{LOCK, RunFolder, UNFINISHED, to_json};
use crate::error::Error;

const SWEEP: &str = "sweep.toml";
const TRIALS: &str = "trials.jsonl";
const FIGURE: &str = "sweep.svg";

/// The folder of a sweep.
#[derive(Debug)]
pub struct SweepFolder {
    path: PathBuf,
    _lock: File,
}

impl SweepFolder {
    /// Finds out whether a sweep can be in `path`, without touching anything: one is there, or nothing of
    /// anybody else's.
    ///
    /// # Errors
    ///
    /// Where something else is there.
    pub fn check(path: &Path) -> Result<(), Error> {
        let not_one = |reason: String| Error::NotASweep { path: path.to_owned(), reason };
        let read = |source| Error::Read { path: path.to_owned(), source };
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(not_one("it is a file".to_owned()));
            }
            entries => entries.map_err(read)?,
        };
        if path.join(SWEEP).is_file() {
            return Ok(());
        }
        for entry in entries {
            let name = entry.map_err(read)?.file_name().to_string_lossy().into_owned();
            let own = [SWEEP, TRIALS, FIGURE, LOCK].contains(&name.trim_end_matches(UNFINISHED));
            if !own && number(&name).is_none() {
                return Err(not_one(format!("it holds {name}")));
            }
        }
        Ok(())
    }

    /// Makes the folder, or opens the one that is there, and locks it.
    ///
    /// # Errors
    ///
    /// Where another process sweeps there, or the file system refuses.
    pub fn open(path: &Path) -> Result<Self, Error> {
        make_folder(path)?;
        let locked = lock(path)?;
        remove_unfinished(path)?;
        Ok(Self { path: path.to_owned(), _lock: locked })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the trial of a number stands.
    pub fn trial(&self, number: usize) -> PathBuf {
        self.path.join(format!("{number:03}"))
    }

    /// The numbers of all trials that are there, of whatever sweep they were, in order.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read.
    pub fn numbers(&self) -> Result<Vec<usize>, Error> {
        let read = |source| Error::Read { path: self.path.clone(), source };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(read)? {
            let name = entry.map_err(read)?.file_name().to_string_lossy().into_owned();
            numbers.extend(number(&name));
        }
        // What was killed before it had described its run is free again.
        numbers.retain(|&number| RunFolder::check_vacant(&self.trial(number), false).is_err());
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The file that describes the sweep, as it was kept; `None` where there is none yet.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn description(&self) -> Result<Option<String>, Error> {
        let path = self.path.join(SWEEP);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// Keeps the file that describes the sweep.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn describe(&self, text: &str) -> Result<(), Error> {
        replace(&self.path.join(SWEEP), text.as_bytes())
    }

    /// The lines of the trials that have ended; none where there is no file of them.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or a line of it is none.
    pub fn trials<T: DeserializeOwned>(&self) -> Result<Vec<T>, Error> {
        let path = self.path.join(TRIALS);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|source| Error::Read { path: path.clone(), source })?,
        };
        let line = |(index, line)| {
            serde_json::from_str(line).map_err(|error| {
                let reason = format!("line {}: {error}", index + 1);
                Error::Damaged { path: path.clone(), reason }
            })
        };
        text.lines().enumerate().map(line).collect()
    }

    /// Writes the lines of the trials that have ended.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn set_trials(&self, trials: &[impl Serialize]) -> Result<(), Error> {
        let text: String = trials.iter().map(to_json).collect();
        replace(&self.path.join(TRIALS), text.as_bytes())
    }

    /// Writes the figure; gives its path.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn write_figure(&self, svg: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(FIGURE);
        replace(&path, svg.as_bytes())?;
        Ok(path)
    }
}

/// The number of a trial by its folder's name.
fn number(name: &str) -> Option<usize> {
    let digits = name.len() >= 3 && name.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| name.parse().ok()).flatten()
}
