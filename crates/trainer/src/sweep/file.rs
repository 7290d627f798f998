//! The file that describes a sweep, as it is read.

use std::path::PathBuf;

use serde::Deserialize;
use toml::{Table, Value};

/// `sweep.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SweepFile {
    /// What every trial begins with, relative to the file.
    pub(super) config: Option<PathBuf>,
    pub(super) kind: Kind,
    /// How many draws, where they are random.
    pub(super) trials: Option<usize>,
    pub(super) seed: Option<u64>,
    #[serde(default)]
    set: Table,
    #[serde(default)]
    search: Table,
}

/// How the values are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Each with each.
    Grid,
    /// One at a time, with everything else as it stands.
    Each,
    /// By chance.
    Random,
}

impl SweepFile {
    /// What all trials share, as `section.key` and value.
    pub(super) fn set(&self) -> Vec<(String, Value)> {
        paths(&self.set)
    }

    /// What is searched over, as `section.key` and value.
    pub(super) fn search(&self) -> Vec<(String, Value)> {
        paths(&self.search)
    }
}

/// `"model.hidden" = 1` and `model.hidden = 1` are the same to who writes them; to TOML the second is
/// a section.
fn paths(table: &Table) -> Vec<(String, Value)> {
    let mut paths = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(keys) if !name.contains('.') => {
                let path =
                    |(key, value): (&String, &Value)| (format!("{name}.{key}"), value.clone());
                paths.extend(keys.iter().map(path));
            }
            value => paths.push((name.clone(), value.clone())),
        }
    }
    paths
}
