//! How a run is kept: checkpoints, the best model, and the way back to them.
//!
//! Between two steps a checkpoint takes hold of all that it needs, which copies nothing. Another
//! thread gives it its form, its checksum and its place on disk while training goes on.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;
use burn_train::Learner;
use poquelin_model::{CharLstm, LstmState};
use serde_json::json;

use super::{LanguageModel, Session};
use crate::config::{AverageKind, OnFailure};
use crate::error::Error;
use crate::learning::optimizer_state::{CapturedState, OptimizerState, TappedAdamW};
use crate::ledger::{Best, Ledger, Progress};
use crate::model_file::{Contents, Header, Scores};
use crate::scores::Score;
use crate::signals::Signal;

/// A checkpoint as it is in use.
pub struct Restored {
    /// The network, on the device of training.
    pub network: CharLstm,
    /// The optimizer in its state.
    pub optimizer: ModuleOptimizer,
    /// Where the run stood, and what it had come to.
    pub standing: Standing,
}

/// Where a run stands, but for its weights.
#[derive(Default)]
pub struct Standing {
    /// Its place.
    pub progress: Progress,
    /// Its sums.
    pub ledger: Ledger,
    /// The recurrent state to go on from.
    pub recurrent: Option<LstmState>,
    /// The optimizer's state, until the next step changes it.
    pub optimizer_state: Option<OptimizerState>,
    /// The average of the weights, on the device without gradients.
    pub average: Option<CharLstm>,
    /// The best model so far, on the device without gradients.
    pub best: Option<LanguageModel>,
}

impl Restored {
    /// Begins anew with the average of the weights where it was of another kind.
    #[must_use]
    pub fn averaged(mut self, was: AverageKind, now: AverageKind) -> Self {
        if was != now {
            self.standing.average = None;
            let ledger = &mut self.standing.ledger;
            (ledger.averaged, ledger.triggered) = (0, false);
            ledger.validations.clear();
        }
        self
    }

    /// Takes a checkpoint apart.
    ///
    /// # Errors
    ///
    /// Where a part of it is missing or does not fit the others.
    pub fn new(
        path: &Path,
        mut contents: Contents,
        adam_w: TappedAdamW,
        device: &Device,
    ) -> Result<Self, Error> {
        let misfit = |source| Error::Weights { path: path.to_owned(), source };
        let network = contents.network(path, device)?;
        let recurrent = contents.recurrent(path, device)?;
        let average = contents.average(path, &device.clone().inner())?;
        let (progress, state) = (contents.header.progress, contents.optimizer());
        let (optimizer, state) = match progress.step {
            0 => (ModuleOptimizer::from(adam_w), state),
            _ => state.into_optimizer(adam_w, &network).map_err(misfit)?,
        };
        let Some(training) = contents.header.training else {
            let reason = "it is a model, not a checkpoint to go on from".to_owned();
            return Err(Error::Damaged { path: path.to_owned(), reason });
        };
        let (ledger, optimizer_state) = (training.ledger, Some(state));
        let standing =
            Standing { progress, ledger, recurrent, optimizer_state, average, best: None };
        Ok(Self { network, optimizer, standing })
    }
}

/// The optimizer's state, as a checkpoint gets it.
#[derive(Clone)]
pub(super) enum KeptState {
    /// Still on its device.
    Captured(CapturedState),
    /// As it was read from a file.
    Read(OptimizerState),
}

impl KeptState {
    fn read(self) -> OptimizerState {
        match self {
            Self::Captured(state) => state.read(),
            Self::Read(state) => state,
        }
    }
}

/// What is to be written, read from the device when somebody first looks.
type Lazy = LazyLock<Contents, Box<dyn FnOnce() -> Contents + Send>>;
type Work = Arc<dyn Fn() -> Result<(), Error> + Send + Sync>;

/// A write that is under way, and what it writes for as long as that is not on disk.
#[derive(Default)]
pub(super) struct Writing {
    thread: Option<JoinHandle<Result<(), Error>>>,
    work: Option<Work>,
    /// The step whose checkpoint it is.
    step: u64,
}

impl Writing {
    fn start(&mut self, step: u64, work: Work) {
        self.step = step;
        self.work = Some(work.clone());
        self.thread = Some(thread::spawn(move || work()));
    }

