//! The loop of truncated back-propagation through time, as a strategy of burn-train's.
//!
//! Truncated back-propagation: Williams and Peng 1990, <https://doi.org/10.1162/neco.1990.2.4.490>.

mod telling;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::data::dataloader::Progress as LoaderProgress;
use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};
use burn_train::{
    EventProcessorTraining, Interrupter, Learner, LearnerEvent, SupervisedLearningStrategy,
    SupervisedTrainingEventProcessor, TrainLoader, TrainingComponents, TrainingItem, ValidLoader,
};
use poquelin_data::Vocabulary;
use poquelin_model::{CharLstmConfig, LstmState, Seed, devices};

use self::telling::{Told, Unread};
use super::clipping::{clip_factor, global_norm, scaled};
use super::model::{LanguageModel, OptimizerTap, Step, StepOutput};
use crate::config::Config;
use crate::error::Error;
use crate::evaluation::Evaluation;
use crate::model_file::{self, Progress, TrainingState};
use crate::progress::Console;
use crate::run_folder::RunFolder;
use crate::scores::Score;
use crate::signals::{Signal, Signals};

/// Everything the loop needs that burn-train does not carry.
pub struct Job {
    /// The run's configuration.
    pub config: Config,
    /// The model's configuration, which goes into its files.
    pub model_config: CharLstmConfig,
    /// The vocabulary, which goes there too.
    pub vocabulary: Vocabulary,
    /// Where checkpoints and metrics go.
    pub run: RunFolder,
    /// The validation part, if there is one.
    pub valid: Option<Evaluation>,
    /// The test part.
    pub test: Evaluation,
    /// Where the run shows itself.
    pub console: Arc<Console>,
    /// What may ask it to stop.
    pub signals: Signals,
    /// The optimizer's state, when a checkpoint needs it.
    pub tap: OptimizerTap,
    /// The device to train on, with gradients.
    pub device: Device,
}

/// How a run ended.
pub struct Ending {
    /// The model that is kept: the best on validation text, or else the last.
    pub model: LanguageModel,
    /// Epochs done.
    pub epochs: usize,
    /// Training steps done.
    pub steps: u64,
    /// Characters trained on.
    pub chars: u64,
    /// Seconds spent in training steps.
    pub train_seconds: f64,
    /// The mean loss over the last epoch, while it was trained on.
    pub train: Score,
    /// The kept model's score on the validation part.
    pub valid: Option<Score>,
    /// The kept model's score on the test part.
    pub test: Score,
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
        starting_epoch: usize,
    ) -> (LanguageModel, SupervisedTrainingEventProcessor<LanguageModel>) {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).take();
        let job = job.expect("a strategy serves one run");
        learner.fork(&job.device);
        let mut session = Session {
            train: train.to_device(&job.device),
            seed: Seed::new(job.config.train.seed),
            learner,
            processor: components.event_processor,
            interrupter: components.interrupter,
            step: 0,
            chars: 0,
            train_seconds: 0.0,
            reads_later: devices::hardware(&job.device).is_some(),
            unread: None,
            spoilt: None,
            told: Instant::now(),
            state: None,
            saved: Instant::now(),
            optimizer: None,
            best: None,
            job,
        };
        let ending = session.run(starting_epoch, components.num_epochs);
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
    step: u64,
    chars: u64,
    train_seconds: f64,
    /// Whether the device works by itself: a step's numbers are read when the next one is on its way.
    reads_later: bool,
    /// The step whose numbers are still to be read.
    unread: Option<Unread>,
    /// Whether a step had a loss or a norm that is not finite, `[1]`, where that is not read at once:
    /// no step changes anything from then on.
    spoilt: Option<Tensor<1, Bool>>,
    /// When the last step was told.
    told: Instant,
    /// The recurrent state behind the last chunk.
    state: Option<LstmState>,
    /// When the last checkpoint was written.
    saved: Instant,
    /// The optimizer's state behind the last step, when it was asked for.
    optimizer: Option<Vec<u8>>,
    best: Option<Best>,
}

