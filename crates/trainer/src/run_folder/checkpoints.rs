//! The models of a run: checkpoints, the best, the finished one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::{rename, replace_with};
use super::{BEST, CHECKPOINTS, DAMAGED, DIVERGED, MODEL, RunFolder};
use crate::error::Error;
use crate::model_file::Contents;

/// The newest checkpoint that is whole.
pub struct Newest {
    /// Its file.
    pub path: PathBuf,
    /// What it holds.
    pub contents: Contents,
    /// Newer ones that are not: each file, and why.
    pub damaged: Vec<(PathBuf, Error)>,
}

/// A model that was found.
pub struct Model {
    /// Its file.
    pub path: PathBuf,
    /// What it holds.
    pub contents: Contents,
    /// Whether it is a finished one: no run goes on behind it.
    pub is_final: bool,
}

/// The model of `name`: a model file itself; of a run the finished model, or the best one where that is of a
/// later epoch, for the run was given more; before there is either, the newest checkpoint that is whole.
///
/// # Errors
///
/// Where there is none, or it cannot be read.
pub fn find_model(name: &str) -> Result<Model, Error> {
    let path = RunFolder::locate(name)?;
    // A name that is none of a run may be a file's.
    let file = Path::new(name);
    if file.is_file() && !path.is_dir() {
        return Ok(Model { path: file.to_owned(), contents: read(file)?, is_final: true });
    }
    let run = RunFolder::open(name)?;
    let finished = run.path.join(MODEL);
    let finished = finished.is_file().then(|| read(&finished).map(|contents| (finished, contents)));
    let finished = finished.transpose()?;
    let epoch = |(_, contents): &(PathBuf, Contents)| contents.header.progress.epoch;
    let best = match &finished {
        // Who asks for the finished model need not care for the state of another.
        Some((_, model)) if run.is_beyond(model.header.progress.step)? => {
            run.read_best().unwrap_or(None)
        }
        Some(_) => None,
        None => run.read_best()?,
    };
    match (finished, best) {
        (finished, Some(best)) if finished.as_ref().is_none_or(|it| epoch(it) < epoch(&best)) => {
            let (path, contents) = best;
            Ok(Model { path, contents, is_final: false })
        }
        (Some((path, contents)), _) => Ok(Model { path, contents, is_final: true }),
        (None, _) => {
            let none = || {
                let reason = "it has no model yet".to_owned();
                Error::NotARun { path: run.path.clone(), reason }
            };
            let Newest { path, mut contents, .. } = run.newest_checkpoint()?.ok_or_else(none)?;
            contents.prefer_average();
            Ok(Model { path, contents, is_final: false })
        }
    }
}

impl RunFolder {
    /// Writes the finished model.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn write_model(&self, contents: &Contents) -> Result<(), Error> {
        write(&self.path.join(MODEL), contents)
    }

    /// Writes a checkpoint, then removes all but the newest `keep`.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn write_checkpoint(&self, contents: &Contents, keep: usize) -> Result<(), Error> {
        write(&self.checkpoint(contents.header.progress.step), contents)?;
        let steps = self.checkpoints()?;
        for path in &steps[..steps.len().saturating_sub(keep)] {
            fs::remove_file(path).map_err(|source| Error::Write { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// Where the checkpoint of a step lies.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join(CHECKPOINTS).join(format!("step-{step:08}.safetensors"))
    }

    /// Writes the best checkpoint.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn write_best(&self, contents: &Contents) -> Result<(), Error> {
        write(&self.path.join(CHECKPOINTS).join(BEST), contents)
    }

    /// The best checkpoint, if there is one.
    ///
    /// # Errors
    ///
    /// Where it cannot be read or is damaged.
    pub fn read_best(&self) -> Result<Option<(PathBuf, Contents)>, Error> {
        let path = self.path.join(CHECKPOINTS).join(BEST);
        if path.is_file() { read(&path).map(|contents| Some((path, contents))) } else { Ok(None) }
    }

    /// The newest checkpoint that is whole; `None` where there is no checkpoint at all.
    ///
    /// # Errors
    ///
    /// Where there are some and none is whole: what is wrong with the newest. Where one cannot be read, or
    /// belongs to another version: that is no damage.
    pub fn newest_checkpoint(&self) -> Result<Option<Newest>, Error> {
        self.newest_of(self.checkpoints()?)
    }

    /// As [`newest_checkpoint`](Self::newest_checkpoint), of those before a step. Where there is one, the others, from
    /// that step on, get names under which nobody looks for them.
    ///
    /// # Errors
    ///
    /// The same, and where the file system refuses.
    pub fn back_before(&self, step: u64) -> Result<Option<Newest>, Error> {
        let limit = self.checkpoint(step);
        let (before, behind): (Vec<_>, Vec<_>) =
            self.checkpoints()?.into_iter().partition(|path| in_order(path) < in_order(&limit));
        let newest = self.newest_of(before)?;
        if newest.is_some() {
            behind.iter().try_for_each(|path| set_aside(path, DIVERGED))?;
        }
        Ok(newest)
    }

    /// Whether there is a checkpoint behind a step.
    fn is_beyond(&self, step: u64) -> Result<bool, Error> {
        let limit = self.checkpoint(step);
        Ok(self.checkpoints()?.last().is_some_and(|path| in_order(path) > in_order(&limit)))
    }

    fn newest_of(&self, checkpoints: Vec<PathBuf>) -> Result<Option<Newest>, Error> {
        let mut damaged = Vec::new();
        for path in checkpoints.into_iter().rev() {
            match read(&path) {
                Ok(contents) => return Ok(Some(Newest { path, contents, damaged })),
                Err(error @ Error::Damaged { .. }) => damaged.push((path, error)),
                Err(error) => return Err(error),
            }
        }
        damaged.into_iter().next().map_or(Ok(None), |(_, error)| Err(error))
    }

    /// Gives a damaged file of the run a name under which nobody looks for it.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn put_away(&self, path: &Path) -> Result<(), Error> {
        set_aside(path, DAMAGED)
    }

    /// The checkpoints of steps, the newest last.
    fn checkpoints(&self) -> Result<Vec<PathBuf>, Error> {
        let folder = self.path.join(CHECKPOINTS);
        let read = |source| Error::Read { path: folder.clone(), source };
        let mut paths = Vec::new();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(paths),
            entries => entries.map_err(read)?,
        };
        for entry in entries {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("step-") && name.ends_with(".safetensors") {
                paths.push(path);
            }
        }
        paths.sort_by(|a, b| in_order(a).cmp(&in_order(b)));
        Ok(paths)
    }
}

/// Gives a file a name that ends otherwise.
fn set_aside(path: &Path, ending: &str) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    rename(path, &path.with_file_name(name))
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// What checkpoints are in order by.
fn in_order(path: &Path) -> (usize, &Path) {
    (path.as_os_str().len(), path)
}

fn write(path: &Path, contents: &Contents) -> Result<(), Error> {
    replace_with(path, |file| contents.write_to(file))
}

fn read(path: &Path) -> Result<Contents, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Contents::from_bytes(path, &bytes)
}
