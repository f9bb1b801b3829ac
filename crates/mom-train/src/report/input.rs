//! What the report is made from: finished runs, and the circumstances of the sweep.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ReportError;

/// One finished training run, as the trainer leaves it in its run folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunResult {
    /// "transfusion", "chameleon" or "three-modality".
    pub setting: String,
    /// "dense", "mom", one or more of "in", "x", "dt", "out" joined by "+", "published", or a baseline's name.
    pub variant: String,
    /// Seed of weights and data order; runs are compared with the dense run of the same seed.
    pub seed: u64,
    /// Name of the model size.
    pub scale: String,
    /// Modalities of the setting.
    pub modalities: Vec<ModalityInfo>,
    /// Validation losses, in ascending order of step.
    pub curve: Vec<EvalPoint>,
    /// Optimiser steps of the run.
    pub steps: u64,
    /// Training tokens seen.
    pub tokens: u64,
    /// FLOPs of forward and backward per token, of the weights that a token meets.
    pub active_flops_per_token: f64,
    /// Wall-clock time of training, in seconds.
    pub wall_secs: f64,
    /// Highest memory use of the run, in bytes.
    pub peak_memory_bytes: u64,
    /// Weights of all modalities together.
    pub total_parameters: u64,
    /// Weights that a token meets.
    pub active_parameters: u64,
}

/// A modality and how its loss is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModalityInfo {
    /// "text", "image" or "speech".
    pub name: String,
    /// The loss in words, with its unit: "cross-entropy (nats per token)", "diffusion (MSE of epsilon)".
    pub loss: String,
}

/// One evaluation on the validation set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalPoint {
    /// Optimiser steps done.
    pub step: u64,
    /// Training tokens seen.
    pub tokens: u64,
    /// Wall-clock time since the start of training, in seconds.
    pub wall_secs: f64,
    /// Loss by modality name; a loss that is not finite is `null` in JSON and comes back as NaN.
    #[serde(with = "nullable")]
    pub loss: BTreeMap<String, f64>,
}

/// How the runs came about; printed in the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportHeader {
    /// Title of the report.
    pub title: String,
    /// The command that made it.
    pub command: String,
    /// Commit of the source, when known.
    pub commit: Option<String>,
    /// Processor and system.
    pub machine: String,
    /// What the runs computed on.
    pub device: String,
    /// Threads per run.
    pub threads: usize,
    /// Time of the report, in seconds since 1970-01-01 UTC.
    pub created_unix_secs: u64,
    /// What a reader should know, such as how initial weights are drawn.
    pub notes: Vec<String>,
    /// Runs planned but not finished.
    pub missing: Vec<String>,
    /// Settings of the sweep, by name.
    pub config: Vec<(String, String)>,
}

/// Refuses runs that the report could only misrepresent.
pub(super) fn check(runs: &[RunResult]) -> Result<(), ReportError> {
    let mut seen = BTreeSet::new();
    for run in runs {
        if !seen.insert((&run.setting, &run.scale, &run.variant, run.seed)) {
            return Err(ReportError::DuplicateRun {
                setting: run.setting.clone(),
                scale: run.scale.clone(),
                variant: run.variant.clone(),
                seed: run.seed,
            });
        }
        for pair in run.curve.windows(2) {
            let (previous, step) = (pair[0].step, pair[1].step);
            if step <= previous {
                let run = format!("{}/{}/{}", run.setting, run.variant, run.seed);
                return Err(ReportError::UnorderedCurve { run, previous, step });
            }
        }
    }
    Ok(())
}

/// Losses in JSON, which has no NaN: `null` stands for every value that is not finite.
mod nullable {
    use super::BTreeMap;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(loss: &BTreeMap<String, f64>, to: S) -> Result<S::Ok, S::Error> {
        let nullable: BTreeMap<&String, Option<f64>> =
            loss.iter().map(|(name, &value)| (name, value.is_finite().then_some(value))).collect();
        nullable.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let nullable = BTreeMap::<String, Option<f64>>::deserialize(from)?;
        Ok(nullable.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
    }
}
