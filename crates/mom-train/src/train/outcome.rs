//! What comes of a step and of a validation.

use mom_models::ModalityLoss;

/// One optimiser step.
#[derive(Debug, Clone, PartialEq)]
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

/// One validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Validation {
    /// Steps done.
    pub step: u64,
    /// By modality of the target.
    pub by_modality: Vec<ModalityLoss>,
    /// What is trained on, over all modalities, but for the z-loss.
    pub joint: f64,
    /// The loss of text in bits for each byte of it, which runs of two tokenizers can be compared by: the loss of a text
    /// target by the bytes that a text token stands for on average. `None` without text.
    pub bits_per_byte: Option<f64>,
}
