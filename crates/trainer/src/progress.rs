//! What a run shows while it runs, on standard error.
//!
//! burn-train feeds [`ProgressRenderer`] with its metrics; a [`Console`] turns them into a live
//! line on a terminal, or a plain line every few seconds without one.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use burn_train::LearnerSummary;
use burn_train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn_train::metric::{MetricDefinition, MetricId, NumericEntry};
use burn_train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::learning::metrics::Quantity;
use crate::scores::bits;

/// The first plain line comes this long after the start ...
const FIRST_LINE: Duration = Duration::from_secs(2);
/// ... and every other at most this long after the one before.
const NEXT_LINE: Duration = Duration::from_millis(4_500);
const TICK: Duration = Duration::from_millis(250);
/// The live line's length in steps of the bar.
const BAR_LENGTH: u64 = 1_000;

/// How a run shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A live line where standard error is a terminal, plain lines elsewhere.
    Automatic,
    /// Plain lines.
    Plain,
    /// Nothing: the terminal belongs to burn-train's dashboard.
    Silent,
}

/// Standard error as shared by all who write to it during a run.
pub struct Console {
    mode: Mode,
    status: Mutex<Status>,
}

enum Mode {
    Live(ProgressBar),
    Plain,
    /// The lines that are to be seen when the terminal is free again.
    Silent(Mutex<Vec<String>>),
}

struct Status {
    began: Instant,
    /// When the last plain line was due.
    line_due: Instant,
    drawn: Instant,
    /// What is going on when it is not training.
    phase: Option<String>,
    epoch: usize,
    epochs: usize,
    done: usize,
    chunks: usize,
    /// The share of the whole run that was done when it began to be shown.
    before: f64,
    /// Loss and speed of the steps since the last line.
    loss: Mean,
    speed: Mean,
}

#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: f64,
    last: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1.0;
        self.last = self.sum / self.count;
    }

    /// Begins anew, keeping the last mean until there is another.
    fn restart(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }
}

impl Console {
    /// Begins to show a run. The console falls silent when the last reference to it is dropped.
    pub fn start(style: Style) -> Arc<Self> {
        let mode = match style {
            Style::Silent => Mode::Silent(Mutex::default()),
            Style::Automatic if io::stderr().is_terminal() => Mode::Live(bar()),
            Style::Automatic | Style::Plain => Mode::Plain,
        };
        let now = Instant::now();
        let status = Status {
            began: now,
            line_due: now + FIRST_LINE,
            drawn: now,
            phase: None,
            epoch: 0,
            epochs: 0,
            done: 0,
            chunks: 0,
            before: 0.0,
            loss: Mean::default(),
            speed: Mean::default(),
        };
        let console = Arc::new(Self { mode, status: Mutex::new(status) });
        if matches!(console.mode, Mode::Plain) {
            let watched = Arc::downgrade(&console);
            thread::spawn(move || tick(&watched));
        }
        console
    }

    /// Writes a line of its own to standard error; while the dashboard has the terminal, once that is gone.
    pub fn line(&self, text: &str) {
        match &self.mode {
            Mode::Live(bar) => bar.suspend(|| to_stderr(text)),
            Mode::Plain => to_stderr(text),
            Mode::Silent(lines) => unpoisoned(lines).push(text.to_owned()),
        }
    }

    /// Writes to standard output, out of the live line's way. Nothing is written while the
    /// dashboard has it.
    ///
    /// # Errors
    ///
    /// Where standard output refuses.
    pub fn print(&self, text: &str) -> io::Result<()> {
        match &self.mode {
            Mode::Live(bar) => bar.suspend(|| to_stdout(text)),
            Mode::Plain => to_stdout(text),
            Mode::Silent(_) => Ok(()),
        }
    }

    /// Says what is going on that is not training; `None` when training goes on.
    pub fn phase(&self, phase: Option<&str>) {
        self.status().phase = phase.map(str::to_owned);
    }

    /// Says where training begins now: behind so many whole epochs and so many of the next one's chunks.
    pub fn train_from(&self, epochs: usize, epoch: usize, chunk: usize, chunks: usize) {
        let mut status = self.status();
        (status.began, status.epochs) = (Instant::now(), epochs);
        (status.epoch, status.done, status.chunks) = (epoch + 1, chunk, chunks);
        status.before = status.share();
    }

    /// Takes the live line off the screen, and shows what could not be shown until now.
    pub fn finish(&self) {
        match &self.mode {
            Mode::Live(bar) => bar.finish_and_clear(),
            Mode::Plain => {}
            Mode::Silent(lines) => unpoisoned(lines).drain(..).for_each(|line| to_stderr(&line)),
        }
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status();
        change(&mut status);
        if let Mode::Live(bar) = &self.mode
            && status.drawn.elapsed() >= Duration::from_millis(100)
        {
            status.drawn = Instant::now();
            bar.set_position((status.share() * BAR_LENGTH as f64) as u64);
            bar.set_message(status.text());
            status.loss.restart();
            status.speed.restart();
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        unpoisoned(&self.status)
    }
}

/// What only feeds what people read: after a panic any of it is good enough.
fn unpoisoned<T>(shown: &Mutex<T>) -> MutexGuard<'_, T> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Console {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Status {
    /// The share of the whole run that is done.
    fn share(&self) -> f64 {
        let epoch = self.done as f64 / self.chunks.max(1) as f64;
        let whole = self.epoch.saturating_sub(1) as f64 + epoch;
        (whole / self.epochs.max(1) as f64).min(1.0)
    }

