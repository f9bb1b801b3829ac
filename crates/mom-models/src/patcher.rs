//! Continuous image patches in and out of the residual stream (Transfusion, with the linear patcher).

use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use mom_core::ops::{add, silu};
use mom_core::{Draw, Init, convert, to_device};

use crate::diffusion::Noise;
use crate::layers::{Ids, Linear, embedding};
use crate::{ImagePatches, Result, diffusion};

/// Width of the sinusoidal timestep embedding.
const TIME_FEATURES: usize = 256;

/// Linear patch embedding plus timestep embedding; linear output.
///
/// Parameters: `patch_in` (patch_dim -> d_model), `time_in` (256 -> d_model), SiLU, `time_out` (d_model -> d_model),
/// `patch_out` (d_model -> patch_dim, zero at the start, so that the first prediction of the noise is its mean).
#[derive(Debug, Clone)]
pub struct Patcher {
    patch_in: Linear,
    time_in: Linear,
    time_out: Linear,
    patch_out: Linear,
}

impl Patcher {
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

    /// Features of timesteps, `(timesteps.len(), 256)`, where a tensor of the model is and in its element type.
    ///
    /// # Errors
    /// Out of memory.
    pub fn time_features(timesteps: &[u32], like: &Tensor) -> Result<Tensor> {
        let (features, shape) = (features(timesteps), (timesteps.len(), TIME_FEATURES));
        let tensor = if like.device().is_cpu() {
            Tensor::from_vec(features, shape, &Device::Cpu)?
        } else {
            let narrow: Vec<f32> = features.into_iter().map(|feature| feature as f32).collect();
            to_device(&narrow, shape, like.device())?
        };
        Ok(convert(&tensor, like.dtype())?)
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

    /// Patches with their noise, in the element type of `like`, and the noise alone, in f32: `(n_patches, patch_dim)` both.
    pub(crate) fn noised(noise: &Noise, patches: &ImagePatches<'_>, like: &Tensor) -> Result<(Tensor, Tensor)> {
        let (n, device) = (patches.len(), like.device());
        let patch_dim = patches.values.len() / n.max(1);
        let epsilon = to_device(&noise.epsilon, (n, patch_dim), device)?;
        // On the device: the host has a batch to make meanwhile.
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let clean = to_device(patches.values, (n, patch_dim), device)?;
            let noisy = crate::cuda::noised(&clean, &epsilon, &noise.factors(patches.images), like)?;
            return Ok((noisy, epsilon));
        }
        let noisy = noise.add_to(patches.values, patches.images);
        Ok((Self::tensor(&noisy, patch_dim, like)?, epsilon))
    }

    /// Patches from the host where a tensor of the model is, in its element type.
    pub(crate) fn tensor(values: &[f32], patch_dim: usize, like: &Tensor) -> Result<Tensor> {
        let shape = (values.len() / patch_dim.max(1), patch_dim);
        Ok(convert(&to_device(values, shape, like.device())?, like.dtype())?)
    }
}

/// Features of timesteps, row after row. Those of the schedule are computed once: a batch has hundreds of images, and a
/// GPU waits for them.
fn features(timesteps: &[u32]) -> Vec<f64> {
    static KNOWN: LazyLock<Vec<f64>> = LazyLock::new(|| {
        (0..diffusion::N_TIMESTEPS).flat_map(|t| diffusion::time_features(t, TIME_FEATURES)).collect()
    });
    let mut features = Vec::with_capacity(timesteps.len() * TIME_FEATURES);
    for &t in timesteps {
        match KNOWN.chunks_exact(TIME_FEATURES).nth(t as usize) {
            Some(known) => features.extend(known),
            None => features.extend(diffusion::time_features(t, TIME_FEATURES)),
        }
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_features_are_the_computed_ones() {
        let timesteps = [999, 0, 17, 1000, 17];
        let want: Vec<f64> = timesteps.iter().flat_map(|&t| diffusion::time_features(t, TIME_FEATURES)).collect();
        assert_eq!(features(&timesteps), want);
    }
}
