//! The loop of truncated back-propagation through time, as a strategy of burn-train's.
//!
//! Truncated back-propagation: Williams and Peng 1990, <https://doi.org/10.1162/neco.1990.2.4.490>.

mod averaging;
mod diverging;
mod keeping;
mod scoring;
mod telling;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::data::dataloader::Progress as LoaderProgress;
use burn::tensor::{Bool, Device, Tensor};
use burn_train::{
    EventProcessorTraining, Interrupter, Learner, LearnerEvent, SupervisedLearningStrategy,
    SupervisedTrainingEventProcessor, TrainLoader, TrainingComponents, ValidLoader,
};
use poquelin_data::{ChunkLoader, Corpus, Vocabulary};
use poquelin_model::{CharLstm, LstmState, Seed, devices};
use serde_json::json;

use self::keeping::{KeptState, Writing};
pub use self::keeping::{Restored, Standing};
use self::telling::{Line, Unread};
use super::clipping::{changes, clip_factor, global_norm, scaled};
use super::metrics::Together;
use super::model::{LanguageModel, Step};
use super::optimizer_state::TappedAdamW;
use super::schedule::Schedule;
use crate::config::Config;
use crate::error::Error;
use crate::evaluation::Evaluation;
use crate::ledger::{EpochSums, Ledger, Progress};
use crate::model_file::Machine;
use crate::progress::Console;
use crate::run_folder::RunFolder;
use crate::scores::Score;
use crate::signals::Signals;
use crate::text::Fingerprint;

/// Everything the loop needs that burn-train does not carry.
pub struct Job {
    /// The run's configuration.
    pub config: Config,
    /// The text.
    pub corpus: Arc<Corpus>,
    /// Its vocabulary.
    pub vocabulary: Vocabulary,
    /// What it is known by.
    pub fingerprint: Fingerprint,
    /// Where checkpoints and metrics go.
    pub run: RunFolder,
    /// The chunks of the training part, which the learner gets as steps.
    pub chunks: ChunkLoader,
    /// The validation part, if there is one.
    pub valid: Option<Evaluation>,
    /// The test part, if it is to be scored.
    pub test: Option<Evaluation>,
    /// Where the run shows itself.
    pub console: Arc<Console>,
    /// What may ask it to stop.
    pub signals: Signals,
    /// The optimizer and the schedule, to begin with them anew at a checkpoint; the optimizer's tap
    /// gives its state to one.
    pub adam_w: TappedAdamW,
    /// See [`adam_w`](Self::adam_w).
    pub schedule: Schedule,
    /// The device to train on, with gradients.
    pub device: Device,
    /// The same in words.
    pub machine: Machine,
    /// When the process began with the run.
    pub began: Instant,
    /// Where the run stands. The learner has the weights of that place.
    pub standing: Standing,
}

/// How a run ended.
pub struct Ending {
    /// The model that is kept: the best on validation text, or else the last.
    pub model: LanguageModel,
    /// Where the run stands.
    pub progress: Progress,
    /// What it has come to.
    pub ledger: Ledger,
    /// The mean loss over the last epoch, while it was trained on.
    pub train: Score,
    /// The kept model's score on the validation part.
    pub valid: Option<Score>,
    /// The kept model's score on the test part, if that was to be scored.
    pub test: Option<Score>,
}

/// Trains in order, chunk after chunk, with the recurrent state carried from each to the next.
/// Validation has a state of its own.
pub struct TruncatedBptt {
    job: Mutex<Option<Job>>,
    ending: Mutex<Option<Result<Ending, Error>>>,
}

impl TruncatedBptt {
    /// A strategy for one run.
    pub fn new(job: Job) -> Self {
        Self { job: Mutex::new(Some(job)), ending: Mutex::new(None) }
    }

    /// How the run ended, once burn-train is done with the strategy.
    ///
    /// # Errors
    ///
    /// What ended it early.
    pub fn ending(&self) -> Result<Ending, Error> {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner).take();
        ending.unwrap_or_else(|| Err(Error::Training("it never began".to_owned())))
    }
}

impl SupervisedLearningStrategy<LanguageModel> for TruncatedBptt {
    fn fit(
        &self,
        components: TrainingComponents<LanguageModel>,
        mut learner: Learner<LanguageModel>,
        train: TrainLoader<LanguageModel>,
        _valid: ValidLoader<LanguageModel>,
        _starting_epoch: usize,
    ) -> (LanguageModel, SupervisedTrainingEventProcessor<LanguageModel>) {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut job = job.expect("a strategy serves one run");
        learner.fork(&job.device);
        let standing = std::mem::take(&mut job.standing);
        let mut session = Session {
            train: train.to_device(&job.device),
            seed: Seed::new(job.config.train.seed),
            learner,
            processor: components.event_processor,
            interrupter: components.interrupter,
            progress: Progress::default(),
            ledger: Ledger::default(),
            reads_later: devices::hardware(&job.device).is_some(),
            unread: None,
            spoilt: None,
            told: Instant::now(),
            untold: Together::default(),
            counted: job.began,
            state: None,
            saved: Instant::now(),
            optimizer: None,
            writing: Writing::default(),
            average: None,
            best: None,
            best_unsaved: false,
            metrics_cut: false,
            job,
        };
        session.adopt(standing);
        let ending = match session.run() {
            Err(interrupt @ Error::Interrupted { .. }) => Err(session.leave(interrupt)),
            ending => ending,
        };
        // Nothing is left half written, however the run ended.
        let ending = session.settle().and(ending);
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
        (session.learner.model(), session.processor)
    }
}

