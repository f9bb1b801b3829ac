//! The linear patcher.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mom_core::ops::{add, silu};
use mom_core::{Draw, Init};

use super::TIME_FEATURES;
use crate::Result;
use crate::layers::{Ids, Linear, embedding};

/// Linear patch embedding plus timestep embedding; linear output.
///
/// Parameters: `patch_in` (patch_dim -> d_model), `time_in` (256 -> d_model), SiLU, `time_out` (d_model -> d_model),
/// `patch_out` (d_model -> patch_dim, zero at the start, so that the first prediction of the noise is its mean).
#[derive(Debug, Clone)]
pub struct LinearPatcher {
    patch_in: Linear,
    time_in: Linear,
    time_out: Linear,
    patch_out: Linear,
}

impl LinearPatcher {
    /// A patcher with the parameters of `vb`.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(d_model: usize, patch_dim: usize, init: &Init, vb: VarBuilder) -> Result<Self> {
        let uniform = |n_in: usize| Draw::Uniform((n_in as f64).powf(-0.5));
        Ok(Self {
            patch_in: Linear::new(patch_dim, d_model, uniform(patch_dim), init, vb.pp("patch_in"))?,
            time_in: Linear::new(TIME_FEATURES, d_model, uniform(TIME_FEATURES), init, vb.pp("time_in"))?,
            time_out: Linear::new(d_model, d_model, uniform(d_model), init, vb.pp("time_out"))?,
            patch_out: Linear::new(d_model, patch_dim, Draw::Constant(0.0), init, vb.pp("patch_out"))?,
        })
    }

    /// Number of its parameters.
    pub const fn n_parameters(d_model: usize, patch_dim: usize) -> usize {
        Linear::n_parameters(patch_dim, d_model)
            + Linear::n_parameters(TIME_FEATURES, d_model)
            + Linear::n_parameters(d_model, d_model)
            + Linear::n_parameters(d_model, patch_dim)
    }

    /// Noisy patches into the residual stream.
    ///
    /// `patches`: `(n_patches, patch_dim)`; `images`: image of each patch; `time_features`: `(n_images, 256)`, of each image.
    /// Returns `(n_patches, d_model)`.
    ///
    /// # Errors
    /// Sizes that disagree, an unsupported element type or device.
    pub fn embed(&self, patches: &Tensor, images: &Ids, time_features: &Tensor) -> Result<Tensor> {
        let time = self.time_out.forward(&silu(&self.time_in.forward(time_features)?)?)?;
        Ok(add(&self.patch_in.forward(patches)?, &embedding(&time, images)?)?)
    }

    /// The noise that the model sees in the patches: `(n_patches, d_model)` to `(n_patches, patch_dim)`.
    ///
    /// # Errors
    /// An unsupported element type or device.
    pub fn predict(&self, x: &Tensor) -> Result<Tensor> {
        self.patch_out.forward(x)
    }
}
