//! What a sweep is: from its file to the configurations of its trials.
//!
//! It trains nothing and writes nothing.

mod file;
mod search;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use poquelin_model::Seed;
use thiserror::Error;
use toml::{Table, Value};

use self::file::{Kind, SweepFile};
use self::search::Values;
pub use self::search::{Dimension, number, written};
use crate::config::Config;
use crate::error::Error;
use crate::text::TextSource;

/// The most trials that a sweep may have.
const MOST: usize = 1_000;
/// How often a draw that came before is drawn again, per trial.
const REDRAWS: u64 = 100;
/// The keys that decide which text is scored.
const TEXT: [&str; 6] =
    ["data.text", "data.take", "data.units", "data.unify_newlines", "data.test", "data.valid"];
/// The key that holds for a whole process.
const THREADS: &str = "train.threads";

/// `section.key` and value, one behind the other.
pub type Assignments = Vec<(String, Value)>;
/// How many were asked for, and the values of each.
type Combinations = (usize, Vec<Vec<Value>>);

/// A sweep that can begin.
pub struct Sweep {
    /// The file as it stands.
    pub description: String,
    /// The configuration file that every trial begins with.
    pub config: Option<PathBuf>,
    /// What all trials share, beside it.
    pub set: Assignments,
    /// What is searched over.
    pub dimensions: Vec<Dimension>,
    /// The trials, all different; at least one.
    pub trials: Vec<Trial>,
    /// How many were asked for.
    pub asked: usize,
}

/// One choice of values.
pub struct Trial {
    /// The searched keys and their values.
    pub values: Assignments,
    /// The whole configuration.
    pub config: Config,
}

/// A file that describes no sweep.
#[derive(Debug, Error)]
pub enum SweepError {
    /// Not TOML, or with keys or words that there are not.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A value that makes no sense.
    #[error("{}: {key}: expected {expected}, got {got}", path.display())]
    BadValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
}

impl Sweep {
    /// Reads a file and makes the configurations of all trials; `text` takes the place of their
    /// `data.text`.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, describes no sweep, or a trial of it has no usable
    /// configuration.
    pub fn load(path: &Path, text: Option<&Path>) -> Result<Self, Error> {
        let description = std::fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let file: SweepFile = toml::from_str(&description).map_err(|error| {
            let message = error.to_string().trim_end().to_owned();
            SweepError::Syntax { path: path.to_owned(), message }
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let config = file.config.as_ref().map(|name| folder.join(name));
        let base = Config::load(config.as_deref(), &[])?;
        let plan = Plan { path, base, set: file.set(), text };
        let dimensions: Vec<Dimension> = file
            .search()
            .into_iter()
            .map(|(key, value)| plan.dimension(key, value))
            .collect::<Result<_, _>>()?;
        if dimensions.is_empty() {
            let expected = "at least one key to search over";
            return Err(plan.bad("search", expected, "none"));
        }
        let (asked, combinations) = match file.kind {
            Kind::Grid => plan.grid(&file, &dimensions)?,
            Kind::Each => plan.each(&file, &dimensions)?,
            Kind::Random => plan.draws(&file, &dimensions)?,
        };
        let mut trials: Vec<Trial> = Vec::new();
        for combination in combinations {
            let keys = dimensions.iter().map(|dimension| dimension.key.clone());
            let values = keys.zip(combination).collect();
            let config = plan.configuration(&values)?;
            if trials.iter().all(|trial| trial.config != config) {
                trials.push(Trial { values, config });
            }
        }
        Ok(Self { description, config, set: plan.set, dimensions, trials, asked })
    }
}

/// What all trials begin with.
struct Plan<'a> {
    path: &'a Path,
    base: Config,
    set: Assignments,
    text: Option<&'a Path>,
}

impl Plan<'_> {
    fn dimension(&self, key: String, value: Value) -> Result<Dimension, Error> {
        let got = value.to_string();
        if TEXT.contains(&key.as_str()) {
            let expected = "it under [set], for trials are compared on one and the same text";
            return Err(self.bad(&key, expected, &got));
        }
        if key == THREADS {
            return Err(self.bad(&key, "it under [set], for it holds for the process", &got));
        }
        if self.set.iter().any(|(other, _)| *other == key) {
            return Err(self.bad(&key, "it under [set] or under [search]", "both"));
        }
        let Some(known) = self.base.value(&key) else {
            // It is refused as in every configuration, with the key that is nearest.
            self.layered(&vec![(key.clone(), value)])?;
            return Err(self.bad(&key, "a key, as section.key", &got));
        };
        Dimension::new(key.clone(), value, &known)
            .map_err(|(expected, got)| self.bad(&key, &expected, &got))
    }

