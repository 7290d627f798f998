//! One trial: a run like any other, but that its test part is not read.

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;

use super::super::resume::{check_changes, exactness, revive};
use super::super::training::{Parts, Ready, Summary, Text, adam_w, complete, machine, style};
use crate::cli::ShowArgs;
use crate::device::DeviceChoice;
use crate::error::Error;
use crate::learning::strategy::Restored;
use crate::progress::{Console, thousands};
use crate::run_folder::RunFolder;
use crate::signals::Signals;
use crate::sweep::Trial;

/// What all trials are trained with.
pub(super) struct Site<'a> {
    pub(super) show: ShowArgs,
    /// `--device`, if it was given.
    pub(super) device: Option<&'a str>,
    pub(super) text: Text,
    pub(super) choice: DeviceChoice,
    pub(super) gradient_device: Device,
    pub(super) signals: Signals,
}

impl Site<'_> {
    /// Trains a trial to its end, in a new folder or in the one where it was interrupted.
    pub(super) fn train(
        &self,
        path: &Path,
        trial: &Trial,
        heading: &str,
    ) -> Result<Summary, Error> {
        let began = Instant::now();
        let (config, text) = (trial.config.clone(), self.text.clone());
        let console = Console::start(style(&self.show));
        console.line(heading);
        let device = &self.gradient_device;
        let parts = Parts::new(&config, &text.corpus, &device.clone().inner())?;
        let (folder, newest) = match RunFolder::check_vacant(path, false) {
            Ok(()) => {
                let (vocabulary, fingerprint) = (&text.vocabulary, &text.fingerprint);
                (RunFolder::create(path, false, &config, vocabulary, fingerprint)?, None)
            }
            Err(_) => {
                let folder = RunFolder::resume(&path.to_string_lossy())?;
                let newest = folder.newest_checkpoint()?;
                (folder, newest)
            }
        };
        let header = newest.as_ref().map(|newest| newest.contents.header.clone());
        if let Some(header) = &header {
            check_changes(&folder, header, &config)?;
        }
        let adam_w = adam_w(&config);
        let (restored, warnings) =
            revive(&folder, newest, &config, &text, &parts, &adam_w, device)?;
        let Restored { network, optimizer, standing } = restored;
        folder.set_metrics(&standing.ledger.metrics)?;
        for warning in warnings {
            console.line(&format!("warning: {warning}"));
        }
        let (path, parameters) = (path.display(), thousands(network.num_params() as u64));
        console.line(&match header.as_ref().and_then(|header| header.training.as_ref()) {
            Some(training) => format!(
                "{path} goes on behind step {} on {}: {}; {parameters} parameters",
                thousands(standing.progress.step),
                self.choice.backend,
                exactness(Some(&training.machine), &machine(self.choice)),
            ),
            None => format!("{path}: {parameters} parameters on {}", self.choice.backend),
        });
        let finished = complete(Ready {
            show: &self.show,
            device: self.device,
            began,
            config,
            text,
            parts: Parts { test: None, ..parts },
            choice: self.choice,
            gradient_device: device.clone(),
            console,
            signals: self.signals.clone(),
            folder,
            network,
            adam_w,
            optimizer,
            standing,
        })?;
        Ok(finished.summary)
    }
}
