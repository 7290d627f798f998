//! What a sweep ends with: a table, a figure, and what to do next.

use std::path::Path;

use toml::Value;

use super::super::print;
use super::super::training::{program, quoted};
use super::assignment;
use super::record::Record;
use crate::cli::SweepArgs;
use crate::error::Error;
use crate::plotting::{Axis, Entry, Figure, Mark, PALETTE, Panel, Scale, Series, Stroke};
use crate::progress::thousands;
use crate::run_folder::SweepFolder;
use crate::sweep::{Dimension, Sweep, number, written};

/// How many trials the curves of the best are drawn of.
const COMPARED: usize = 3;

/// Prints the trials, the best first.
pub(super) fn print_table(records: &[Record], dimensions: &[Dimension]) -> Result<(), Error> {
    let head = ["valid nats/char", "best epoch", "train nats/char", "parameters", "seconds"];
    let mut rows = vec![
        std::iter::once("trial")
            .chain(dimensions.iter().map(|dimension| dimension.key.as_str()))
            .chain(head)
            .chain(["chars/s"])
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    ];
    for record in records {
        let mut row = vec![record.trial.clone()];
        row.extend(dimensions.iter().map(|dimension| written(&record.set[&dimension.key])));
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let loss = |loss: Option<f64>| loss.map(|nats| format!("{nats:.4}"));
        let diverged = record.diverged_at_step.map(|step| format!("diverged at step {step}"));
        row.push(or_none(diverged.or(loss(record.valid))));
        row.push(or_none(record.best_epoch.map(|epoch| epoch.to_string())));
        row.push(or_none(loss(record.train)));
        row.push(or_none(record.parameters.map(|count| thousands(count as u64))));
        row.push(or_none(record.seconds.map(|seconds| format!("{seconds:.1}"))));
        row.push(or_none(record.chars_per_second.map(|rate| thousands(rate as u64))));
        rows.push(row);
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row: &Vec<String>| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}"));
        print(&cells.collect::<Vec<_>>().join("  "))?;
    }
    Ok(())
}

/// Prints where things are, and commands to try.
pub(super) fn print_next(
    args: &SweepArgs,
    sweep: &Sweep,
    folder: &SweepFolder,
    records: &[Record],
    figure: Option<&Path>,
) -> Result<(), Error> {
    let compared: Vec<&Record> =
        records.iter().filter(|record| record.valid.is_some()).take(COMPARED).collect();
    let (Some(best), Some(figure)) = (compared.first(), figure) else {
        return print("\nno trial has a loss on validation text; try lower learning rates");
    };
    let (program, device) = (program(), args.device.device.as_deref());
    let device = device.map(|name| format!(" --device {}", quoted(name))).unwrap_or_default();
    let path = |record: &Record| quoted(&folder.path().join(&record.trial).display().to_string());
    let mut train = format!("{program} train");
    if let Some(config) = &sweep.config {
        train += &format!(" --config {}", quoted(&config.display().to_string()));
    }
    let searched = best.set.iter().map(|(key, value)| (key.clone(), value.clone()));
    for set in sweep.set.iter().cloned().chain(searched) {
        train += &format!(" --set {}", quoted(&assignment(&set)));
    }
    if let Some(text) = &args.text {
        train += &format!(" --text {}", quoted(&text.display().to_string()));
    }
    let name = format!("{}-best", folder.path().display());
    let curves: Vec<String> = compared.iter().map(|record| path(record)).collect();
    print(&format!("\nthe losses are drawn in {}\nnow try", figure.display()))?;
    print(&format!("  {program} plot {}", curves.join(" ")))?;
    print(&format!("  {program} evaluate {}{device} --split test", path(best)))?;
    print(&format!("  {train} --run {}{device}", quoted(&name)))
}

/// The loss of every trial against each key that was searched; `None` where there is none.
pub(super) fn figure(records: &[Record], dimensions: &[Dimension]) -> Option<Figure> {
    let scored: Vec<(&Record, f64)> =
        records.iter().filter_map(|record| Some((record, record.valid?))).collect();
    let (best, lowest) = *scored.first()?;
    let [others, first] = [PALETTE[0], PALETTE[1]];
    let mut panels = Vec::new();
    for dimension in dimensions {
        let (scale, place) = along(&scored, dimension);
        let x = |record: &Record| place(&record.set[&dimension.key]);
        let points: Vec<(f64, f64)> =
            scored.iter().map(|(record, nats)| (x(record), *nats)).collect();
        panels.push(Panel {
            x: Axis::around(&dimension.key, scale, points.iter().map(|point| point.0))?,
            y: Axis::around(
                "validation, nats per character",
                Scale::Linear,
                points.iter().map(|point| point.1),
            )?,
            marks: vec![Mark { colour: first, point: (x(best), lowest) }],
            series: vec![Series { colour: others, stroke: Stroke::Points, points }],
        });
    }
    let columns = panels.len().min(3);
    let rows = panels.len().div_ceil(columns) as u32;
    let entry =
        |colour, stroke, text: &str, note| Entry { colour, stroke, text: text.to_owned(), note };
    Some(Figure {
        size: (380 * columns as u32 + 180, 360 * rows),
        columns,
        panels,
        legend: vec![
            entry(others, Some(Stroke::Points), "trial", None),
            entry(first, None, &format!("best: {}", best.trial), Some(format!("{lowest:.4}"))),
        ],
    })
}

/// Where a value lies.
type Place = Box<dyn Fn(&Value) -> f64>;

/// The scale of a key, and where its values lie on it.
fn along(scored: &[(&Record, f64)], dimension: &Dimension) -> (Scale, Place) {
    let values: Vec<&Value> =
        scored.iter().map(|(record, _)| &record.set[&dimension.key]).collect();
    if values.iter().all(|value| number(value).is_some()) {
        let whole = values.iter().all(|value| value.is_integer());
        let scale = match (dimension.is_log(), whole) {
            (true, _) => Scale::Log,
            (false, true) => Scale::Whole,
            (false, false) => Scale::Linear,
        };
        return (scale, Box::new(|value| number(value).unwrap_or(f64::NAN)));
    }
    let mut words: Vec<String> = values.into_iter().map(written).collect();
    words.sort_unstable();
    words.dedup();
    let known = words.clone();
    let place = move |value: &Value| {
        let word = written(value);
        known.iter().position(|known| *known == word).map_or(f64::NAN, |at| at as f64)
    };
    (Scale::Words(words), Box::new(place))
}
