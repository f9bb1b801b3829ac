//! Samples to frames: convolutions without padding, each with GELU, and a norm in the first one or in all.
//!
//! Source: Baevski et al. 2020 (wav2vec 2.0, arXiv 2006.11477), section 2.

use candle_core::Tensor;

use super::config::HubertSettings;
use crate::Result;
use crate::codecs::Settings;
use crate::codecs::layers::{Activation, Conv1d, GroupNorm, LayerNorm, Map};
use crate::codecs::network::Scope;

#[derive(Debug, Clone)]
enum Norm {
    None,
    /// Each channel over time.
    Channels(GroupNorm),
    /// Each frame over channels.
    Frames(LayerNorm),
}

/// The convolutions.
#[derive(Debug, Clone)]
pub(super) struct Features {
    layers: Vec<(Conv1d, Norm)>,
    /// Channels of frames.
    pub n_out: usize,
}

impl Features {
    pub fn new(settings: &HubertSettings, origin: &Settings, layer_norms: bool, scope: &Scope<'_>) -> Result<Self> {
        let stated = settings.conv_stride.as_ref().map_or(0, Vec::len);
        let n_layers = scope.count("conv_layers.").max(stated);
        if let Some(strides) = settings.conv_stride.as_ref().filter(|strides| strides.len() < n_layers) {
            return Err(origin.error("conv_stride", format!("{n_layers} strides"), strides.len()));
        }
        let mut n = 1;
        let mut layers = Vec::with_capacity(n_layers);
        for i in 0..n_layers {
            let scope = scope.pp("conv_layers").pp(i);
            let (n_out, kernel) = (scope.side("conv.weight", 0, 3)?, scope.side("conv.weight", 2, 3)?);
            let stride = match (&settings.conv_stride, kernel) {
                (Some(strides), _) => strides[i],
                (None, 10) => 5,
                (None, 2 | 3) => 2,
                (None, _) => {
                    return Err(origin.error("conv_stride", "stated for kernels other than 10, 3 and 2", kernel));
                }
            };
            let bias = scope.has("conv.bias");
            let conv = Conv1d::new(n, n_out, kernel, bias, &scope.pp("conv"))?.with_stride(stride);
            let norm = if layer_norms {
                Norm::Frames(LayerNorm::new(n_out, 1e-5, &scope.pp("layer_norm"))?)
            } else if i == 0 {
                Norm::Channels(GroupNorm::new(n_out, n_out, 1e-5, &scope.pp("layer_norm"))?)
            } else {
                Norm::None
            };
            layers.push((conv, norm));
            n = n_out;
        }
        Ok(Self { layers, n_out: n })
    }

    /// Samples from a frame to the next.
    pub fn hop(&self) -> usize {
        self.layers.iter().map(|(conv, _)| conv.stride()).fold(1, usize::saturating_mul)
    }

    /// Samples that one frame depends on.
    pub fn reach(&self) -> usize {
        self.layers
            .iter()
            .rev()
            .fold(1, |n: usize, (conv, _)| (n - 1).saturating_mul(conv.stride()).saturating_add(conv.reach().max(1)))
    }

    /// `(batch, 1, samples)` to `(batch, frames, n_out)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = Map::new(x)?;
        for (conv, norm) in &self.layers {
            x = conv.forward(&x, [0; 2])?;
            x = match norm {
                Norm::None => x.each(Tensor::gelu_erf)?,
                Norm::Channels(norm) => norm.forward(&x, Activation::Gelu)?,
                Norm::Frames(norm) => x.with_rows(&norm.forward(&x.rows()?)?)?.each(Tensor::gelu_erf)?,
            };
        }
        x.rows()
    }
}