    /// The configuration of a trial.
    fn configuration(&self, values: &Assignments) -> Result<Config, Error> {
        let mut config = self.layered(&self.set.iter().chain(values).cloned().collect())?;
        if config.data.valid <= 0.0 {
            let expected = "a share above 0, for trials are compared on validation text";
            return Err(self.bad("data.valid", expected, &config.data.valid.to_string()));
        }
        if let Some(text) = self.text {
            config.data.text = text.to_string_lossy().into_owned();
        }
        config.data.text = TextSource::new(&config.data.text).lasting_name();
        // The test part is for the one that is chosen; nobody reads what every trial writes.
        config.train.test_every_epoch = false;
        config.sample.length = 0;
        Ok(config)
    }

    fn layered(&self, assignments: &Assignments) -> Result<Config, Error> {
        let origin = self.path.display().to_string();
        Ok(self.base.with_table(&origin, sections(assignments))?)
    }

    /// What the file lists for each key, where nothing is left to chance.
    fn lists<'a>(
        &self,
        file: &SweepFile,
        dimensions: &'a [Dimension],
    ) -> Result<Vec<&'a [Value]>, Error> {
        let given = [("trials", file.trials.is_some()), ("seed", file.seed.is_some())];
        if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
            let got = format!("kind = {:?}", format!("{:?}", file.kind).to_lowercase());
            return Err(self.bad(key, "kind = \"random\" with it", &got));
        }
        let list = |dimension: &'a Dimension| match &dimension.values {
            Values::List(list) => Ok(list.as_slice()),
            Values::Range { .. } => {
                let expected = "a list of values; a range needs kind = \"random\"";
                Err(self.bad(&dimension.key, expected, "a range"))
            }
        };
        dimensions.iter().map(list).collect()
    }

    /// Everything as it stands, and then one key after the other with each of its values.
    fn each(&self, file: &SweepFile, dimensions: &[Dimension]) -> Result<Combinations, Error> {
        let lists = self.lists(file, dimensions)?;
        let base = self.layered(&self.set)?;
        let value = |dimension: &Dimension| {
            base.value(&dimension.key).expect("a key that is searched over is known")
        };
        let start: Vec<Value> = dimensions.iter().map(value).collect();
        let mut combinations = vec![start.clone()];
        for (place, list) in lists.into_iter().enumerate() {
            combinations.extend(list.iter().map(|value| {
                let mut changed = start.clone();
                changed[place] = value.clone();
                changed
            }));
        }
        Ok((combinations.len(), combinations))
    }

    /// Every combination, and how many they are.
    fn grid(&self, file: &SweepFile, dimensions: &[Dimension]) -> Result<Combinations, Error> {
        let lists = self.lists(file, dimensions)?;
        let sizes = lists.iter().map(|list| list.len() as u128);
        let count = sizes.fold(1, u128::saturating_mul);
        if count > MOST as u128 {
            let expected = format!(
                "at most {MOST} combinations; shorten a list, or draw some with kind = \"random\""
            );
            return Err(self.bad("search", &expected, &count.to_string()));
        }
        let count = count as usize;
        Ok((count, (0..count).map(|index| combination(&lists, index)).collect()))
    }

    /// As many draws as are asked for, or as there are different ones; and how many were asked for.
    fn draws(&self, file: &SweepFile, dimensions: &[Dimension]) -> Result<Combinations, Error> {
        let asked = file.trials.unwrap_or(0);
        if !(1..=MOST).contains(&asked) {
            let expected = format!("a number of draws from 1 to {MOST}");
            let got = file.trials.map_or("none".to_owned(), |count| count.to_string());
            return Err(self.bad("trials", &expected, &got));
        }
        let seed = Seed::new(file.seed.unwrap_or(1));
        let (mut draws, mut seen) = (Vec::new(), BTreeSet::new());
        for number in 0..asked as u64 * REDRAWS {
            let draw: Vec<Value> =
                dimensions.iter().map(|dimension| dimension.draw(seed, number)).collect();
            if seen.insert(format!("{draw:?}")) {
                draws.push(draw);
            }
            if draws.len() == asked {
                break;
            }
        }
        Ok((asked, draws))
    }

    fn bad(&self, key: &str, expected: &str, got: &str) -> Error {
        Error::Sweep(SweepError::BadValue {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            got: got.to_owned(),
        })
    }
}

/// The values of one combination; the last list's change fastest.
fn combination(lists: &[&[Value]], mut index: usize) -> Vec<Value> {
    let mut values = Vec::new();
    for list in lists.iter().rev() {
        values.push(list[index % list.len()].clone());
        index /= list.len();
    }
    values.reverse();
    values
}

/// `section.key` and value as tables in a table.
fn sections(assignments: &Assignments) -> Table {
    let mut table = Table::new();
    for (path, value) in assignments {
        let Some((section, key)) = path.split_once('.') else {
            table.insert(path.clone(), value.clone());
            continue;
        };
        let keys = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(keys) = keys {
            keys.insert(key.to_owned(), value.clone());
        }
    }
    table
}