/// A run in progress.
struct Session {
    job: Job,
    learner: Learner<LanguageModel>,
    train: TrainLoader<LanguageModel>,
    processor: SupervisedTrainingEventProcessor<LanguageModel>,
    interrupter: Interrupter,
    seed: Seed,
    progress: Progress,
    ledger: Ledger,
    /// Whether the device works by itself: a step's numbers are read when the next one is on its way.
    reads_later: bool,
    /// The step whose numbers are still to be read.
    unread: Option<Unread>,
    /// Whether a step had a loss or a norm that is not finite, `[1]`, where that is not read at once:
    /// no step changes anything from then on.
    spoilt: Option<Tensor<1, Bool>>,
    /// When the last step was read.
    told: Instant,
    /// Steps of which burn-train's metrics are not told yet.
    untold: Together,
    /// Up to when the ledger's seconds are counted.
    counted: Instant,
    /// The recurrent state behind the last chunk.
    state: Option<LstmState>,
    /// When the last checkpoint was written.
    saved: Instant,
    /// The optimizer's state behind the last step, when it was asked for.
    optimizer: Option<KeptState>,
    /// The checkpoint that is on its way to disk.
    writing: Writing,
    /// The average of the weights, on the device without gradients, once there is one.
    average: Option<CharLstm>,
    /// The model of the ledger's best epoch.
    best: Option<LanguageModel>,
    /// Whether it is not on disk yet.
    best_unsaved: bool,
    /// Whether `metrics.jsonl` may lack its end.
    metrics_cut: bool,
}

impl Session {
    fn run(&mut self) -> Result<Ending, Error> {
        let Machine { device, threads, .. } = &self.job.machine;
        self.event(json!({ "event": "began", "device": device, "threads": threads }));
        // A run has a checkpoint from its first moment.
        if self.progress == Progress::default() {
            self.save_checkpoint()?;
        }
        let (epochs, patience) = (self.job.config.train.epochs, self.job.config.train.patience);
        let Progress { epoch, chunk, .. } = self.progress;
        self.job.console.train_from(epochs, epoch, chunk, self.job.chunks.chunks(epoch));
        while self.progress.epoch < epochs
            && !self.ledger.has_stalled(self.progress.epoch, patience)
        {
            let epoch = self.progress.epoch + 1;
            match self.train_epoch(epoch) {
                Err(divergence @ Error::Diverged { step, .. }) if self.may_roll_back() => {
                    self.roll_back(divergence, step)?;
                    continue;
                }
                trained => trained?,
            }
            let model = self.current_model();
            let valid = self.validate(epoch, &model)?;
            let test = match self.job.config.train.test_every_epoch {
                true => self.test(&model)?,
                false => None,
            };
            self.finish_epoch(epoch, &model, valid, test)?;
        }
        if self.progress.epoch < epochs {
            self.job.console.line("no better for a while: stopping early");
        }
        let model = self.kept_model();
        let test = self.test(&model)?.map(|(score, _)| score);
        self.settle_last()?;
        if self.metrics_cut {
            self.job.run.set_metrics(&self.ledger.metrics)?;
        }
        self.count_time();
        self.event(json!({ "event": "ended" }));
        let none_left = || Error::Training("no epoch is left".to_owned());
        Ok(Ending {
            model,
            progress: self.progress,
            train: self.ledger.train.ok_or_else(none_left)?.into(),
            valid: self.ledger.best.map(|best| best.valid.into()),
            test,
            ledger: self.ledger.clone(),
        })
    }

