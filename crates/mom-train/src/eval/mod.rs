//! Losses of a trained model on held-out documents: its own run's, or any source's.

mod downstream;
mod measures;
mod scores;

use std::path::Path;

use mom_data::{Progress, SourceConfig};
use serde::Serialize;

use crate::config::check_downstream;
use crate::data::unchanged_sources;
use crate::error::require;
use crate::lease::Lease;
use crate::telemetry::Downstream;
use crate::train::{HeldOut, validate};
use crate::trained::Trained;
use crate::{DeviceKind, Error, Generator, Precision, Prepared, Result, RunConfig, Validation};

pub(crate) use downstream::downstream;
pub use scores::Score;

/// What a model is evaluated on, and how.
#[derive(Debug, Clone, Default)]
pub struct EvalOptions {
    /// Sources, all of whose documents are held out; the run's own held-out documents if there are none.
    pub sources: Vec<SourceConfig>,
    /// Batches, at most. If absent: of sources all of a pass (see [`mom_data::Loader::pass`]), else as many as the run's own
    /// validations look at.
    pub batches: Option<usize>,
    /// Where.
    pub device: DeviceKind,
    /// Element type; the device's own if absent.
    pub precision: Option<Precision>,
    /// Documents of each kind that the model draws for, to be scored; 0 for none.
    pub scored: usize,
    /// Documents of each kind whose truth the model is asked for, at least [`CANDIDATES`](crate::config::CANDIDATES); 0 for none.
    pub downstream: usize,
}

/// Losses on held-out documents.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Optimiser steps that the model was trained for.
    pub step: u64,
    /// Modalities with a target, and their losses.
    pub loss: std::collections::BTreeMap<String, f64>,
    /// What is trained on, over all modalities.
    pub joint: f64,
    /// Of text; `None` without text.
    pub bits_per_byte: Option<f64>,
    /// Targets that were looked at.
    pub n_targets: usize,
    /// What the model draws, against what the documents have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Score>,
    /// What of the documents' truth it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downstream: Option<Downstream>,
}

/// What to do about a run whose documents are others now.
fn other_documents(error: Error) -> Error {
    match error {
        Error::OtherData { path, what } => {
            Error::Content { path, reason: format!("{what}; put them back, or name others to evaluate on (--data)") }
        }
        error => error,
    }
}

/// Evaluates a model. Tokens lie in `folder`/tokens; what is missing there is made.
///
/// With the defaults this is the last validation of the run at that step, to the bit on the same device.
///
/// # Errors
/// Sources that cannot be read; [`Error::OtherData`] where the run's own are not what they were; a device that cannot be had.
pub fn evaluate(
    trained: &Trained,
    options: &EvalOptions,
    folder: &Path,
    progress: impl FnMut(Progress<'_>),
) -> Result<Evaluation> {
    if let Some(batches) = options.batches {
        require(batches > 0, "batches", "at least 1", batches)?;
    }
    require(options.scored != 1, "scores", "0, or at least 2", options.scored)?;
    check_downstream("downstream", options.downstream)?;
    let _lease = Lease::on(options.device, false)?;
    let (mut config, tokens): (RunConfig, _) = (trained.run().clone(), folder.join("tokens"));
    let tokenizers = trained.tokenizers_on(options.device)?;
    let prepared = if options.sources.is_empty() {
        // Before anything is written: tokens of other documents would take the place of the run's own.
        for made in trained.folder().into_iter().chain([folder]) {
            unchanged_sources(&config.data.sources(), made).map_err(other_documents)?;
        }
        let dataset = mom_data::Dataset::prepare(&config.data.sources(), &tokenizers, &tokens, progress)?;
        let prepared = Prepared::of(tokenizers.clone(), dataset);
        if format!("{:016x}", prepared.fingerprint()) != trained.data() {
            let what = "its documents are not those that the model was trained and validated on".to_owned();
            return Err(other_documents(Error::OtherData { path: tokens, what }));
        }
        prepared
    } else {
        // All of a pass, where nobody says how much.
        config.train.eval_batches = usize::MAX;
        Prepared::to_evaluate(&options.sources, tokenizers.clone(), &tokens, progress)?
    };
    let (model, _) = trained.model(options.device, options.precision)?;
    let mut loader = prepared.validation_loader(&config)?;
    let mut left = options.batches.unwrap_or(config.train.eval_batches);
    let batches = std::iter::from_fn(|| {
        left = left.checked_sub(1)?;
        let batch = loader.next_batch_of_pass().transpose()?;
        Some(batch.and_then(|batch| HeldOut::new(batch, &tokenizers)))
    });
    let Validation { step, by_modality, joint, bits_per_byte } = validate(&model, batches, trained.step())?;
    let generator = Generator::of(model, tokenizers.clone(), trained.run());
    let scores = match options.scored {
        0 => Vec::new(),
        n => scores::scores(trained.run(), &prepared, &generator, n)?,
    };
    let own = trained.run().data.sources();
    let sources = if options.sources.is_empty() { &own } else { &options.sources };
    let downstream = match options.downstream {
        0 => None,
        n => {
            let told = downstream(trained.run(), sources, &prepared, &generator, n)?;
            // Nothing would be told, and nobody would know why.
            let expected = format!("0 for these data: {}", told.notes.join("; "));
            require(!told.figures.is_empty(), "downstream", &expected, n)?;
            Some(told)
        }
    };
    let named = trained.config().setting.modalities().iter().zip(&by_modality).filter(|(_, loss)| loss.count > 0);
    Ok(Evaluation {
        step,
        loss: named.map(|(name, loss)| ((*name).to_owned(), loss.mean())).collect(),
        joint,
        bits_per_byte,
        n_targets: by_modality.iter().map(|loss| loss.count).sum(),
        scores,
        downstream,
    })
}
