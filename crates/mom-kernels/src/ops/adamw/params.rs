//! Arguments of the update.

use std::mem::offset_of;

use cudarc::driver::{DeviceRepr, ValidAsZeroBits};

use crate::runtime::{DeviceMut, DeviceRef};

pub(super) const OP: &str = "adamw";

/// Constants of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Number of this step, from 1.
    pub step: u32,
}

/// The part of a step's constants that changes from one step to the next, in device memory: a captured graph reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRecord {
    /// Learning rate.
    pub lr: f32,
    /// Number of this step, from 1; zero counts as 1.
    pub step: u32,
    /// Where the norm of the gradients is larger, [`adamw_if_finite`](super::adamw_if_finite) writes nothing; 0 where it is
    /// only not to be infinite.
    pub skip_above: f32,
}
const _: () = assert!(size_of::<StepRecord>() == 12 && offset_of!(StepRecord, skip_above) == 8);
// SAFETY: a plain struct of numbers in C layout.
unsafe impl DeviceRepr for StepRecord {}
// SAFETY: zeros are numbers.
unsafe impl ValidAsZeroBits for StepRecord {}

/// Where a step's constants come from.
#[derive(Debug, Clone)]
pub enum Step<'a> {
    /// The host.
    Host(AdamWStep),
    /// `lr` and `step` of device memory, instead of those of `constants`. Corrections are made of them on the device,
    /// in f64.
    Device {
        /// `(1)`.
        record: DeviceRef<'a, StepRecord>,
        /// The rest.
        constants: AdamWStep,
    },
}

impl From<AdamWStep> for Step<'_> {
    fn from(constants: AdamWStep) -> Self {
        Self::Host(constants)
    }
}

/// A bound on the global norm of the gradients.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Clip<'a> {
    /// `(1)`: the norm, from [`global_norm`](super::global_norm).
    pub norm: DeviceRef<'a, f32>,
    /// Gradients are scaled down to this norm where theirs is larger.
    pub max_norm: f32,
}

/// A tensor to be updated; all of one length. Gradients are of the weights' type or f32.
#[derive(Debug)]
#[non_exhaustive]
pub struct AdamWTensor<'a, G, W = G> {
    /// Its gradient.
    pub grad: DeviceRef<'a, G>,
    /// The weights, in and out.
    pub master: DeviceMut<'a, f32>,
    /// First moment, in and out; zero before the first step.
    pub first: DeviceMut<'a, f32>,
    /// Second moment, in and out; zero before the first step.
    pub second: DeviceMut<'a, f32>,
    /// The weights rounded to their type, overwritten, if asked for.
    pub weight: Option<DeviceMut<'a, W>>,
    /// Weight decay of this tensor.
    pub weight_decay: f32,
}

impl AdamWStep {
    /// A step with the usual constants: 0.9, 0.999 and 1e-8.
    pub const fn new(lr: f64, step: u32) -> Self {
        Self { lr, beta1: 0.9, beta2: 0.999, eps: 1e-8, step }
    }

    /// With other decays of the moments.
    #[must_use]
    pub const fn with_betas(self, beta1: f64, beta2: f64) -> Self {
        Self { beta1, beta2, ..self }
    }

    /// With another term in the denominator.
    #[must_use]
    pub const fn with_eps(self, eps: f64) -> Self {
        Self { eps, ..self }
    }

    /// With another learning rate.
    #[must_use]
    pub const fn with_lr(self, lr: f64) -> Self {
        Self { lr, ..self }
    }

    /// The same constants in another step.
    #[must_use]
    pub const fn with_step(self, step: u32) -> Self {
        Self { step, ..self }
    }
}

impl<'a> Clip<'a> {
    /// Gradients of this norm, scaled down to `max_norm`.
    pub fn new(norm: DeviceRef<'a, f32>, max_norm: f32) -> Self {
        Self { norm, max_norm }
    }
}

impl<'a, G, W> AdamWTensor<'a, G, W> {
    /// A gradient, and the weights with their first and second moment; no decay.
    pub fn new(
        grad: DeviceRef<'a, G>,
        master: DeviceMut<'a, f32>,
        first: DeviceMut<'a, f32>,
        second: DeviceMut<'a, f32>,
    ) -> Self {
        Self { grad, master, first, second, weight: None, weight_decay: 0.0 }
    }

    /// And the weights rounded to their type.
    #[must_use]
    pub fn with_weight(self, weight: impl Into<Option<DeviceMut<'a, W>>>) -> Self {
        Self { weight: weight.into(), ..self }
    }

    /// With weight decay.
    #[must_use]
    pub fn with_weight_decay(self, weight_decay: f32) -> Self {
        Self { weight_decay, ..self }
    }
}