    /// One pass over the training part, or what is left of it.
    fn train_epoch(&mut self, epoch: usize) -> Result<(), Error> {
        let train = self.train.clone();
        let total_items = train.num_items();
        let event = LearnerEvent::StartSplit { epoch_number: epoch, total_items };
        self.interrupter.fail_on_error(self.processor.process_train(event));
        let every = Duration::from_secs_f64(self.job.config.checkpoint.every_seconds);
        self.told = Instant::now();
        self.untold = Together::default();
        if self.progress.chunk == 0 {
            self.state = None;
            self.ledger.epoch = EpochSums::default();
        }
        let mut chunks = train.iter();
        for expected in self.progress.chunk.. {
            let Some(step) = chunks.next() else { break };
            let mut step = step.map_err(|error| Error::Training(error.to_string()))?;
            let place = (step.batch.epoch + 1, step.batch.chunk);
            if place != (epoch, expected) {
                return Err(Error::Training(format!(
                    "chunk {} of epoch {} came out of order: chunk {expected} of epoch {epoch} \
                     is next, and the recurrent state belongs to it",
                    place.1, place.0
                )));
            }
            let progress = chunks.progress();
            let last = progress.is_completed();
            let due = self.saved.elapsed() >= every || self.asked_to_stop();
            if last || due {
                self.job.adam_w.tap.ask();
            }
            step.state = self.state.take();
            step.seed = self.seed.derive("dropout", self.progress.step);
            self.state = Some(self.train_step(step, epoch, progress)?);
            if last || due {
                let captured = self.job.adam_w.tap.take(&self.learner.model().network);
                self.optimizer = captured.map_err(Error::Training)?.map(KeptState::Captured);
                // Nothing is kept of a step that is not known to be sound.
                self.tell(None)?;
                self.stop_if_asked()?;
            }
            if due {
                // Behind the last chunk of an epoch comes the scoring, which may take long, and then another checkpoint.
                let again = if last { self.optimizer.clone() } else { None };
                self.save_checkpoint()?;
                self.optimizer = again;
            } else if self.writing.is_done() {
                self.settle()?;
            }
        }
        drop(chunks);
        let event = LearnerEvent::EndSplit(epoch);
        self.interrupter.fail_on_error(self.processor.process_train(event));
        Ok(())
    }

    /// One update of the weights; gives the state to go on from.
    fn train_step(
        &mut self,
        step: Step,
        epoch: usize,
        progress: LoaderProgress,
    ) -> Result<LstmState, Error> {
        let (chars, chunk) = (step.batch.characters() as u64, step.batch.chunk);
        let result = self.learner.train_step(step);
        let mut output = result.item;
        let (loss, state) = output.tensors.take().expect("a step gives its tensors");
        let (loss, model) = (loss.inner(), self.learner.model());
        let norm = global_norm(&model, &result.grads);
        let limit = Some(self.job.config.optimizer.clip).filter(|&limit| limit > 0.0);
        let mut factor = limit.map(|limit| clip_factor(norm.clone(), limit));
        if self.reads_later {
            factor = Some(self.spoil(&loss, &norm, factor));
        }
        self.learner.lr_step();
        self.optimizer = None;
        self.progress.step += 1;
        self.progress.chunk += 1;
        let unread = Unread {
            loss,
            norm,
            step: self.progress.step,
            epoch,
            chunk,
            chars,
            learning_rate: self.learner.lr_current().base(),
            progress,
        };
        self.tell(Some(unread))?;
        if !self.reads_later
            && let Err(divergence) = self.read()
        {
            return Err(self.report_divergence(divergence, Some(&result.grads)));
        }
        factor = factor.filter(|factor| self.reads_later || changes(factor));
        let gradients = match factor {
            Some(factor) => scaled(&model, result.grads, factor),
            None => result.grads,
        };
        drop(model);
        self.learner.optimizer_step(gradients);
        self.add_to_average();
        Ok(state)
    }

    /// The factor of the gradients, or no number if this step or one before is not finite: of such
    /// gradients the optimizer takes no notice.
    fn spoil(
        &mut self,
        loss: &Tensor<1>,
        norm: &Tensor<1>,
        factor: Option<Tensor<1>>,
    ) -> Tensor<1> {
        let sound = |number: &Tensor<1>| number.clone().abs().lower_elem(f32::MAX);
        let mut spoilt = sound(loss).bool_and(sound(norm)).bool_not();
        if let Some(before) = self.spoilt.take() {
            spoilt = spoilt.bool_or(before);
        }
        self.spoilt = Some(spoilt.clone());
        factor.unwrap_or_else(|| norm.ones_like()).mask_fill(spoilt, f32::NAN)
    }

    /// Adds an epoch to the run's sums, tells of it and saves it.
    fn finish_epoch(
        &mut self,
        epoch: usize,
        model: &LanguageModel,
        valid: Option<(Score, f64)>,
        test: Option<(Score, f64)>,
    ) -> Result<(), Error> {
        let event = LearnerEvent::EndEpoch(epoch);
        self.interrupter.fail_on_error(self.processor.process_train(event));
        let sums = std::mem::take(&mut self.ledger.epoch);
        let train = sums.tally.score();
        self.ledger.chars += sums.tally.chars();
        self.ledger.train_seconds += sums.seconds;
        self.ledger.train = Some(train.into());
        self.progress = Progress { epoch, chunk: 0, ..self.progress };
        let parts = [("train", Some((train, sums.seconds))), ("valid", valid), ("test", test)];
        for (split, score) in parts {
            let Some((score, seconds)) = score else { continue };
            let training = (split == "train").then_some(&sums);
            self.add_metrics(&Line::new(
                epoch,
                split,
                self.progress.step,
                score,
                seconds,
                training,
            ))?;
        }
        let [valid, test] = [valid, test].map(|part| part.map(|(score, _)| score));
        self.report_epoch(epoch, train, valid, test);
        self.remember_best(epoch, valid, model);
        self.watch_validation(epoch, valid);
        self.save_checkpoint()?;
        self.write_sample(model);
        self.stop_if_asked()
    }
}
