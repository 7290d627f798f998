//! `poquelin corpus stats`.

use poquelin_data::{Layout, Splits, Units};
use serde::Serialize;

use super::{print, print_json};
use crate::cli::StatsArgs;
use crate::config::Config;
use crate::error::Error;
use crate::progress::thousands;
use crate::text::TextSource;

#[derive(Serialize)]
struct Stats {
    /// What is counted.
    units: Units,
    /// So many, bytes too.
    characters: usize,
    distinct: usize,
    train: usize,
    valid: usize,
    test: usize,
    lanes: usize,
    sequence: usize,
    /// Chunks per lane and epoch at a start offset of zero; `None` where the text is too short.
    chunks: Option<usize>,
}

/// Counts what is in a text.
///
/// # Errors
///
/// Where the text or the configuration cannot be used.
pub fn stats(args: &StatsArgs) -> Result<(), Error> {
    let config = Config::load(args.config.config.as_deref(), &args.config.assignments)?;
    let data = &config.data;
    let corpus = TextSource::File(args.file.clone()).read(data, None)?;
    let splits = Splits::cut(corpus.len(), data.test, data.valid);
    let layout = Layout::training(splits.train.clone(), data.batch, data.sequence, 0);
    let stats = Stats {
        units: data.units,
        characters: corpus.len(),
        distinct: corpus.vocabulary().len(),
        train: splits.train.len(),
        valid: splits.valid.len(),
        test: splits.test.len(),
        lanes: data.batch,
        sequence: data.sequence,
        chunks: layout.as_ref().ok().map(Layout::chunks),
    };
    if args.json {
        return print_json(&stats);
    }
    let row =
        |name: &str, count: usize| print(&format!("{name:<22}{:>13}", thousands(count as u64)));
    let units = match stats.units {
        Units::Char => "characters",
        Units::Byte => "bytes",
    };
    row(units, stats.characters)?;
    row(&format!("distinct {units}"), stats.distinct)?;
    row("train", stats.train)?;
    row("valid", stats.valid)?;
    row("test", stats.test)?;
    row("lanes", stats.lanes)?;
    match layout {
        Ok(layout) => row(&format!("chunks of {} per lane", stats.sequence), layout.chunks()),
        Err(error) => print(&format!("chunks: none; {error}")),
    }
}
