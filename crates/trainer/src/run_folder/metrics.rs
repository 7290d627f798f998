//! `metrics.jsonl` read again, and what is drawn of it.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use super::files::replace;
use super::{CURVES, METRICS, RunFolder};
use crate::error::Error;

/// A part's loss in an epoch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Measurement {
    /// From 1.
    pub epoch: usize,
    /// "train", "valid" or "test".
    pub split: String,
    /// The loss; `None` where it was no number.
    pub nats_per_char: Option<f64>,
}

/// What a run has measured, in the order in which it did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measurements(Vec<Measurement>);

impl Measurements {
    /// Of a part, each epoch and its loss in nats per character.
    pub fn curve(&self, split: &str) -> Vec<(usize, f64)> {
        let of_part = |line: &&Measurement| line.split == split;
        let point = |line: &Measurement| {
            line.nats_per_char.filter(|nats| nats.is_finite()).map(|nats| (line.epoch, nats))
        };
        self.0.iter().filter(of_part).filter_map(point).collect()
    }

    /// The first epoch with the lowest loss of a part, and that loss.
    pub fn lowest(&self, split: &str) -> Option<(usize, f64)> {
        self.curve(split).into_iter().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The loss of a part in an epoch.
    pub fn at(&self, split: &str, epoch: usize) -> Option<f64> {
        self.curve(split).into_iter().find(|point| point.0 == epoch).map(|(_, nats)| nats)
    }
}

impl RunFolder {
    /// What the run has measured so far.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or a line of it is no measurement.
    pub fn measurements(&self) -> Result<Measurements, Error> {
        let path = self.path.join(METRICS);
        let text = fs::read_to_string(&path)
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        let mut lines = Vec::new();
        for (index, line) in text.split_inclusive('\n').enumerate() {
            match serde_json::from_str(line) {
                Ok(line) => lines.push(line),
                // The line that a running or a killed process is in the middle of.
                Err(_) if !line.ends_with('\n') => {}
                Err(error) => {
                    let reason = format!("line {}: {error}", index + 1);
                    return Err(Error::Damaged { path, reason });
                }
            }
        }
        Ok(Measurements(lines))
    }

    /// Writes the figure of the run's losses; gives its path.
    ///
    /// # Errors
    ///
    /// Where the file system refuses.
    pub fn write_curves(&self, svg: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(CURVES);
        replace(&path, svg.as_bytes())?;
        Ok(path)
    }
}