    pub(super) fn is_done(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for its end.
    fn end(&mut self) -> Result<(), Error> {
        let panicked = |_| Err(Error::Training("the checkpoint's thread panicked".to_owned()));
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(panicked)?;
        self.work = None;
        Ok(())
    }

    /// Waits for its end, and writes once more what could not be written.
    fn insist(&mut self) -> Result<(), Error> {
        // Why it failed the first time no longer matters if the second time it does not.
        let _ = self.end();
        self.work.take().map_or(Ok(()), |work| work())
    }
}

impl Session {
    /// Keeps the model if no epoch before was as good on validation text.
    pub(super) fn remember_best(
        &mut self,
        epoch: usize,
        valid: Option<Score>,
        model: &LanguageModel,
    ) {
        let Some(score) = valid.filter(|score| score.nats_per_char.is_finite()) else {
            return;
        };
        let better = |best: Best| score.nats_per_char < best.valid.nats_per_char;
        if self.ledger.best.is_none_or(better) {
            self.ledger.best = Some(Best { epoch, valid: score.into() });
            self.best = Some(model.clone());
            self.best_unsaved = true;
        }
    }

    /// Writes a checkpoint of where the run stands, and the best model if it is not on disk yet.
    /// Returns before either is there; [`settle`](Self::settle) waits for it.
    pub(super) fn save_checkpoint(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        self.settle()?;
        self.count_time();
        let (network, optimizer) = (self.learner.model().valid().network, self.optimizer.take());
        let header = self.header(self.progress);
        let (recurrent, average) = (self.state.clone(), self.average.clone());
        let sums = (self.job.machine.clone(), self.ledger.clone());
        let checkpoint = Lazy::new(Box::new(move || {
            // There is none before the first step.
            let optimizer = optimizer.map(KeptState::read).unwrap_or_default();
            Contents::checkpoint(header, &network, sums, optimizer, recurrent, average.as_ref())
        }));
        let best = if self.best_unsaved { self.best_contents() } else { None };
        if self.reads_later {
            // A GPU is read from the thread that gives it its work.
            LazyLock::force(&checkpoint);
            best.as_ref().map(LazyLock::force);
        }
        self.best_unsaved = false;
        let (run, keep) = (self.job.run.clone(), self.job.config.checkpoint.keep);
        let step = self.progress.step;
        self.writing.start(
            step,
            Arc::new(move || {
                let began = Instant::now();
                if let Some(best) = &best {
                    run.write_best(best)?;
                }
                run.write_checkpoint(&checkpoint, keep)?;
                tracing::debug!(
                    step,
                    seconds = began.elapsed().as_secs_f64(),
                    "checkpoint written"
                );
                Ok(())
            }),
        );
        self.saved = Instant::now();
        tracing::debug!(step, seconds = began.elapsed().as_secs_f64(), "checkpoint read");
        Ok(())
    }

    fn best_contents(&self) -> Option<Lazy> {
        let (best, model) = (self.ledger.best?, self.best.clone()?);
        let mut header = self.header(Progress { epoch: best.epoch, ..self.progress });
        header.scores = Scores { valid: Some(best.valid), ..Scores::default() };
        Some(Lazy::new(Box::new(move || Contents::model(header, &model.network))))
    }

    fn header(&self, progress: Progress) -> Header {
        let job = &self.job;
        Header::new(&job.config, &job.vocabulary, &job.fingerprint, progress)
    }

    /// Waits until the checkpoint that is being written is on disk.
    ///
    /// # Errors
    ///
    /// Where it could not be written and the run is to stop then.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let ended = self.writing.end();
        self.take_failure(ended)
    }

    /// As [`settle`](Self::settle), and tries once more: no other checkpoint comes behind it.
    pub(super) fn settle_last(&mut self) -> Result<(), Error> {
        let ended = self.writing.insist();
        self.take_failure(ended)
    }

    fn take_failure(&mut self, ended: Result<(), Error>) -> Result<(), Error> {
        let Err(error) = ended else {
            return Ok(());
        };
        self.best_unsaved = self.best.is_some();
        let message = error.to_string();
        self.event(json!({ "event": "checkpoint failed", "error": message }));
        match self.job.config.checkpoint.on_failure {
            OnFailure::Stop => Err(error),
            OnFailure::Continue => {
                self.job.console.line(&format!(
                    "warning: no checkpoint of step {}: {error}; training goes on, and what was \
                     saved before stands",
                    self.writing.step
                ));
                Ok(())
            }
        }
    }

    /// Adds the time since it was last called to the sums.
    pub(super) fn count_time(&mut self) {
        let (now, began) = (Instant::now(), self.counted);
        self.ledger.seconds += (now - began).as_secs_f64();
        self.counted = now;
    }

