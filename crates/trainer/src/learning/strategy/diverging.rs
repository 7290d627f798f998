//! What is told of a step whose loss or gradient is no number.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use poquelin_model::sum_of_squares;
use serde::Serialize;

use super::{LanguageModel, Session};
use crate::config::OnDivergence;
use crate::error::Error;

/// A step that diverged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Divergence {
    pub(super) step: u64,
    /// From 1.
    pub(super) epoch: usize,
    pub(super) chunk: usize,
    pub(super) loss: f64,
    pub(super) norm: f64,
    pub(super) learning_rate: f64,
}

/// `divergence.json`. Numbers that may be none are text.
#[derive(Serialize)]
struct Report {
    step: u64,
    epoch: usize,
    chunk: usize,
    loss: String,
    gradient_norm: String,
    learning_rate: f64,
    /// The newest checkpoint from before.
    checkpoint: Option<String>,
    parameters: Vec<Norms>,
    lanes: Vec<Lane>,
}

/// A parameter's norm, and that of its gradient where it was still at hand.
#[derive(Serialize)]
struct Norms {
    path: String,
    norm: String,
    gradient_norm: Option<String>,
}

/// What a lane read.
#[derive(Serialize)]
struct Lane {
    /// The position of its first character in the text, from 0.
    start: usize,
    /// The position behind its last.
    end: usize,
    text: String,
}

impl Session {
    /// Writes the report of a step; gives the error that tells of it.
    pub(super) fn report_divergence(
        &mut self,
        divergence: Divergence,
        gradients: Option<&GradientsParams>,
    ) -> Error {
        let Divergence { step, epoch, chunk, loss, norm, learning_rate } = divergence;
        // What is being written is from before, and is to be seen.
        if let Err(error) = self.settle() {
            return error;
        }
        // One of the weights right before the step gives no number at any rate, and is no place to go on from.
        let newest = self.job.run.back_before(step.saturating_sub(1)).ok().flatten();
        let checkpoint = newest.map(|newest| newest.contents.header.progress.step);
        let mut norms = NormReader { path: Vec::new(), gradients, found: Vec::new() };
        let LanguageModel { network, .. } = self.learner.model();
        network.visit(&mut norms);
        let report = Report {
            step,
            epoch,
            chunk,
            loss: loss.to_string(),
            gradient_norm: norm.to_string(),
            learning_rate,
            checkpoint: checkpoint.map(|step| self.job.run.checkpoint(step).display().to_string()),
            parameters: norms.found,
            lanes: self.lanes(epoch - 1, chunk),
        };
        let path = match self.job.run.write_divergence(&report) {
            Ok(path) => path,
            Err(error) => return error,
        };
        self.event(serde_json::json!({
            "event": "diverged",
            "at_step": step,
            "loss": loss.to_string(),
            "gradient_norm": norm.to_string(),
        }));
        let run = self.job.run.path();
        let optimizer = &self.job.config.optimizer;
        let (what, set) = match optimizer.clip > 0.0 {
            true => {
                let half = optimizer.learning_rate / 2.0;
                ("lower optimizer.learning_rate", format!("optimizer.learning_rate={half}"))
            }
            false => ("set optimizer.clip", "optimizer.clip=1".to_owned()),
        };
        let advice = format!("{what}, as in `poquelin resume {} --set {set}`", run.display());
        Error::Diverged { step, epoch, loss, norm, checkpoint, report: path, advice }
    }

    /// Whether a diverged run is to go back to a checkpoint once more.
    pub(super) fn may_roll_back(&self) -> bool {
        let train = &self.job.config.train;
        train.on_divergence == OnDivergence::Rollback && self.ledger.rollbacks < train.rollbacks
    }

    fn lanes(&self, epoch: usize, chunk: usize) -> Vec<Lane> {
        let layout = self.job.chunks.layout(epoch);
        let lane = |lane| {
            let range = layout.inputs(chunk, lane);
            let mut tokens = Vec::with_capacity(range.len());
            self.job.corpus.extend_into(range.clone(), &mut tokens);
            let tokens: Vec<u32> = tokens.into_iter().map(|token: i32| token as u32).collect();
            let text = self.job.vocabulary.decode(&tokens);
            Lane { start: range.start, end: range.end, text }
        };
        (0..layout.batch()).map(lane).collect()
    }
}

struct NormReader<'a> {
    path: Vec<String>,
    gradients: Option<&'a GradientsParams>,
    found: Vec<Norms>,
}

impl ModuleVisitor for NormReader<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        fn norm<const D: usize>(tensor: Tensor<D>) -> String {
            sum_of_squares(tensor).sqrt().into_scalar::<f32>().to_string()
        }
        let gradient = self.gradients.and_then(|gradients| gradients.get::<D>(param.id));
        self.found.push(Norms {
            path: self.path.join("."),
            norm: norm(param.val().inner()),
            gradient_norm: gradient.map(norm),
        });
    }
}