    fn text(&self) -> String {
        if let (0, Some(phase)) = (self.epochs, &self.phase) {
            return phase.clone();
        }
        let share = self.share();
        let elapsed = self.began.elapsed().as_secs_f64();
        let left = match share - self.before {
            done if done > 0.0 => duration(elapsed * (1.0 - share) / done),
            _ => "?".to_owned(),
        };
        let epoch = self.epoch.min(self.epochs);
        let mut text = format!("epoch {epoch}/{}  {:3.0}%", self.epochs, share * 100.0);
        if let Some(phase) = &self.phase {
            text += &format!("  {phase}");
        }
        if self.loss.last > 0.0 {
            let (loss, speed) = (self.loss.last, self.speed.last);
            text += &format!("  loss {loss:.3} nats/char  {:.3} bits/char", bits(loss));
            text += &format!("  {} chars/s", thousands(speed as u64));
        } else {
            text += "  loss ? nats/char  ? bits/char  ? chars/s";
        }
        text + &format!("  {left} left")
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:20} {msg}")
        .expect("the template is a valid one")
        .progress_chars("━━ ");
    let bar = ProgressBar::new(BAR_LENGTH).with_style(style);
    bar.set_message("starting");
    bar.enable_steady_tick(TICK);
    bar
}

/// Writes the plain lines for as long as somebody holds the console.
fn tick(watched: &Weak<Console>) {
    loop {
        thread::sleep(TICK);
        let Some(console) = watched.upgrade() else {
            return;
        };
        let mut status = console.status();
        if Instant::now() < status.line_due {
            continue;
        }
        status.line_due = Instant::now() + NEXT_LINE;
        let text = status.text();
        status.loss.restart();
        status.speed.restart();
        drop(status);
        console.line(&text);
    }
}

/// Writes a line to standard error. Nobody is left to be told where that is gone.
pub fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn to_stdout(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Seconds as people read them: `0:07`, `12:30`, `3:05:00`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A count with its thousands set apart: `1,687,290`.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A burn-train renderer that writes to a [`Console`].
pub struct ProgressRenderer {
    console: Arc<Console>,
    loss: MetricId,
    speed: MetricId,
}

impl ProgressRenderer {
    /// Renders to `console`.
    pub fn new(console: Arc<Console>) -> Self {
        let id = |quantity: Quantity| MetricId::new(Arc::new(quantity.name().to_owned()));
        Self { console, loss: id(Quantity::Loss), speed: id(Quantity::Speed) }
    }
}

impl MetricsRendererTraining for ProgressRenderer {
    fn update_train(&mut self, state: MetricState) {
        // The mean of an epoch comes as `Final`: the line shows the latest steps only.
        if let MetricState::Numeric(entry, Some(NumericEntry::Value(value))) = state {
            if entry.metric_id == self.loss {
                self.console.update(|status| status.loss.add(value));
            } else if entry.metric_id == self.speed {
                self.console.update(|status| status.speed.add(value));
            }
        }
    }

    fn update_valid(&mut self, _state: MetricState) {}

    fn on_train_end(
        &mut self,
        _summary: Option<LearnerSummary>,
    ) -> Result<(), Box<dyn core::error::Error>> {
        Ok(())
    }
}

impl TrainingProgressLogger for ProgressRenderer {
    fn start(
        &mut self,
        total_epochs: usize,
        starting_epoch: usize,
        _total_items: Option<usize>,
        _label: Option<&str>,
    ) {
        self.console.update(|status| {
            status.epochs = total_epochs;
            status.epoch = starting_epoch;
        });
    }

    fn update_epoch(&mut self, epoch: usize) {
        self.console.update(|status| {
            status.epoch = (epoch + 1).min(status.epochs);
            status.done = 0;
        });
    }

    fn start_split(&mut self, split: &str, total_items: usize) {
        if split == "train" {
            self.console.update(|status| status.chunks = total_items);
        }
    }

    fn update_split(&mut self, items_processed: usize) {
        self.console.update(|status| {
            if status.phase.is_none() {
                status.done = items_processed;
            }
        });
    }

    fn end_split(&mut self) {}

    fn end(&mut self) {}

    fn log_event_training(&mut self, _event: String) {}
}

impl MetricsRendererEvaluation for ProgressRenderer {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
}

impl EvaluationProgressLogger for ProgressRenderer {
    fn start_global_progress(&mut self, _total_tests: usize) {}

    fn start_test(&mut self, _name: &str, _total_items: usize) {}

    fn update_test_progress(&mut self, _items_processed: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRenderer for ProgressRenderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _definition: MetricDefinition) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_goes_on_is_shown_where_it_stands() {
        let console = Console::start(Style::Silent);
        console.train_from(30, 14, 5, 10);
        let text = |console: &Console| console.status().text();
        assert!(text(&console).starts_with("epoch 15/30   48%"), "{}", text(&console));
        assert!(text(&console).ends_with("? left"), "{}", text(&console));
        // Half an epoch in a minute: fifteen more take half an hour.
        console.status().began -= Duration::from_secs(60);
        console.update(|status| status.done = 10);
        assert!(text(&console).ends_with("30:00 left"), "{}", text(&console));
    }
}
