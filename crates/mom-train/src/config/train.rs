//! `[train]`: the course of a run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{DeviceKind, DistSection, Graph, Precision, Recompute};
use crate::Result;
use crate::error::require;

/// The course of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSection {
    /// Optimiser steps.
    pub steps: u64,
    /// Batches whose gradients make a step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Seed of weights, data order and noise.
    #[serde(default)]
    pub seed: u64,
    /// Seed of the initial weights alone, where it is another than that of data order and noise. Two runs that differ in nothing
    /// else tell how much of a difference is chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_seed: Option<u64>,
    /// What weights start from, instead of draws: a run, one of its checkpoints, an export, or a file of weights under the
    /// published names. Weights alone: data, steps and optimiser are this run's. Where a projection has weights for each modality
    /// and those have one for all, each starts as that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
    /// Steps from one validation to the next; the last step has one in any case.
    #[serde(default = "eval_every")]
    pub eval_every: u64,
    /// Batches of the held-out split that a validation looks at.
    #[serde(default = "eval_batches")]
    pub eval_batches: usize,
    /// Steps from one checkpoint to the next; the last step has one in any case.
    #[serde(default = "checkpoint_every")]
    pub checkpoint_every: u64,
    /// The newest checkpoints that are kept.
    #[serde(default = "keep_checkpoints")]
    pub keep_checkpoints: usize,
    /// Checkpoints of steps that this divides are kept too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<u64>,
    /// The checkpoint with the lowest validation loss of this name is kept too, and written when that is measured: a
    /// modality, or joint for what is trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<String>,
    /// Steps from one set of samples to the next: held-out captions are drawn and spoken, pictures and speech described, into the
    /// run's `samples/` and TensorBoard. The last step then has samples too. If absent, there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_every: Option<u64>,
    /// Held-out documents of each kind whose truth the model is asked for at the last step, at least 16 (`eval --downstream`): the
    /// figures stand in `result.json`. 0 is none; a run that ended with another number is asked when it is started again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub downstream: usize,
    /// Steps at which the run is brought to an end on the way, ascending (`optimizer.schedule = "wsd"`): where the decay of a run of so
    /// many steps would begin, a copy of it is trained through that decay, in memory, and validated. The run itself goes on as if
    /// nothing had been.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub horizons: Vec<u64>,
    /// Decay of an exponential moving average of the weights, below 1: it is validated beside them, lies in checkpoints, and can be
    /// evaluated, exported and decoded in their place. Its first steps decay faster: (1 + step) / (10 + step) at most. Turned on
    /// in the middle of a run it begins with the weights of that step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// What is done about a step whose loss or gradient is not finite, or stands out.
    #[serde(default, skip_serializing_if = "OnSpike::is_stop")]
    pub on_spike: OnSpike,
    /// A gradient stands out if its norm is more than this times the median of the last 128 steps' norms, once there are 32.
    /// If absent, none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spike_factor: Option<f64>,
    /// Where it runs.
    #[serde(default)]
    pub device: DeviceKind,
    /// Element type of projections and activations: f32, or bf16 on a GPU, where it is the default. Masters, moments,
    /// states, losses and sums are f32 in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Precision>,
    /// What the backward pass computes again instead of keeping it, on a GPU.
    #[serde(default, skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// Whether a step on a GPU is a captured graph.
    #[serde(default, skip_serializing_if = "Graph::is_auto")]
    pub graph: Graph,
    /// How several ranks work together.
    #[serde(default)]
    pub dist: DistSection,
}

/// What is done about a step that cannot be taken, or whose gradient stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnSpike {
    /// Training ends with an error.
    #[default]
    Stop,
    /// Its batches are passed over, and the step is made of the next ones.
    Skip,
}

impl OnSpike {
    fn is_stop(&self) -> bool {
        *self == Self::Stop
    }
}

/// Which checkpoints stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keep {
    /// So many of the newest.
    pub last: usize,
    /// Those of steps that this divides.
    pub every: Option<u64>,
    /// The one with the lowest validation loss of this name.
    pub best: Option<String>,
}

impl TrainSection {
    /// Seed of the initial weights.
    pub fn seed_of_weights(&self) -> u64 {
        self.init_seed.unwrap_or(self.seed)
    }

    pub(crate) fn keep(&self) -> Keep {
        Keep { last: self.keep_checkpoints, every: self.keep_every, best: self.keep_best.clone() }
    }
}

/// Documents whose truth a model is asked for, at least: texts that one is picked of.
pub const CANDIDATES: usize = 16;

/// Checks a number of documents whose truth a model is asked for; 0 is none.
///
/// # Errors
/// Some, but fewer than [`CANDIDATES`].
pub(crate) fn check_downstream(field: &'static str, n: usize) -> Result<()> {
    require(n == 0 || n >= CANDIDATES, field, &format!("0, or at least {CANDIDATES}"), n)
}

const fn is_zero(n: &usize) -> bool {
    *n == 0
}

const fn one() -> usize {
    1
}

const fn eval_every() -> u64 {
    100
}

const fn eval_batches() -> usize {
    8
}

const fn checkpoint_every() -> u64 {
    500
}

const fn keep_checkpoints() -> usize {
    2
}