    /// Saves what an interrupt would lose; gives the error that tells of it.
    pub(super) fn leave(&mut self, interrupt: Error) -> Error {
        // Without the optimizer's state nothing was done since the last checkpoint, or that is on its way.
        let saved = match self.optimizer {
            Some(_) if self.writing.step != self.progress.step => self.save_checkpoint(),
            _ => Ok(()),
        };
        self.event(json!({ "event": "interrupted" }));
        // Here no failure may pass: the run is saved, or it is not.
        match saved.and_then(|()| self.writing.insist()) {
            Ok(()) => interrupt,
            Err(error) => error,
        }
    }

    pub(super) fn asked_to_stop(&self) -> bool {
        self.job.signals.received().is_some() || self.interrupter.should_stop()
    }

    /// Ends the run where somebody asked for it: by a signal, or in burn-train's dashboard.
    pub(super) fn stop_if_asked(&self) -> Result<(), Error> {
        if let Some(error) = self.interrupter.error() {
            return Err(Error::Training(error.to_string()));
        }
        let quit = self.interrupter.should_stop().then_some(Signal::Interrupt);
        match self.job.signals.received().or(quit) {
            Some(signal) => Err(Error::Interrupted {
                signal,
                run: self.job.run.path().to_owned(),
                step: self.progress.step,
            }),
            None => Ok(()),
        }
    }

    /// Goes back to the newest checkpoint from which another rate leads elsewhere, to go on from there at a
    /// lower one.
    ///
    /// # Errors
    ///
    /// The divergence, where there is no such checkpoint.
    pub(super) fn roll_back(&mut self, divergence: Error, step: u64) -> Result<(), Error> {
        self.settle()?;
        // The weights right before the step are what it failed with: no rate has a part in it.
        let Some(newest) = self.job.run.back_before(step.saturating_sub(1))? else {
            return Err(divergence);
        };
        let device = self.job.device.clone();
        let was = newest.contents.header.config.average.kind;
        let restored =
            Restored::new(&newest.path, newest.contents, self.job.adam_w.clone(), &device)?
                .averaged(was, self.job.config.average.kind);
        self.count_time();
        let before = std::mem::take(&mut self.ledger);
        let mut standing = restored.standing;
        standing.best = self.best.take();
        standing.ledger = Ledger {
            rollbacks: before.rollbacks + 1,
            rate_factor: before.rate_factor * self.job.config.train.rollback_factor,
            seconds: before.seconds,
            best: before.best,
            ..standing.ledger
        };
        self.job.run.set_metrics(&standing.ledger.metrics)?;
        self.learner = Learner::new(
            LanguageModel { network: restored.network },
            restored.optimizer,
            self.job.schedule.at(standing.progress.step, standing.ledger.rate_factor),
        );
        self.job.chunks.seek(standing.progress.epoch, standing.progress.chunk);
        self.adopt(standing);
        let Ledger { rollbacks, rate_factor, .. } = self.ledger;
        let (step, most) = (self.progress.step, self.job.config.train.rollbacks);
        self.job.console.line(&format!(
            "{divergence}\nback to the checkpoint of step {step}, now at {rate_factor} of the \
             learning rate ({rollbacks} of {most} times)"
        ));
        self.event(json!({ "event": "rolled back", "rate_factor": rate_factor }));
        Ok(())
    }

    /// Goes on from where another run stood.
    pub(super) fn adopt(&mut self, standing: Standing) {
        let Standing { progress, ledger, recurrent, optimizer_state, average, best } = standing;
        (self.progress, self.ledger, self.state) = (progress, ledger, recurrent);
        self.optimizer = optimizer_state.map(KeptState::Read);
        (self.average, self.best, self.best_unsaved) = (average, best, false);
        (self.unread, self.spoilt) = (None, None);
    }

    /// Adds to the log of what happened to the run. That it cannot be written ends no training.
    pub(super) fn event(&self, mut event: serde_json::Value) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        event["unix_seconds"] = json!(now.unwrap_or_default().as_secs());
        event["step"] = json!(self.progress.step);
        if let Err(error) = self.job.run.add_event(&event) {
            tracing::warn!("{error}");
        }
    }

    /// The kept model: the best on validation text, or else the last.
    pub(super) fn kept_model(&self) -> LanguageModel {
        self.best.clone().unwrap_or_else(|| self.current_model())
    }
}