struct Best {
    epoch: usize,
    score: Score,
    model: LanguageModel,
}

impl Session {
    fn run(&mut self, starting_epoch: usize, epochs: usize) -> Result<Ending, Error> {
        let mut last = None;
        for epoch in starting_epoch..=epochs {
            let train = self.train_epoch(epoch)?;
            last = Some((epoch, train));
            let model = self.learner.model().valid();
            let valid = self.validate(epoch, &model)?;
            let test = match self.job.config.train.test_every_epoch {
                true => Some(self.test(epoch, &model)?),
                false => None,
            };
            let event = LearnerEvent::EndEpoch(epoch);
            self.interrupter.fail_on_error(self.processor.process_train(event));
            self.report_epoch(epoch, train, valid, test);
            self.remember_best(epoch, valid, model.clone())?;
            self.save_checkpoint(Progress { step: self.step, epoch, chunk: 0 })?;
            self.write_sample(&model);
            self.stop_if_asked()?;
            if self.has_stalled(epoch) {
                self.job.console.line("no better for a while: stopping early");
                break;
            }
        }
        let (epochs, train) = last.ok_or_else(|| Error::Training("no epoch is left".to_owned()))?;
        let (model, valid) = match self.best.take() {
            Some(best) => (best.model, Some(best.score)),
            None => (self.learner.model().valid(), None),
        };
        self.job.console.phase(Some("testing"));
        let test = self.job.test.run(&model, |_, _| {})?;
        let (steps, chars, train_seconds) = (self.step, self.chars, self.train_seconds);
        Ok(Ending { model, epochs, steps, chars, train_seconds, train, valid, test })
    }

