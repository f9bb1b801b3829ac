//! Continuous image patches in and out of the residual stream (Transfusion): by a linear layer, or by a U-Net.

mod linear;
mod unet;

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use mom_core::{Init, convert, to_device};
use serde::{Deserialize, Serialize};

pub use linear::LinearPatcher;
pub(crate) use unet::side;
pub use unet::{PatchOrder, Pictures, Skips, UnetConfig, UnetPatcher};

use crate::diffusion::Noise;
use crate::layers::Ids;
use crate::{Error, ImagePatches, ModelConfig, Result, diffusion};

/// Width of the sinusoidal timestep embedding.
const TIME_FEATURES: usize = 256;

/// How patches come into the residual stream and out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatcherKind {
    /// A linear layer each, and an embedding of the timestep.
    #[default]
    Linear,
    /// The way down and the way up of a U-Net.
    Unet,
}

impl PatcherKind {
    /// Name: `linear` or `unet`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Unet => "unet",
        }
    }
}

impl fmt::Display for PatcherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PatcherKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Linear, Self::Unet].into_iter().find(|kind| kind.name() == name).ok_or_else(|| Error::Config {
            field: "patcher",
            expected: "linear or unet".to_owned(),
            got: name.to_owned(),
        })
    }
}

/// The patcher of a model. Parameters: those of [`LinearPatcher`] or of [`UnetPatcher`].
#[derive(Debug, Clone)]
pub enum Patcher {
    /// See [`LinearPatcher`].
    Linear(Box<LinearPatcher>),
    /// See [`UnetPatcher`].
    Unet(Box<UnetPatcher>),
}

/// The pictures of a batch, as a patcher reads them.
#[derive(Debug, Clone)]
pub enum Images {
    /// Image of each patch.
    Linear(Ids),
    /// The grids of the pictures.
    Unet(Pictures),
}

impl Patcher {
    /// The patcher of a configuration, with the parameters of `vb`.
    ///
    /// # Errors
    /// Sizes out of range; a parameter that is missing or of another shape.
    pub fn new(config: &ModelConfig, init: &Init, vb: VarBuilder) -> Result<Self> {
        let (d_model, patch_dim) = (config.scale.d_model, config.patch_dim);
        Ok(match &config.unet {
            None => Self::Linear(Box::new(LinearPatcher::new(d_model, patch_dim, init, vb)?)),
            Some(unet) => Self::Unet(Box::new(UnetPatcher::new(unet, d_model, patch_dim, init, &vb)?)),
        })
    }

    /// Number of parameters of a configuration's patcher.
    pub fn n_parameters(config: &ModelConfig) -> usize {
        let (d_model, patch_dim) = (config.scale.d_model, config.patch_dim);
        match &config.unet {
            None => LinearPatcher::n_parameters(d_model, patch_dim),
            Some(unet) => unet.n_parameters(d_model, patch_dim),
        }
    }

    /// The pictures of patches, whose images are given: ascending, without gaps.
    ///
    /// # Errors
    /// A picture that is no square, for a U-Net; out of memory.
    pub fn images(&self, images: &[u32], device: &Device) -> Result<Images> {
        Ok(match self {
            Self::Linear(_) => Images::Linear(Ids::new(images, device)?),
            Self::Unet(_) => Images::Unet(Pictures::new(images, device)?),
        })
    }

    /// Noisy patches into the residual stream, and what a U-Net's way up needs of them.
    ///
    /// `patches`: `(n_patches, patch_dim)`; `images`: of this patcher's [`Self::images`]; `time_features`: `(n_images, 256)`, of
    /// each image. Returns `(n_patches, d_model)`.
    ///
    /// # Errors
    /// Sizes that disagree, images of another kind of patcher, an unsupported element type or device.
    pub fn embed(&self, patches: &Tensor, images: &Images, time_features: &Tensor) -> Result<(Tensor, Option<Skips>)> {
        match (self, images) {
            (Self::Linear(linear), Images::Linear(images)) => Ok((linear.embed(patches, images, time_features)?, None)),
            (Self::Unet(unet), Images::Unet(pictures)) => {
                let (x, skips) = unet.embed(patches, pictures, time_features)?;
                Ok((x, Some(skips)))
            }
            _ => Err(other_kind()),
        }
    }

    /// The noise that the model sees in the patches: `(n_patches, d_model)` to `(n_patches, patch_dim)`.
    ///
    /// # Errors
    /// Images or skips of another kind of patcher or other patches; an unsupported element type or device.
    pub fn predict(&self, x: &Tensor, images: &Images, skips: Option<&Skips>) -> Result<Tensor> {
        match (self, images, skips) {
            (Self::Linear(linear), Images::Linear(_), None) => linear.predict(x),
            (Self::Unet(unet), Images::Unet(pictures), Some(skips)) => unet.predict(x, pictures, skips),
            _ => Err(other_kind()),
        }
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

fn other_kind() -> Error {
    crate::error::config("patcher", "that of the pictures", "another kind")
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
