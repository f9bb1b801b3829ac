//! What comes of a step and of a validation.

use mom_models::ModalityLoss;

use crate::Origin;

/// One optimiser step.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// Its number, counted from 1.
    pub step: u64,
    /// What was trained on: all parts, weighted.
    pub loss: f64,
    /// By modality of the target.
    pub by_modality: Vec<ModalityLoss>,
    /// Global norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
}

/// Batches that were passed over, since a step over them could not be taken.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Skipped {
    /// The step that was made of the next batches instead.
    pub step: u64,
    /// What was wrong: not finite, or standing out.
    pub what: String,
    /// It.
    pub value: f64,
    /// Where it comes from.
    pub origin: Origin,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}: {} is {}; its batches were skipped.{}", self.step, self.what, self.value, self.origin)
    }
}

/// One validation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Validation {
    /// Steps done.
    pub step: u64,
    /// By modality of the target.
    pub by_modality: Vec<ModalityLoss>,
    /// What is trained on, over all modalities, but for the z-loss.
    pub joint: f64,
    /// The loss of text in bits for each byte of it, which runs of two tokenizers can be compared by: the nats of all text
    /// targets, special tokens among them, over ln 2 and over the bytes that the same targets stand for. `None` without text.
    pub bits_per_byte: Option<f64>,
}
