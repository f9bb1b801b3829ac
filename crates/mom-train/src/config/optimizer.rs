//! `[optimizer]`: AdamW and its learning rates.

use serde::{Deserialize, Serialize};

/// The course of the learning rate behind the warm-up, over the steps that a run is asked for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine down to the final rate.
    #[default]
    Cosine,
    /// A line down to the final rate.
    Linear,
    /// The highest rate to the end.
    Constant,
    /// Warm-up, stable, decay: the highest rate, then a line down to the final rate over the last `decay_steps`.
    Wsd,
}

/// AdamW with a warm-up and a schedule. Weight decay is decoupled and spares A_log, D, biases and norms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSection {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Learning rate of the last step.
    pub final_learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// The course behind the warm-up: cosine, linear, constant or wsd.
    pub schedule: Schedule,
    /// Steps of the decay at the end of wsd; a tenth of all steps if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_steps: Option<u64>,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest global norm of the gradient.
    pub clip_norm: f64,
}

impl OptimizerSection {
    /// That of a copy of a run of `n_steps` that is brought to an end at `end`, and the step at which it parts from the run: its decay
    /// has the same share of its steps as the run's (`wsd`).
    pub(crate) fn branch(&self, end: u64, n_steps: u64) -> (Self, u64) {
        let decay = self.decay_steps.unwrap_or(n_steps / 10);
        let decay = ((decay as f64 * end as f64 / n_steps.max(1) as f64).round() as u64).max(1);
        let from = end.saturating_sub(decay).max(self.warmup_steps);
        (Self { decay_steps: Some(decay), ..*self }, from)
    }
}

impl Default for OptimizerSection {
    /// Those of the Transfusion setting in the paper's table.
    fn default() -> Self {
        Self {
            learning_rate: 3e-4,
            final_learning_rate: 1.5e-5,
            warmup_steps: 4000,
            schedule: Schedule::Cosine,
            decay_steps: None,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
        }
    }
}