    /// One pass over the training part.
    fn train_epoch(&mut self, epoch: usize) -> Result<Score, Error> {
        let train = self.train.clone();
        let total_items = train.num_items();
        let event = LearnerEvent::StartSplit { epoch_number: epoch, total_items };
        self.interrupter.fail_on_error(self.processor.process_train(event));
        let every = Duration::from_secs_f64(self.job.config.checkpoint.every_seconds);
        let began = Instant::now();
        let mut told = Told::default();
        self.told = began;
        self.state = None;
        let mut chunks = train.iter();
        for expected in 0.. {
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
                self.job.tap.ask();
            }
            step.state = self.state.take();
            step.seed = self.seed.derive("dropout", self.step);
            self.state = Some(self.train_step(step, epoch, progress, &mut told)?);
            if let Some(record) = self.job.tap.take() {
                self.optimizer = Some(record.map_err(Error::Training)?);
            }
            if last || due {
                // Nothing is kept of a step that is not known to be sound.
                self.tell(None, &mut told)?;
            }
            if due && !last {
                self.save_checkpoint(Progress {
                    step: self.step,
                    epoch: epoch - 1,
                    chunk: expected + 1,
                })?;
                self.stop_if_asked()?;
            }
        }
        drop(chunks);
        let event = LearnerEvent::EndSplit(epoch);
        self.interrupter.fail_on_error(self.processor.process_train(event));
        self.train_seconds += began.elapsed().as_secs_f64();
        self.chars += told.tally.chars();
        let norm = told.norms / total_items as f64;
        let training = Some((told.learning_rate, norm));
        self.add_metrics(epoch, "train", told.tally.score(), began, training)
    }

    /// One update of the weights; gives the state to go on from.
    fn train_step(
        &mut self,
        step: Step,
        epoch: usize,
        progress: LoaderProgress,
        told: &mut Told,
    ) -> Result<LstmState, Error> {
        let chars = step.batch.characters() as u64;
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
        self.step += 1;
        let unread = Unread {
            loss,
            norm,
            step: self.step,
            epoch,
            chars,
            learning_rate: self.learner.lr_current().base(),
            progress,
        };
        self.tell(Some(unread), told)?;
        if !self.reads_later {
            self.tell(None, told)?;
        }
        let gradients = match factor {
            Some(factor) => scaled(&model, result.grads, factor),
            None => result.grads,
        };
        self.learner.optimizer_step(gradients);
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

    fn validate(&mut self, epoch: usize, model: &LanguageModel) -> Result<Option<Score>, Error> {
        let Some(valid) = &self.job.valid else {
            return Ok(None);
        };
        self.job.console.phase(Some("validating"));
        let began = Instant::now();
        let (processor, interrupter) = (&mut self.processor, &self.interrupter);
        let mut send = |event| interrupter.fail_on_error(processor.process_valid(event));
        send(LearnerEvent::StartSplit { epoch_number: epoch, total_items: valid.len() });
        let score = valid.run(model, |reading, progress| {
            let output = StepOutput { tensors: None, reading: *reading };
            let item = TrainingItem::new(output, progress, None, None);
            send(LearnerEvent::ProcessedItem(item));
        })?;
        send(LearnerEvent::EndSplit(epoch));
        self.job.console.phase(None);
        self.add_metrics(epoch, "valid", score, began, None).map(Some)
    }

    fn test(&self, epoch: usize, model: &LanguageModel) -> Result<Score, Error> {
        self.job.console.phase(Some("testing"));
        let began = Instant::now();
        let score = self.job.test.run(model, |_, _| {})?;
        self.job.console.phase(None);
        self.add_metrics(epoch, "test", score, began, None)
    }

    fn remember_best(
        &mut self,
        epoch: usize,
        valid: Option<Score>,
        model: LanguageModel,
    ) -> Result<(), Error> {
        let Some(score) = valid.filter(|score| score.nats_per_char.is_finite()) else {
            return Ok(());
        };
        let better = |best: &Best| score.nats_per_char < best.score.nats_per_char;
        if self.best.as_ref().is_none_or(better) {
            let progress = Progress { step: self.step, epoch, chunk: 0 };
            let (config, vocabulary) = (&self.job.model_config, &self.job.vocabulary);
            let bytes = model_file::to_bytes(&model.network, config, vocabulary, progress, None);
            self.job.run.write_best(&bytes)?;
            self.best = Some(Best { epoch, score, model });
        }
        Ok(())
    }

    fn save_checkpoint(&mut self, progress: Progress) -> Result<(), Error> {
        let optimizer = self.optimizer.take();
        let training =
            optimizer.map(|optimizer| TrainingState { optimizer, recurrent: self.state.clone() });
        let network = self.learner.model().network;
        let (config, vocabulary) = (&self.job.model_config, &self.job.vocabulary);
        let bytes = model_file::to_bytes(&network, config, vocabulary, progress, training);
        let keep = self.job.config.checkpoint.keep;
        self.job.run.write_checkpoint(progress.step, &bytes, keep)?;
        self.saved = Instant::now();
        Ok(())
    }

    fn has_stalled(&self, epoch: usize) -> bool {
        let patience = self.job.config.train.patience;
        let best = self.best.as_ref();
        patience > 0 && best.is_some_and(|best| epoch - best.epoch >= patience)
    }

    fn asked_to_stop(&self) -> bool {
        self.job.signals.received().is_some() || self.interrupter.should_stop()
    }

    /// Ends the run where somebody asked for it: by a signal, or in burn-train's dashboard.
    fn stop_if_asked(&self) -> Result<(), Error> {
        if let Some(error) = self.interrupter.error() {
            return Err(Error::Training(error.to_string()));
        }
        let quit = self.interrupter.should_stop().then_some(Signal::Interrupt);
        match self.job.signals.received().or(quit) {
            Some(signal) => Err(Error::Interrupted {
                signal,
                run: self.job.run.path().to_owned(),
                step: self.step,
            }),
            None => Ok(()),
        }
    }
}
