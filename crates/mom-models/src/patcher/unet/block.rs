//! Layers of the U-Net with their parameters.

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mom_core::{Draw, Init};

use super::convolve::convolve;
use super::norm::{group_norm_silu, n_groups};
use super::taps::Taps;
use crate::Result;
use crate::layers::Linear;

/// A 3 x 3 convolution. Parameters: `weight` (n_out, 3, 3, n_in), `bias` (n_out).
#[derive(Debug, Clone)]
pub(super) struct Conv {
    weight: Tensor,
    bias: Tensor,
}

/// The weight of a convolution without a bias of its own.
fn conv_weight(n_in: usize, n_out: usize, draw: Draw, init: &Init, vb: &VarBuilder) -> Result<Tensor> {
    Ok(init.parameter(vb, &[n_out, 3, 3, n_in], "weight", "weight", draw)?)
}

/// Uniform within one over the square root of the values that an output reads.
fn uniform(n_values: usize) -> Draw {
    Draw::Uniform((n_values as f64).powf(-0.5))
}

impl Conv {
    pub fn new(n_in: usize, n_out: usize, init: &Init, vb: &VarBuilder) -> Result<Self> {
        Self::drawn(n_in, n_out, uniform(9 * n_in), init, vb)
    }

    /// All zeros at the start.
    pub fn zero(n_in: usize, n_out: usize, init: &Init, vb: &VarBuilder) -> Result<Self> {
        Self::drawn(n_in, n_out, Draw::Constant(0.0), init, vb)
    }

    fn drawn(n_in: usize, n_out: usize, draw: Draw, init: &Init, vb: &VarBuilder) -> Result<Self> {
        let bias = init.precise(vb, &[n_out], "bias", "bias", Draw::Constant(0.0))?;
        Ok(Self { weight: conv_weight(n_in, n_out, draw, init, vb)?, bias })
    }

    /// `(n_pictures, n_in positions, n_in)` to `(n_pictures, n_out positions, n_out)`.
    pub fn forward(&self, x: &Tensor, taps: &Arc<Taps>) -> Result<Tensor> {
        let bias = self.bias.reshape((1, self.bias.elem_count()))?.to_dtype(x.dtype())?;
        convolve(x, &self.weight, &bias, taps)
    }
}

/// Group norm and SiLU. Parameters: `weight`, `bias` (channels).
#[derive(Debug, Clone)]
pub(super) struct NormSilu {
    weight: Tensor,
    bias: Tensor,
    n_groups: usize,
}

impl NormSilu {
    pub fn new(channels: usize, init: &Init, vb: &VarBuilder) -> Result<Self> {
        let parameter = |name, value| init.precise(vb, &[channels], name, name, Draw::Constant(value));
        let (weight, bias) = (parameter("weight", 1.0)?, parameter("bias", 0.0)?);
        Ok(Self { weight, bias, n_groups: n_groups(channels) })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        group_norm_silu(x, &self.weight, &self.bias, self.n_groups)
    }
}

/// A layer over the channels of each position.
pub(super) fn each_position(linear: &Linear, x: &Tensor) -> Result<Tensor> {
    let (n_pictures, n_positions, channels) = x.dims3()?;
    let y = linear.forward(&x.reshape((n_pictures * n_positions, channels))?)?;
    Ok(y.reshape((n_pictures, n_positions, ()))?)
}

/// `shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time(t))))`, as in Stable Diffusion's U-Net (arXiv 2112.10752):
/// the timestep is added to every channel, and conv2 is zero at the start, where a block is its shortcut. The shortcut is 1 x 1
/// where channels change, and nothing where they do not.
///
/// Of the frozen codecs' block (`codecs::autoencoder`) it has the order: that one has no timestep, weights as published, and no
/// backward pass.
#[derive(Debug, Clone)]
pub(super) struct ResnetBlock {
    norm1: NormSilu,
    /// Without a bias: that of the timestep is one.
    conv1: Tensor,
    time: Linear,
    norm2: NormSilu,
    conv2: Conv,
    shortcut: Option<Linear>,
}

impl ResnetBlock {
    pub fn new((n_in, n_out): (usize, usize), time_width: usize, init: &Init, vb: &VarBuilder) -> Result<Self> {
        let shortcut =
            if n_in == n_out { None } else { Some(Linear::new(n_in, n_out, uniform(n_in), init, vb.pp("shortcut"))?) };
        Ok(Self {
            norm1: NormSilu::new(n_in, init, &vb.pp("norm1"))?,
            conv1: conv_weight(n_in, n_out, uniform(9 * n_in), init, &vb.pp("conv1"))?,
            time: Linear::new(time_width, n_out, uniform(time_width), init, vb.pp("time"))?,
            norm2: NormSilu::new(n_out, init, &vb.pp("norm2"))?,
            conv2: Conv::zero(n_out, n_out, init, &vb.pp("conv2"))?,
            shortcut,
        })
    }

    /// `x`: `(n_pictures, n_positions, n_in)`; `time`: `(n_pictures, time_width)`, after its SiLU.
    pub fn forward(&self, x: &Tensor, time: &Tensor, taps: &Arc<Taps>) -> Result<Tensor> {
        let h = convolve(&self.norm1.forward(x)?, &self.conv1, &self.time.forward(time)?, taps)?;
        let h = self.conv2.forward(&self.norm2.forward(&h)?, taps)?;
        Ok(match &self.shortcut {
            Some(shortcut) => (each_position(shortcut, x)? + h)?,
            None => (x + h)?,
        })
    }
}
