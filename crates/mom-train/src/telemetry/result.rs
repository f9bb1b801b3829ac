//! What a run leaves when it is done: its curve and its figures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Downstream;
use crate::RunConfig;
use crate::config::JOINT;

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
    /// Losses where the run was brought to an end on the way (`train.horizons`), in ascending order of step; the last end is the
    /// curve's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub horizons: Vec<EvalPoint>,
    /// What its model tells of the truth of held-out documents (`train.downstream`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downstream: Option<Downstream>,
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

impl RunResult {
    /// Whether its model was asked about as many documents as a configuration says, or more.
    pub(crate) fn has_downstream(&self, config: &RunConfig) -> bool {
        self.downstream.as_ref().map_or(0, |of| of.documents) >= config.train.downstream
    }
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
    /// What is trained on, over all modalities; not finite is `null` in JSON.
    #[serde(deserialize_with = "nullable::one")]
    pub joint: f64,
    /// Loss by modality name; a loss that is not finite is `null` in JSON and comes back as NaN.
    #[serde(with = "nullable")]
    pub loss: BTreeMap<String, f64>,
    /// Text's loss in bits for each byte of it, where there is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
}

impl EvalPoint {
    /// A loss by name: a modality's, or the joint one.
    pub(crate) fn named(&self, name: &str) -> Option<f64> {
        if name == JOINT { Some(self.joint) } else { self.loss.get(name).copied() }
    }
}

/// The step with the lowest loss of a name among some; the first of several.
pub(crate) fn best_step(curve: &[EvalPoint], name: &str, steps: &[u64]) -> Option<u64> {
    let losses = curve.iter().filter(|point| steps.contains(&point.step));
    let losses = losses.filter_map(|point| Some((point.step, point.named(name).filter(|loss| loss.is_finite())?)));
    losses.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(step, _)| step)
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

    pub(super) fn one<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
    }
}
