//! `poquelin plot`.

use std::fs;
use std::path::Path;

use super::print;
use crate::cli::PlotArgs;
use crate::error::Error;
use crate::plotting::{Axis, Entry, Figure, GREY, Mark, PALETTE, Panel, Scale, Series, Stroke};
use crate::run_folder::{Measurements, RunFolder};

/// The parts of a text, and how their curves are drawn.
const PARTS: [(&str, Stroke); 3] =
    [("train", Stroke::Solid), ("valid", Stroke::Dashed), ("test", Stroke::Dotted)];

/// A run to be drawn.
struct Curves {
    name: String,
    measurements: Measurements,
}

/// Draws the losses of runs against their epochs.
///
/// # Errors
///
/// Where a run is not there or has nothing to draw, and where the figure cannot be written.
pub fn run(args: &PlotArgs) -> Result<(), Error> {
    check_range(args)?;
    let mut folders = Vec::new();
    let mut runs = Vec::new();
    for name in &args.runs {
        let folder = RunFolder::open(name)?;
        let measurements = folder.measurements()?;
        if PARTS.iter().all(|(part, _)| measurements.curve(part).is_empty()) {
            return Err(Error::NoEpochs(folder.path().to_owned()));
        }
        runs.push(Curves { name: short_name(folder.path()), measurements });
        folders.push(folder);
    }
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (run, folder) in runs.iter_mut().zip(&folders) {
        // Trials of two sweeps have the same names.
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = folder.path().display().to_string();
        }
    }
    let svg = figure(&runs, args.from, args.to).to_svg();
    let path = match &args.out {
        Some(path) => {
            fs::write(path, svg).map_err(|source| Error::Write { path: path.clone(), source })?;
            path.clone()
        }
        None => folders[0].write_curves(&svg)?,
    };
    print(&path.display().to_string())
}

fn check_range(args: &PlotArgs) -> Result<(), Error> {
    for (flag, end) in [("--from", args.from), ("--to", args.to)] {
        if let Some(end) = end.filter(|end| !end.is_finite()) {
            return Err(Error::Option { flag, expected: "a number", got: end.to_string() });
        }
    }
    match (args.from, args.to) {
        (Some(from), Some(to)) if from >= to => {
            let expected = "a number below that of --to";
            Err(Error::Option { flag: "--from", expected, got: from.to_string() })
        }
        _ => Ok(()),
    }
}

fn short_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn figure(runs: &[Curves], from: Option<f64>, to: Option<f64>) -> Figure {
    let (mut series, mut marks, mut legend) = (Vec::new(), Vec::new(), Vec::new());
    for (run, colour) in runs.iter().zip(PALETTE.into_iter().cycle()) {
        for (part, stroke) in PARTS {
            let curve = run.measurements.curve(part).into_iter();
            let points = curve.map(|(epoch, nats)| (epoch as f64, nats)).collect();
            series.push(Series { colour, stroke, points });
        }
        // The best of training is its last, which tells nothing.
        let lowest = ["valid", "test"].into_iter().find_map(|part| {
            run.measurements.lowest(part).map(|(epoch, nats)| (part, epoch, nats))
        });
        let note = lowest.map(|(part, epoch, nats)| {
            marks.push(Mark { colour, point: (epoch as f64, nats) });
            format!("{part} {nats:.4} in epoch {epoch}")
        });
        legend.push(Entry { colour, stroke: Some(Stroke::Solid), text: run.name.clone(), note });
    }
    let drawn = |part: &str| runs.iter().any(|run| !run.measurements.curve(part).is_empty());
    let styles = PARTS.into_iter().filter(|(part, _)| drawn(part)).map(|(part, stroke)| Entry {
        colour: GREY,
        stroke: Some(stroke),
        text: part.to_owned(),
        note: None,
    });
    legend.extend(styles);
    if !marks.is_empty() {
        let text = "lowest".to_owned();
        legend.push(Entry { colour: GREY, stroke: None, text, note: None });
    }
    let points = || series.iter().flat_map(|series: &Series| &series.points);
    let some = "every run has a point";
    let x = Axis::around("epoch", Scale::Whole, points().map(|point| point.0)).expect(some);
    let y = Axis::around("nats per character", Scale::Linear, points().map(|point| point.1));
    let y = y.expect(some);
    // An end that is given may lie beyond the other one.
    let span = y.to - y.from;
    let from = from.unwrap_or_else(|| to.map_or(y.from, |to| y.from.min(to - span / 2.0)));
    let to = to.unwrap_or(y.to.max(from + span / 2.0));
    let (x, y) = (Axis { from: x.from.max(0.5), ..x }, Axis { from, to, ..y });
    Figure { size: (800, 500), columns: 1, panels: vec![Panel { x, y, series, marks }], legend }
}
