//! `poquelin bench`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::bench::{Implementation, Line, Row, gemm_rate, is_card};
use crate::cli::BenchArgs;
use crate::error::Error;
use crate::threads;

/// Measures and prints a table, or a line of JSON per row.
///
/// # Errors
///
/// Where there is no such row or device, or the other measurements cannot be read.
pub fn run(args: &BenchArgs) -> Result<(), Error> {
    let rows = args.rows();
    let others = args.against.as_deref().map(read_lines).transpose()?.unwrap_or_default();
    threads::run(args.threads.into(), || measure(args, &rows, &others))
}

fn measure(args: &BenchArgs, rows: &[Row], others: &[Line]) -> Result<(), Error> {
    let choice = args.device.choice()?;
    let device = choice.open()?;
    let implementations = match args.implementation {
        Some(implementation) => vec![implementation],
        None => Implementation::ALL.to_vec(),
    };
    let rate = gemm_rate(&device);
    if !args.json {
        super::print(&format!(
            "{}, matrix products at {:.0} GFLOP/s\n\n{:<19}{:<11}{:>12}{:>11}{:>8}{:>9}",
            choice.backend,
            rate / 1e9,
            "row",
            "",
            "chars/s",
            "ms/step",
            "of gemm",
            "fused is"
        ))?;
    }
    let is_gpu = is_card(&device);
    let is_asked = |row: &&Row| args.row.is_some() || is_gpu || !row.is_for_gpu();
    for row in rows.iter().filter(is_asked) {
        let mut lines: Vec<Line> = Vec::new();
        for &implementation in &implementations {
            let seconds = row.measure(implementation, &device).as_secs_f64();
            lines.push(Line {
                row: row.name.to_owned(),
                implementation: implementation.name().to_owned(),
                backend: choice.backend.to_string(),
                chars_per_second: row.characters() as f64 / seconds,
                milliseconds: seconds * 1e3,
                gemm_fraction: Some(row.operations() / seconds / rate),
            });
            if args.json {
                super::print_json(&lines[lines.len() - 1])?;
            }
        }
        if !args.json {
            lines.extend(others.iter().filter(|line| line.row == row.name).cloned());
            print_rows(&lines)?;
        }
    }
    Ok(())
}

fn print_rows(lines: &[Line]) -> Result<(), Error> {
    let fused = lines.iter().find(|line| line.implementation == Implementation::Fused.name());
    for line in lines {
        let share = line.gemm_fraction.map(|share| format!("{:.0} %", 100.0 * share));
        let times =
            fused.map(|fused| format!("{:.1} ×", fused.chars_per_second / line.chars_per_second));
        super::print(&format!(
            "{:<19}{:<11}{:>12.0}{:>11.3}{:>8}{:>9}",
            line.row,
            line.implementation,
            line.chars_per_second,
            line.milliseconds,
            share.unwrap_or_default(),
            times.unwrap_or_default(),
        ))?;
    }
    Ok(())
}

/// Measurements that another program printed as lines of JSON.
fn read_lines(path: &Path) -> Result<Vec<Line>, Error> {
    let unreadable = |source| Error::Read { path: path.to_owned(), source };
    let reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut lines = Vec::new();
    for (index, line) in reader.lines().enumerate() {
        let line = line.map_err(unreadable)?;
        if !line.trim().is_empty() {
            lines.push(serde_json::from_str(&line).map_err(|source| Error::BenchLine {
                path: path.to_owned(),
                line: index + 1,
                source,
            })?);
        }
    }
    Ok(lines)
}
